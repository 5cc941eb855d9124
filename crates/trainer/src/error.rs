//! How training ends badly.

use c10d::GroupError;
use corpus::{CorpusError, ErrorKind};
use types::Step;

/// Why a state is not to be trusted on any member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Too many steps in a row were skipped, by all alike.
    Skipped,
    /// The members' states differ, and no majority tells whose is right.
    Replicas,
}

/// What a caller branches on: try again in a new generation, or give the run up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// A collective failed: a peer is gone, or the generation was aborted. Nothing after `step` was applied.
    #[error("a collective failed after step {}: {message}", match step { Some(step) => step.to_string(), None => "none".to_owned() })]
    Collective {
        /// Steps done by the state that this trainer still holds; `None` if it holds nothing.
        step: Option<Step>,
        /// The communication library's own words.
        message: String,
    },
    /// The state itself is not to be trusted, on any member: the run must go back to a checkpoint or stop.
    #[error("{reason}")]
    Diverged {
        /// Steps done.
        step: Step,
        /// In which way.
        kind: Divergence,
        /// What was seen.
        reason: String,
    },
    /// This member's state differs from that of the others. Only a new process with their state can mend it.
    #[error("{message}")]
    Corrupted {
        /// What was seen.
        message: String,
    },
    /// Something of this worker failed: a disk, a mount, its way to a store. Others may well go on, and so may a new
    /// process here.
    #[error("{message}")]
    Local {
        /// What happened, where, and what to do.
        message: String,
    },
    /// The run cannot go on, whoever works on it.
    #[error("{message}")]
    Fatal {
        /// What happened, where, and what to do.
        message: String,
    },
}

impl TrainError {
    pub(crate) fn fatal(message: impl Into<String>) -> Self {
        Self::Fatal { message: message.into() }
    }

    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::Local { message: message.into() }
    }

    /// Samples that cannot be had. What is wrong with the corpus itself is so for every worker.
    pub(crate) fn corpus(error: &CorpusError, message: String) -> Self {
        match error.kind {
            ErrorKind::NotFound | ErrorKind::Unreadable | ErrorKind::Io => Self::local(message),
            ErrorKind::Column
            | ErrorKind::Type
            | ErrorKind::Corrupt
            | ErrorKind::Empty
            | ErrorKind::Value
            | ErrorKind::Tokenizer
            | ErrorKind::Internal => Self::fatal(message),
        }
    }

    /// A collective's failure, for a state of `step` steps.
    pub(crate) fn collective(step: Option<Step>, error: GroupError) -> Self {
        match error {
            GroupError::Argument(_) | GroupError::Unavailable { .. } => Self::fatal(error.to_string()),
            _ => Self::Collective { step, message: error.to_string() },
        }
    }
}
