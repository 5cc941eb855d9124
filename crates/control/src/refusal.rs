//! Why a person's wish cannot be granted.

use crate::RunStatus;
use types::RunId;

/// A refusal, worded for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such run.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// The id is taken.
    #[error("run {0} exists already")]
    Exists(RunId),
    /// It has ended already.
    #[error("run {run} has already ended: it is {status}")]
    Ended {
        /// Which.
        run: RunId,
        /// How it ended.
        status: RunStatus,
    },
    /// It is being cancelled.
    #[error("run {0} is being cancelled: wait until it has stopped")]
    Cancelling(RunId),
    /// There is nothing to resume.
    #[error("run {run} is {status}: only a failed, cancelled or interrupted run can be resumed")]
    NotResumable {
        /// Which.
        run: RunId,
        /// What it is.
        status: RunStatus,
    },
}
