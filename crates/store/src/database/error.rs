//! What can go wrong with the database, told so that a person knows what to do.

use rusqlite::ErrorCode;
use std::path::{Path, PathBuf};

/// A database that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened or is no SQLite file.
    #[error("cannot open the run database {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// An SQLite file, but not one of ours.
    #[error("{path} is an SQLite file of another program; choose another data directory")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer Trireme.
    #[error(
        "the run database {path} has version {found}, but this program knows versions up to {known}: run the newer \
         Trireme that wrote it, or choose another data directory"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A migration failed; the file is as it was before.
    #[error("cannot bring the run database {path} from version {from} to {to}: {source}")]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version before.
        from: i64,
        /// The version that was tried.
        to: i64,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// WAL needs shared memory and honest locks, which network file systems do not give.
    #[error(
        "the run database {path} would lie on a network file system ({kind}), where SQLite loses data: choose a data \
         directory on a local disk"
    )]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// NFS, SMB, …
        kind: &'static str,
    },
    /// The disk is full; nothing of the batch was written.
    #[error("the disk that holds the run database {path} is full: free some space; nothing of this batch was written")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A change that must never happen; nothing of the batch was written.
    #[error("refused by the run database: {rule} ({change})")]
    Invariant {
        /// Which rule.
        rule: String,
        /// The change that broke it.
        change: String,
    },
    /// A stored value is not what this program writes.
    #[error("the run database {path} holds an impossible value: {message}")]
    Impossible {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong with it.
        message: String,
    },
    /// A number too large for SQLite's 64 signed bits.
    #[error("{value} is too large to be kept in the run database")]
    TooLarge {
        /// The number.
        value: u64,
    },
    /// Anything else that SQLite says.
    #[error("run database {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
}

impl DatabaseError {
    pub(super) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match (source.sqlite_error_code(), source) {
            (Some(ErrorCode::DiskFull), _) => Self::Full { path },
            (_, rusqlite::Error::FromSqlConversionFailure(_, _, message)) => {
                Self::Impossible { path, message: message.to_string() }
            }
            (_, source) => Self::Sqlite { path, source },
        }
    }
}
