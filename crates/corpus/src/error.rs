//! What is wrong with a corpus, where exactly, and what to do.

use std::fmt;

/// Where in the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// A path or URL, or what stands in for one (`tokenizer.path`).
    pub file: String,
    /// Row group, from 0.
    pub row_group: Option<u32>,
    /// Row within the row group, from 0. Files without row groups have one.
    pub row: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(row_group) = self.row_group {
            write!(f, ", row group {row_group}")?;
        }
        if let Some(row) = self.row {
            write!(f, ", row {row}")?;
        }
        Ok(())
    }
}

impl From<&str> for Place {
    fn from(file: &str) -> Self {
        Self { file: file.to_owned(), row_group: None, row: None }
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
