//! A small corpus, a vocabulary that knows it, and configs over it.
// Each test file uses a part of it; a fixture that cannot be made is a failed test.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use arrow::array::{ArrayRef, RecordBatch};
use config::{CheckedConfig, Override};
use corpus::Tokenizer;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::path::Path;
use std::sync::Arc;

const WORDS: [&str; 12] = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "##ther", "sun", "##set"];

/// Knows [`WORDS`], digits and full stops.
pub fn tokenizer() -> Tokenizer {
    let mut lines: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."].map(str::to_owned).to_vec();
    lines.extend((0..10).flat_map(|digit| [digit.to_string(), format!("##{digit}")]));
    lines.extend(WORDS.map(str::to_owned));
    Tokenizer::from_bytes("vocab.txt", lines.join("\n").as_bytes(), true).unwrap()
}

/// A document of three to seven sentences; each begins with the row's number.
pub fn text(row: usize) -> String {
    let sentence = |at: usize| {
        let words: Vec<&str> = (0..4 + (row + at) % 5)
            .map(|word| WORDS[(row * 7 + at * 5 + word * 3) % WORDS.len()])
            .filter(|word| !word.starts_with('#'))
            .collect();
        format!("{row} {}.", words.join(" "))
    };
    (0..3 + row % 5).map(sentence).collect::<Vec<_>>().join(" ")
}

pub fn write_parquet(path: &Path, columns: &[(&str, ArrayRef)], row_group_rows: usize) -> String {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, array.clone(), true)))
            .unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(row_group_rows)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path.display().to_string()
}

/// A config of `key=value` settings over `paths`.
pub fn config(settings: &str, paths: &[&str]) -> CheckedConfig {
    let finetune = ["classify", "tag", "answer", "match", "cloze", "choose"]
        .iter()
        .any(|kind| settings.contains(&format!("kind={kind}")));
    let kind = if finetune { "finetune" } else { "pretrain" };
    let mut table: toml::Table = format!(
        "run = {{ name = \"test\", kind = \"{kind}\", steps = 10 }}\n\
         tokenizer = {{ path = \"unused\" }}\n\
         batch = {{ slots = 2, micro_batch = 2, sequence_length = 32 }}\n\
         data = {{}}\nobjective = {{}}\n"
    )
    .parse()
    .unwrap();
    let list = paths.iter().map(|path| toml::Value::String((*path).to_owned())).collect();
    table["data"].as_table_mut().unwrap().insert("paths".into(), toml::Value::Array(list));
    for setting in settings.split_whitespace() {
        let Override { key, value } = setting.parse().unwrap();
        let (section, key) = key.split_once('.').unwrap();
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        section.as_table_mut().unwrap().insert(key.to_owned(), value);
    }
    config::parse("test", &table.to_string()).unwrap().check("test").unwrap()
}

pub mod run {
    /// Waits for something that must come, without a deadline of its own: the test runner has one.
    pub fn until(holds: impl Fn() -> bool) {
        while !holds() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

pub fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<arrow::array::StringArray>())
}
