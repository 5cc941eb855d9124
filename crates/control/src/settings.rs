//! How patient the coordinator is.

use crate::Millis;

/// Waits and limits. The defaults suit workers on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a member whose session ended may stay away before the others go on without it.
    pub grace: Millis,
    /// The same after a restart of the coordinator, when all members have to find it again.
    pub restart_grace: Millis,
    /// After one member failed: how long the others may take to say where they stopped.
    pub gather: Millis,
    /// A member that reports no progress for this long is taken to hang. Generous: it must cover the longest restore
    /// and the longest evaluation.
    pub hang: Millis,
    /// How long hanging members may take to answer the abort; who does not is left out.
    pub hang_gather: Millis,
    /// How long a stopped run waits for its last checkpoint to be committed.
    pub save: Millis,
    /// How long the report of a missing step is awaited before the run goes back to a checkpoint.
    pub gap: Millis,
    /// So many trainers may end without a new commit between them; the last of them fails the run.
    pub restarts: u32,
    /// So many generations may end in a failed step, with no member lost and no new commit; the last fails the run.
    pub fruitless_generations: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Millis(2_000),
            restart_grace: Millis(10_000),
            gather: Millis(300),
            hang: Millis(300_000),
            hang_gather: Millis(5_000),
            save: Millis(120_000),
            gap: Millis(10_000),
            restarts: 3,
            fruitless_generations: 10,
        }
    }
}
