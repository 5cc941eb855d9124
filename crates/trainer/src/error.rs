//! How training ends badly.

use c10d::GroupError;
use types::Step;

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
        /// What was seen.
        reason: String,
    },
    /// This member's state differs from that of the others. Only a new process with their state can mend it.
    #[error("{message}")]
    Corrupted {
        /// What was seen.
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

    /// A collective's failure, for a state of `step` steps.
    pub(crate) fn collective(step: Option<Step>, error: GroupError) -> Self {
        match error {
            GroupError::Argument(_) | GroupError::Unavailable { .. } => Self::fatal(error.to_string()),
            _ => Self::Collective { step, message: error.to_string() },
        }
    }
}
