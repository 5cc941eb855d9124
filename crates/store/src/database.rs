//! The run database: one SQLite file, written by one connection in one thread, read by as many as needed.
//!
//! Synchronous on purpose: the caller gives it a thread. Every batch of changes is one transaction that is on disk
//! when [`Database::apply`] returns (WAL, synchronous = FULL). What a later attempt superseded stays in the file and is
//! left out when rows are read, so that a rewind costs one row and loses nothing.

mod error;
mod migrate;
mod network_file_system;
mod reader;
mod rows;
mod segments;
mod sweeps;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use error::DatabaseError;
pub use reader::Reader;
pub use rows::{
    AttemptRow, Change, CheckpointRow, CommitRow, EventRow, MemberRow, MetricPosition, MetricQuery, MetricRow, RunRow,
};
pub use sweeps::{SweepRow, SweepRunRow};

use rusqlite::{Connection, TransactionBehavior};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for another process's lock, say of a backup, before it fails.
const BUSY: Duration = Duration::from_secs(10);

/// The writing connection. It reads too: see [`Reader`].
#[derive(Debug)]
pub struct Database {
    reader: Reader,
}

impl Deref for Database {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Database {
    /// Opens the file, makes it if there is none, and brings an older one to the present schema.
    ///
    /// # Errors
    /// No SQLite file, another program's, a newer Trireme's, a network file system, a full disk.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        network_file_system::refuse(path)?;
        let open = |source| DatabaseError::Open { path: path.to_path_buf(), source };
        let mut connection = Connection::open(path).map_err(open)?;
        connection.busy_timeout(BUSY).map_err(open)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(open)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(open)?;
        migrate::migrate(&mut connection, path, migrate::MIGRATIONS)?;
        // After the check that the file is ours: the journal mode is written into it.
        connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
            .map_err(|source| DatabaseError::from_sqlite(path, source))?;
        Ok(Self { reader: Reader::new(connection, path) })
    }

    /// Makes all of `changes` durable, in their order, or none of them.
    ///
    /// Writing the same change again does no harm, so a batch whose outcome is unknown may be repeated.
    ///
    /// # Errors
    /// A full disk; a change that must never happen ([`DatabaseError::Invariant`]): a generation or an attempt that
    /// goes back, a commit by a generation that is over, a step committed twice with different samples, a row of a run
    /// that is not there.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), DatabaseError> {
        let Reader { connection, path } = &mut self.reader;
        let failed = |source| DatabaseError::from_sqlite(path, source);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        for change in changes {
            write::change(&transaction, change).map_err(|source| write::explain(path, change, source))?;
        }
        transaction.commit().map_err(failed)
    }

    /// A second connection to the same file, for another thread. It sees what was applied before each of its calls.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(&self) -> Result<Reader, DatabaseError> {
        Reader::open(&self.reader.path)
    }
}
