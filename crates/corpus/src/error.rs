//! What is wrong with a corpus, where exactly, and what to do.

use std::fmt;

/// Where in the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// A path or URL, or what stands in for one (`tokenizer.path`).
    pub file: String,
    /// Where in it.
    pub spot: Spot,
}

/// Where in a file, as whoever opens it looks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spot {
    /// Nowhere in particular.
    #[default]
    Whole,
    /// A row group of Parquet, from 0.
    RowGroup(u32),
    /// A row of Parquet, counted as Parquet's own tools do.
    Row {
        /// Its row group, from 0.
        row_group: u32,
        /// Which row of the row group, from 0.
        row: u64,
    },
    /// A line, from 1: that of the word that is meant, or else the first one of a row that has several.
    Line(u64),
    /// A question of SQuAD's JSON: its id, or else what is asked, in backquotes.
    Question(String),
}

impl Place {
    /// A line of a file, from 1.
    pub(crate) fn line(file: &str, line: u64) -> Self {
        Self { file: file.to_owned(), spot: Spot::Line(line) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        match &self.spot {
            Spot::Whole => Ok(()),
            Spot::RowGroup(row_group) => write!(f, ", row group {row_group}"),
            Spot::Row { row_group, row } => write!(f, ", row group {row_group}, row {row}"),
            Spot::Line(line) => write!(f, ", line {line}"),
            Spot::Question(question) => write!(f, ", question {question}"),
        }
    }
}

impl From<&str> for Place {
    fn from(file: &str) -> Self {
        Self { file: file.to_owned(), spot: Spot::Whole }
    }
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such file, or a glob that matches nothing.
    NotFound,
    /// No such column.
    Column,
    /// A column of a type that cannot be read here.
    Type,
    /// A truncated or damaged file.
    Corrupt,
    /// Nothing to learn from: no rows, only null rows, no sample.
    Empty,
    /// A value that cannot be: an unknown label, an id beyond the vocabulary.
    Value,
    /// A tokenizer that cannot be used, or a vocabulary that the model has no rows for.
    Tokenizer,
    /// The file is there but cannot be read, now or later: permissions, credentials, a broken disk.
    Unreadable,
    /// An object store across the network failed, or a disk was full; another try may succeed.
    Io,
    /// A bug here or in a library: a background thread panicked, a slot was asked for that was never assigned.
    Internal,
}

/// A corpus that cannot be used. `Display` is what a person reads: where, what, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}\n  help: {help}")]
pub struct CorpusError {
    /// What a caller may want to tell apart.
    pub kind: ErrorKind,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl CorpusError {
    /// An error at `place`. Public because other sources of units (the worker's) report in the same terms.
    pub fn new(kind: ErrorKind, place: impl Into<Place>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { kind, place: place.into(), message: message.into(), help: help.into() }
    }
}
