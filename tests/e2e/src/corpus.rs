//! A made-up corpus: a few words in a few patterns, enough for a loss to fall and a tagger to learn.

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The corpus's words with their tags.
pub const WORDS: [(&str, &str); 24] = [
    ("the", "D"),
    ("a", "D"),
    ("every", "D"),
    ("no", "D"),
    ("dog", "N"),
    ("ship", "N"),
    ("river", "N"),
    ("sailor", "N"),
    ("oar", "N"),
    ("night", "N"),
    ("city", "N"),
    ("child", "N"),
    ("sees", "V"),
    ("finds", "V"),
    ("rows", "V"),
    ("leaves", "V"),
    ("carries", "V"),
    ("loves", "V"),
    ("old", "J"),
    ("green", "J"),
    ("quick", "J"),
    ("silent", "J"),
    ("wide", "J"),
    ("young", "J"),
];

/// The files of a corpus in a folder.
pub struct Corpus {
    /// Raw text, column `text`.
    pub text: PathBuf,
    /// `word/tag` lines.
    pub tagged: PathBuf,
    /// JSON lines with `text` and `label`.
    pub classified: PathBuf,
    /// One token a line.
    pub vocabulary: PathBuf,
}

impl Corpus {
    /// Always the same files.
    pub fn write(folder: &Path) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let corpus = Self {
            text: folder.join("corpus.parquet"),
            tagged: folder.join("tagged.pos"),
            classified: folder.join("classified.jsonl"),
            vocabulary: folder.join("vocab.txt"),
        };
        let documents: Vec<String> = (0..600)
            .map(|_| {
                let sentences: Vec<String> = (0..random.random_range(2..8)).map(|_| sentence(&mut random).0).collect();
                sentences.join(" ")
            })
            .collect();
        text_parquet(&corpus.text, &documents.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>(), 200);
        let lines: String = (0..200)
            .map(|_| {
                let (text, tags) = sentence(&mut random);
                let words = text.split_whitespace().zip(tags).map(|(word, tag)| format!("{word}/{tag}"));
                words.collect::<Vec<_>>().join(" ") + "\n"
            })
            .collect();
        std::fs::write(&corpus.tagged, lines).expect("a test writes into its own folder");
        let rows: String = (0..200)
            .map(|_| {
                let (text, _) = sentence(&mut random);
                let label = if text.contains("dog") || text.contains("child") { "alive" } else { "other" };
                serde_json::json!({ "text": text, "label": label }).to_string() + "\n"
            })
            .collect();
        std::fs::write(&corpus.classified, rows).expect("a test writes into its own folder");
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."];
        let words = special.into_iter().chain(WORDS.iter().map(|(word, _)| *word));
        std::fs::write(&corpus.vocabulary, words.map(|word| format!("{word}\n")).collect::<String>())
            .expect("a test writes into its own folder");
        corpus
    }
}

/// Determiner, adjective, noun, verb, determiner, noun; each kind of word draws from its own.
fn sentence(random: &mut ChaCha8Rng) -> (String, Vec<&'static str>) {
    let mut words = Vec::new();
    let mut tags = Vec::new();
    for tag in ["D", "J", "N", "V", "D", "N"] {
        if tag == "J" && random.random_bool(0.4) {
            continue;
        }
        let of_kind: Vec<&str> = WORDS.iter().filter(|(_, its)| *its == tag).map(|(word, _)| *word).collect();
        words.push(of_kind[random.random_range(0..of_kind.len())]);
        tags.push(tag);
    }
    tags.push(".");
    (words.join(" ") + " .", tags)
}

/// A Parquet file with one text column, `text`.
pub fn text_parquet(path: &Path, rows: &[Option<&str>], rows_in_group: usize) {
    let column: ArrayRef = Arc::new(StringArray::from(rows.to_vec()));
    let batch = RecordBatch::try_from_iter_with_nullable([("text", column, true)]).expect("one column");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_in_group)).build();
    let file = File::create(path).expect("a test writes into its own folder");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a valid schema");
    writer.write(&batch).expect("a valid batch");
    writer.close().expect("room on the disk");
}
