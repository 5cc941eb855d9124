//! The real corpus that `cargo xtask bench` prepares: `corpus.parquet` with a column `text`, and `tokenizer.json`.

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use corpus::{Columns, FileSource, Unit, UnitSource};
use std::path::Path;

/// Rows in a row group of what is written here.
const GROUP: usize = 1_000;

/// The first `count` texts of a Parquet file.
pub fn texts(file: &Path, count: usize) -> Result<Vec<String>> {
    let source = FileSource::open(&[file.display().to_string()], &[], None, &Columns::text("text"))?;
    let groups = &source.files().first().context("no file")?.row_group_rows;
    let mut texts = Vec::new();
    for (group, rows) in groups.iter().enumerate() {
        if texts.len() < count {
            let batch = source.read(&Unit { file: 0, row_group: u32::try_from(group)?, first_row: 0, rows: *rows })?;
            let column = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
            let strings = column.as_string::<i32>();
            let there = (0..strings.len()).filter(|row| strings.is_valid(*row));
            texts.extend(there.map(|row| strings.value(row).to_owned()));
        }
    }
    texts.truncate(count);
    ensure!(!texts.is_empty(), "{} has no text", file.display());
    Ok(texts)
}

/// Writes texts as a Parquet file.
pub fn write<'a>(file: &Path, texts: impl Iterator<Item = &'a String>) {
    let rows: Vec<Option<&str>> = texts.map(|text| Some(text.as_str())).collect();
    e2e::text_parquet(file, &rows, GROUP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let written: Vec<String> = (0..2_500).map(|number| format!("text {number}")).collect();
        let file = folder.path().join("texts.parquet");
        write(&file, written.iter());
        assert_eq!(texts(&file, 1_200).unwrap(), written[..1_200]);
        assert_eq!(texts(&file, usize::MAX).unwrap(), written);
    }
}
