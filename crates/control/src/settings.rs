//! How patient the coordinator is.

use crate::Millis;

/// Waits and limits. The defaults suit workers on one network. What a step of the run at hand takes is learned; these
/// are the bounds of what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a member whose session ended may stay away before the others go on without it. Every step that they
    /// commit meanwhile begins it anew, since all members take part in a step.
    pub grace: Millis,
    /// The same after a restart of the coordinator, when all members have to find it again.
    pub restart_grace: Millis,
    /// After one member failed: how long the others may take to say where they stopped.
    pub gather: Millis,
    /// A run with no new step for this long, and for `recovery.hang_factor` usual steps, is looked into.
    pub stall_min: Millis,
    /// A member whose trainer was not heard for this long (several heartbeats), and for three times the longest pause of
    /// late, is not waited for; nor one that was silent for 1.75 times as long, whatever its pauses were. A
    /// `recovery.hang_factor` above 10 stretches this alike.
    pub silence: Millis,
    /// A member that reports no progress for this long is taken to hang, whatever it does. Generous: it must cover the
    /// longest restore and the longest evaluation.
    pub hang: Millis,
    /// How long members may take to answer the abort when one of them hangs and none knows which; who does not answer
    /// is left out.
    pub hang_gather: Millis,
    /// How long a stopped run waits for its last checkpoint to be committed.
    pub save: Millis,
    /// How long the report of a missing step is awaited before the run goes back to a checkpoint.
    pub gap: Millis,
    /// Workers that become free within this time of each other join a run together.
    pub join_settle: Millis,
    /// A run is not interrupted for the sake of joining workers more often than this.
    pub join_interval: Millis,
    /// In so many generations may trainers end without a new commit between them; the last of them fails the run.
    pub restarts: u32,
    /// So many times may one worker end or be left out, with no step done with it in between; then it rests.
    pub strikes: u32,
    /// So many generations may come to nothing: a failed step with no member lost, or a member that hung, and no new
    /// commit; the last fails the run.
    pub fruitless_generations: u32,
    /// After so many of them one member after the other is left out, if the run can do without it; and after more, each
    /// further generation is put off.
    pub suspect_after: u32,
    /// By so much, and twice as much every further time.
    pub pause: Millis,
    /// But not by more. With the present numbers a run is given a minute and a half at least before it fails.
    pub pause_max: Millis,
    /// A worker rests for so long, and twice as long every further time.
    pub rest: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Millis(800),
            restart_grace: Millis(10_000),
            gather: Millis(300),
            stall_min: Millis(1_000),
            silence: Millis(1_000),
            hang: Millis(300_000),
            hang_gather: Millis(1_000),
            save: Millis(120_000),
            gap: Millis(10_000),
            join_settle: Millis(500),
            join_interval: Millis(5_000),
            restarts: 3,
            strikes: 2,
            fruitless_generations: 10,
            suspect_after: 3,
            pause: Millis(2_000),
            pause_max: Millis(30_000),
            rest: Millis(60_000),
        }
    }
}
