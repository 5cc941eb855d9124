//! The rows, as plain structs, and the changes that write them.

use super::sweeps::SweepRow;
use crate::CheckpointId;
use serde::{Deserialize, Serialize};
use types::{Attempt, Digest, Generation, RunId, Segment, SlotId, Step, WorkerId};

/// One run: its latest record and the config it was submitted with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Identifier.
    pub id: RunId,
    /// The config's `run.name`. Written once.
    pub name: String,
    /// `pretrain` or `finetune`. Written once.
    pub kind: String,
    /// `queued`, `running`, `completed`, `failed`, `cancelled` or `interrupted`.
    pub status: String,
    /// Why it failed, was cancelled or interrupted.
    pub reason: Option<String>,
    /// Its place in the queue: smaller is earlier.
    pub place: u64,
    /// A person cancelled it and it has yet to stop.
    pub cancelling: bool,
    /// Steps committed.
    pub step: Step,
    /// Steps in all.
    pub total_steps: Step,
    /// The present attempt. Never goes back.
    pub attempt: Attempt,
    /// The newest generation. Never goes back.
    pub generation: Generation,
    /// V of the config.
    pub slots: u32,
    /// Fewest workers.
    pub min_workers: u32,
    /// Most workers.
    pub max_workers: u32,
    /// The members of the generation, in rank order.
    pub members: Vec<MemberRow>,
    /// The chain of samples up to `step`; none before the first commit.
    pub samples_digest: Option<Digest>,
    /// SHA-256 of the final parameters, once the run is complete.
    pub weights_digest: Option<Digest>,
    /// The checkpoint the state comes from if no worker holds any.
    pub restore: Option<CheckpointId>,
    /// The checkpoint of another run that this one started from.
    pub parent: Option<CheckpointId>,
    /// How many trainers ended by themselves since the last commit.
    pub restarts: u32,
    /// The step at which it diverged and went back; none once a checkpoint is past it.
    pub diverged_at: Option<Step>,
    /// It diverged, and states of later steps are not to be trusted.
    pub trusted: Option<Step>,
    /// The resolved config, as TOML. Written once.
    pub config: String,
    /// Milliseconds since 1970, UTC. Written once.
    pub created_ms: i64,
    /// Milliseconds since 1970, UTC.
    pub updated_ms: i64,
}

/// A worker's place in a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Who.
    pub worker: WorkerId,
    /// Its slots, ascending.
    pub slots: Vec<SlotId>,
    /// Since which generation it has held the run's state without a break.
    pub since: Generation,
}

/// The start of an attempt. Rows of earlier attempts at later steps than `from_step` are superseded by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Of which run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The step it goes on from.
    pub from_step: Step,
}

/// The durable record that a step happened. It advances the run's own row too: step, chain of samples, restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRow {
    /// Of which run.
    pub run: RunId,
    /// In which attempt.
    pub attempt: Attempt,
    /// Which step: the number of steps done after it.
    pub step: Step,
    /// Which generation computed it.
    pub generation: Generation,
    /// The chain of samples up to and with this step.
    pub samples_digest: Digest,
    /// What all slots used, in slot order.
    pub segments: Vec<Segment>,
    /// Milliseconds since 1970, UTC.
    pub time_ms: i64,
}

/// One value of one metric. The row is known by (run, attempt, step, key): writing it again replaces value and time.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRow {
    /// Of which run.
    pub run: RunId,
    /// In which attempt.
    pub attempt: Attempt,
    /// At which step.
    pub step: Step,
    /// The metric's name.
    pub key: String,
    /// Its value; may be infinite or NaN.
    pub value: f64,
    /// Milliseconds since 1970, UTC.
    pub time_ms: i64,
}

/// One committed checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRow {
    /// Run, generation and step.
    pub id: CheckpointId,
    /// Where it lies, for people.
    pub path: String,
    /// Of all its files.
    pub bytes: u64,
    /// Whether every byte was read again and found good after the commit.
    pub verified: bool,
    /// Whether some byte of it was found missing or altered, the last time that it was read.
    pub damaged: bool,
    /// Held-out loss at its step, if it was measured.
    pub eval_loss: Option<f64>,
    /// See [`crate::Manifest::score`].
    pub score: Option<f64>,
    /// SHA-256 of its parameters.
    pub weights_digest: Option<Digest>,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
}

/// Something that happened to a run, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// To which run.
    pub run: RunId,
    /// Milliseconds since 1970, UTC.
    pub time_ms: i64,
    /// What happened.
    pub text: String,
}

/// One write. [`crate::Database::apply`] makes a batch of them durable in one transaction.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a batch is short and lives for one call")]
pub enum Change {
    /// Inserts the run, or updates all but what is written once.
    Run(RunRow),
    /// Starts an attempt.
    Attempt(AttemptRow),
    /// Commits a step.
    Commit(CommitRow),
    /// Writes one value.
    Metric(MetricRow),
    /// Appends an event.
    Event(EventRow),
    /// Inserts or replaces a checkpoint.
    Checkpoint(CheckpointRow),
    /// The checkpoint is no more.
    CheckpointDeleted(CheckpointId),
    /// A sweep, whose runs were written before.
    Sweep(SweepRow),
}

/// Which metric rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricQuery {
    /// Of which run.
    pub run: RunId,
    /// Only these keys; empty: all.
    pub keys: Vec<String>,
    /// From this step on.
    pub from_step: Step,
    /// Also rows that a later attempt superseded.
    pub superseded: bool,
}

/// A place in the order of metric rows: step, then key, then attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricPosition {
    /// The step.
    pub step: Step,
    /// The metric's name.
    pub key: String,
    /// The attempt.
    pub attempt: Attempt,
}

impl MetricRow {
    /// Where the row stands, to ask for the page after it.
    pub fn position(&self) -> MetricPosition {
        MetricPosition { step: self.step, key: self.key.clone(), attempt: self.attempt }
    }
}
