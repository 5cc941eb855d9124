//! `[data]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated, with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// One sentence a line, its tokens as `word/tag` (Brown, People's Daily).
    WordTag,
    /// Questions and answers as in SQuAD v1.1 and v2.0: one JSON object with `data`, `paragraphs`, `qas`.
    Squad,
    /// One word a line with its tags in columns, an empty line between sentences (CoNLL).
    Conll,
}

impl DataFormat {
    /// What a file is by its name's ending.
    pub fn of(name: &str) -> Option<Self> {
        let ending = name.rsplit('/').next()?.rsplit_once('.')?.1.to_ascii_lowercase();
        match ending.as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "pos" | "tagged" => Some(Self::WordTag),
            "json" => Some(Self::Squad),
            "conll" | "bio" | "iob2" => Some(Self::Conll),
            _ => None,
        }
    }
}

/// The corpus, or the labelled examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Files, globs, or object-store URLs (`s3://`, `gs://`, `az://`). Relative paths start at the config file's folder.
    /// Credentials for an object store come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) of the coordinator,
    /// and of each worker that is to read from it itself; the others read through the coordinator.
    pub paths: Vec<String>,
    /// Text (Utf8, LargeUtf8, dictionary) or token ids (list of integers). For labelled data: the text, or the first text;
    /// for `answer` the passage; for `choose` what the choices are for. CoNLL: the number of the words' column, from 1.
    /// Default: the first.
    #[serde(default = "default_column")]
    pub column: String,
    /// Labelled pairs: the second text; for `answer` the question (default: `question`); for `choose` a question that is
    /// read before each choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_column: Option<String>,
    /// `choose`: the choices, 2 to 26 in a row. One name: a column that holds a list of texts, or two lists, `text` and
    /// `label`. Several names: columns that hold a choice each, the last of them empty in rows that have fewer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choice_columns: Vec<String>,
    /// `choose`: the number that labels have for the first choice, 0 or 1 (WinoGrande, Social IQA). Where the choices come
    /// with labels of their own, no number is needed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_choice: u32,
    /// Labelled data: the column of the class. For `tag` on Parquet or JSONL: the list of tags beside a list of words. For
    /// `answer`: `text` and `answer_start` (in characters, from 0) of each answer (default: `answers`). For
    /// `choose`: the right choice, by its number (`first_choice`), its letter from A, or its text; where the choices come
    /// with labels of their own, by that. CoNLL: the number of the tags' column, from 1. Default: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Labelled data: rows that have the same here are all trained on or all held out, chosen by the seed, so that nothing
    /// of what is held out was seen (questions on one passage, reviews by one person). SQuAD: `title` or `context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_column: Option<String>,
    /// What the files are. Default: by the file name's ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DataFormat>,
    /// Held-out files. Empty: `eval_fraction` of the units of `paths`, chosen by the seed, is held out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eval_paths: Vec<String>,
    /// Share of units held out where `eval_paths` is empty, 0 to 0.5.
    #[serde(default = "default_eval_fraction")]
    pub eval_fraction: f64,
    /// Labelled data: this one of `data.folds` parts is held out, from 0. The parts are about equally large and depend on
    /// nothing but the rows: not on the seed, nor on their order. Rows of one group (`data.group_column`, else rows with
    /// the same text) are in one part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<u32>,
    /// Labelled data: into how many parts the rows of `paths` are cut, of which `data.fold` is held out instead of
    /// `eval_fraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// Rows in one unit at most. Default: 4096 for text, 16 for labelled data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_rows: Option<u64>,
    /// Use only so many of the training rows, drawn by the seed (learning curves). Labelled data only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_rows: Option<u64>,
    /// Units that each slot prepares ahead in the background.
    #[serde(default = "default_prefetch")]
    pub prefetch_units: usize,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn default_column() -> String {
    "text".to_owned()
}

fn default_eval_fraction() -> f64 {
    0.02
}

fn default_prefetch() -> usize {
    1
}
