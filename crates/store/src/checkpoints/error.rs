//! What can go wrong with checkpoints, told so that a person knows what to do.

use super::{CheckpointId, CheckpointProblem};
use std::error::Error;
use std::fmt::Display;
use std::io;

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store's address makes no sense or cannot be used.
    #[error("cannot use the checkpoint store {store}: {message}")]
    Store {
        /// As it was given.
        store: String,
        /// Why not, and what to do.
        message: String,
    },
    /// No room for what is to be written; nothing of it is visible.
    #[error(
        "no space for {path}: {needed} bytes are needed{}; free some space or choose another store. Nothing \
         half-written is kept", available.map(|bytes| format!(", {bytes} are free")).unwrap_or_default()
    )]
    Full {
        /// The file.
        path: String,
        /// Its bytes.
        needed: u64,
        /// How many bytes are free, where that can be told.
        available: Option<u64>,
    },
    /// There is no committed checkpoint of that name.
    #[error("there is no checkpoint {0}")]
    NotFound(CheckpointId),
    /// The checkpoint is committed, but has no such file.
    #[error("checkpoint {checkpoint} has no file `{file}`")]
    NoSuchFile {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The file that was asked for.
        file: String,
    },
    /// A file name that could do harm, or that the repository keeps for itself.
    #[error(
        "`{0}` is no name for a checkpoint's file: use 1 to 128 of a-z A-Z 0-9 . _ -, and none of the repository's own"
    )]
    FileName(String),
    /// What was uploaded is not what its header announced; nothing of it is visible.
    #[error("the upload of {path} was refused: {message}; send it again")]
    Content {
        /// The file.
        path: String,
        /// Size or hash, announced and found.
        message: String,
    },
    /// The sender went away in the middle of a file; nothing of it is visible.
    #[error("the upload of {path} broke off: {message}")]
    Interrupted {
        /// The file.
        path: String,
        /// The sender's error.
        message: String,
    },
    /// A shard that contradicts what is there.
    #[error("checkpoint {checkpoint}: {message}")]
    Shard {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The contradiction.
        message: String,
    },
    /// Bytes in the store are not what was written.
    #[error("checkpoint {checkpoint} is damaged: {}", list(problems))]
    Damaged {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Which files, and how.
        problems: Vec<CheckpointProblem>,
    },
    /// The store failed.
    #[error("cannot {action} {path}: {message}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The store's reason.
        message: String,
    },
}

impl CheckpointError {
    /// A failure while `needed` bytes were written: a full disk is told apart from the rest.
    pub(super) fn writing(
        path: impl Display,
        needed: u64,
        available: Option<u64>,
        error: &(dyn Error + 'static),
    ) -> Self {
        if is_full(error) {
            Self::Full { path: path.to_string(), needed, available }
        } else {
            Self::io("write", path, error)
        }
    }

    /// The file that could not be read, by its last name, and why.
    pub(super) fn place(&self) -> (String, String) {
        match self {
            Self::Io { action, path, message } => {
                let file = path.rsplit('/').next().unwrap_or(path);
                (file.to_owned(), format!("cannot {action} it: {message}"))
            }
            other => ("checkpoint".to_owned(), other.to_string()),
        }
    }

    pub(super) fn io(action: &'static str, path: impl Display, error: &(dyn Error + 'static)) -> Self {
        Self::Io { action, path: path.to_string(), message: error.to_string() }
    }
}

/// All problems in one line.
pub(super) fn list(problems: &[CheckpointProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether "no space left on device" or "quota exceeded" is at the bottom of an error.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}
