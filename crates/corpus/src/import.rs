//! Plain text files → one Parquet file with a `text` column, a document a row.
//!
//! Lines of a paragraph (hard-wrapped, as in old e-books) are joined by spaces; paragraphs are gathered until a document
//! has `document_characters`. What is no UTF-8 is read as Latin-1, and counted.

use crate::error::{CorpusError, ErrorKind};
use crate::source::refuse_pointer;
use crate::whole_file;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How texts become rows.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// A document ends with the paragraph that brings it to this many characters.
    pub document_characters: usize,
    /// Rows in one row group.
    pub row_group_rows: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { document_characters: 4000, row_group_rows: 1024 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Files read.
    pub files: usize,
    /// Of those, read as Latin-1 because they are no UTF-8.
    pub latin1_files: usize,
    /// Rows written.
    pub documents: usize,
    /// Characters written.
    pub characters: usize,
}

/// Reads `files` in order and writes `out`, which appears only when it is whole.
pub fn import_text(files: &[PathBuf], out: &Path, options: ImportOptions) -> Result<ImportReport, CorpusError> {
    let mut report = ImportReport::default();
    let partial = out.with_extension("parquet.partial");
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let place = out.display().to_string();
        CorpusError::new(
            ErrorKind::Io,
            place.as_str(),
            format!("{what}: {error}"),
            "check the folder, its rights and the free space",
        )
    };
    let written = write(files, &partial, options, &mut report);
    if let Err(error) = written {
        std::fs::remove_file(&partial).ok();
        return Err(error);
    }
    if report.documents == 0 {
        std::fs::remove_file(&partial).ok();
        let place = out.display().to_string();
        let help = "give files with text in them";
        return Err(CorpusError::new(
            ErrorKind::Empty,
            place.as_str(),
            "the files hold no text; nothing was written",
            help,
        ));
    }
    whole_file::move_into_place(&partial, out).map_err(|error| failed("cannot be written", &error))?;
    Ok(report)
}

fn write(files: &[PathBuf], out: &Path, options: ImportOptions, report: &mut ImportReport) -> Result<(), CorpusError> {
    let place = out.display().to_string();
    let failed = |error: &dyn std::fmt::Display| {
        let help = "check the folder, its rights and the free space";
        CorpusError::new(ErrorKind::Io, place.as_str(), format!("cannot be written: {error}"), help)
    };
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(options.row_group_rows.max(1)))
        .build();
    let file = File::create(out).map_err(|error| failed(&error))?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|error| failed(&error))?;
    for path in files {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            CorpusError::new(ErrorKind::NotFound, name.as_str(), format!("cannot be read: {error}"), "name a text file")
        })?;
        refuse_pointer(ErrorKind::Corrupt, &name, &bytes)?;
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            let help = if bytes.starts_with(b"PAR1") {
                "Parquet needs no import: name it in `data.paths`"
            } else {
                "give files of plain text, unpacked"
            };
            let message = format!("this is not text: its byte {at} is 0");
            return Err(CorpusError::new(ErrorKind::Type, name.as_str(), message, help));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                report.latin1_files += 1;
                error.into_bytes().iter().map(|byte| char::from(*byte)).collect()
            }
        };
        let rows = documents(&text, options.document_characters);
        report.files += 1;
        report.documents += rows.len();
        report.characters += rows.iter().map(|row| row.chars().count()).sum::<usize>();
        let column: ArrayRef = Arc::new(StringArray::from(rows));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).map_err(|error| failed(&error))?;
        writer.write(&batch).map_err(|error| failed(&error))?;
    }
    let file = writer.into_inner().map_err(|error| failed(&error))?;
    file.sync_all().map_err(|error| failed(&error))
}

fn documents(text: &str, characters: usize) -> Vec<String> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut in_paragraph = false;
    for line in text.trim_start_matches('\u{feff}').lines().chain([""]) {
        let words = line.split_whitespace();
        let before = current.len();
        for word in words {
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        if current.len() > before {
            in_paragraph = true;
        } else if in_paragraph {
            in_paragraph = false;
            if current.chars().count() >= characters {
                documents.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.is_empty() {
        documents.push(current);
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn paragraphs_are_joined_and_gathered() {
        let text = "one\ntwo\n\nthree\n\n\n\nfour five\n";
        assert_eq!(documents(text, 1), ["one two", "three", "four five"]);
        assert_eq!(documents(text, 8), ["one two three", "four five"]);
        assert_eq!(documents(text, 1000), ["one two three four five"]);
        assert!(documents(" \n\n", 1).is_empty());
    }

    #[test]
    fn what_was_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let (utf8, latin1) = (folder.path().join("a.txt"), folder.path().join("b.txt"));
        std::fs::write(&utf8, "Grüße\n\nzwei").unwrap();
        std::fs::write(&latin1, b"caf\xe9").unwrap();
        let out = folder.path().join("corpus.parquet");
        let options = ImportOptions { document_characters: 1, row_group_rows: 2 };
        let report = import_text(&[utf8, latin1], &out, options).unwrap();
        assert_eq!(report, ImportReport { files: 2, latin1_files: 1, documents: 3, characters: 13 });
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&out).unwrap()).unwrap();
        assert_eq!(builder.metadata().num_row_groups(), 2);
        let rows: usize = builder.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 3);
    }

    #[test]
    fn what_is_no_text_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (table, packed, out) =
            (folder.path().join("a.parquet"), folder.path().join("a.gz"), folder.path().join("corpus.parquet"));
        std::fs::write(&table, b"PAR1\0\x01").unwrap();
        std::fs::write(&packed, b"\x1f\x8b\x08\0\0").unwrap();
        let refused = |path: &PathBuf| {
            import_text(std::slice::from_ref(path), &out, ImportOptions::default()).unwrap_err().to_string()
        };
        let error = refused(&table);
        assert!(
            error.contains("a.parquet") && error.contains("byte 4 is 0") && error.contains("data.paths"),
            "{error}"
        );
        assert!(refused(&packed).contains("unpacked"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn pointers_of_git_lfs_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (pointer, out) = (folder.path().join("book.txt"), folder.path().join("corpus.parquet"));
        std::fs::write(&pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n").unwrap();
        let error = import_text(&[pointer], &out, ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt);
        let error = error.to_string();
        assert!(error.contains("book.txt: it is a pointer of Git LFS") && error.contains("`git lfs pull`"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_behind_when_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.txt");
        std::fs::write(&empty, "\n\n").unwrap();
        let out = folder.path().join("corpus.parquet");
        let error = import_text(&[empty], &out, ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Empty);
        let missing = import_text(&[folder.path().join("none.txt")], &out, ImportOptions::default()).unwrap_err();
        assert!(missing.to_string().contains("none.txt"), "{missing}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["empty.txt"]);
    }
}
