//! How training ends badly.

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
}
