//! What can go wrong in the native library, in words.

use crate::store::StoreError;

/// Why a group could not be made, or why a collective failed. After any error but [`GroupError::Argument`] the group is
/// of no more use: its members no longer agree on what comes next.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The caller's mistake; nothing was sent.
    #[error("{0}")]
    Argument(String),
    /// This build or this machine has no such backend.
    #[error("the {backend} backend is not available: {reason}")]
    Unavailable {
        /// `nccl` or `gloo`.
        backend: &'static str,
        /// What is missing and how to get it.
        reason: String,
    },
    /// The members did not all arrive at the rendezvous.
    #[error("rank {rank} of {world} could not meet its peers: {source}")]
    Rendezvous {
        /// This member.
        rank: u32,
        /// How many members were expected.
        world: u32,
        /// What the store said.
        source: StoreError,
    },
    /// The members met, but the group could not be made.
    #[error("rank {rank} of {world} could not make the {backend} group: {message}")]
    Connect {
        /// `nccl` or `gloo`.
        backend: &'static str,
        /// This member.
        rank: u32,
        /// How many members were expected.
        world: u32,
        /// What libtorch said.
        message: String,
    },
    /// A peer went away, the time ran out, or the members' calls do not match.
    #[error("{operation} failed: {message}")]
    Collective {
        /// The collective that was tried.
        operation: &'static str,
        /// What libtorch said.
        message: String,
    },
    /// [`crate::AbortHandle::abort`] was called.
    #[error("{operation} was aborted")]
    Aborted {
        /// The collective that was tried.
        operation: &'static str,
    },
}
