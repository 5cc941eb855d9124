//! The words every room shares: one newtype for each identifier and counter.
//!
//! Nothing here may depend on anything heavy, do IO, or hold a decision.

/// Between what went wrong and what to do about it, in a text for people.
pub const HELP: &str = "\n  help: ";

mod cursor;
mod digest;
mod ids;

pub use cursor::{Cursor, Segment};
pub use digest::Digest;
pub use ids::{Attempt, Generation, InvalidId, Rank, RunId, SlotId, Step, WorkerId, WorldSize};
