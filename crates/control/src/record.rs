//! What outlives the coordinator process.

use config::{RecoveryConfig, RunKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use types::{Attempt, Digest, Generation, RunId, Segment, SlotId, Step, WorkerId, WorldSize};

/// What the core needs to know of a run's config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// As people call it.
    pub name: String,
    /// Pretraining or fine-tuning.
    pub kind: RunKind,
    /// Optimizer steps.
    pub total_steps: Step,
    /// V, the number of virtual shards.
    pub slots: u32,
    /// Fewer workers than this do not work on it.
    pub min_workers: u32,
    /// More than this are left to others. At most `slots`.
    pub max_workers: u32,
    /// What counts as going wrong, and what is done about it.
    pub recovery: RecoveryConfig,
    /// It may end before its last step: after so many evaluations in a row that were no better than an earlier one. Its
    /// trainers decide, all alike.
    #[serde(default)]
    pub patience: Option<u64>,
}

impl RunSpec {
    /// Takes it from a checked config.
    pub fn of(config: &config::CheckedConfig) -> Self {
        Self {
            name: config.run.name.clone(),
            kind: config.run.kind,
            total_steps: Step(config.run.steps),
            slots: config.batch.slots,
            min_workers: config.run.min_workers,
            max_workers: config.max_workers(),
            recovery: config.recovery.clone(),
            patience: config.eval.patience,
        }
    }
}

/// A checkpoint of a run that is known from the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckpointAt {
    /// The generation that wrote it.
    pub generation: Generation,
    /// Steps done.
    pub step: Step,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Waits for its first start, or was resumed by a person and waits for workers.
    Queued,
    /// A generation works on it.
    Running,
    /// All steps are done and the last checkpoint is durable.
    Completed,
    /// It cannot go on; `reason` says why. A person may resume it.
    Failed,
    /// A person stopped it. A person may resume it.
    Cancelled,
    /// It lost too many workers and goes on by itself as soon as there are enough.
    Interrupted,
}

impl RunStatus {
    /// All there are.
    const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled, Self::Interrupted];

    /// What [`RunStatus::as_str`] spells like that; None: nothing.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            RunStatus::Queued => "queued",
            RunStatus::Running => "running",
            RunStatus::Completed => "completed",
            RunStatus::Failed => "failed",
            RunStatus::Cancelled => "cancelled",
            RunStatus::Interrupted => "interrupted",
        }
    }

    /// Nothing more happens unless a person resumes it.
    pub fn has_ended(self) -> bool {
        matches!(self, RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled)
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A worker's place in a generation; its rank is its place in [`RunRecord::members`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub worker: WorkerId,
    /// Its slots, ascending.
    pub slots: Vec<SlotId>,
    /// Since which generation it has held the run's state without a break. Its late reports of those generations still
    /// count: what they tell is part of the state that the present generation goes on from.
    pub since: Generation,
}

/// A run, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// What was asked for.
    pub spec: RunSpec,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it failed, was cancelled or interrupted.
    pub reason: Option<String>,
    /// Its place in the queue: smaller is earlier.
    pub place: u64,
    /// A person cancelled it and it has yet to stop.
    pub cancelling: bool,
    /// The last committed step.
    pub step: Step,
    /// What metrics are keyed by beside the step; from 1.
    pub attempt: Attempt,
    /// The last generation; 0 before the first.
    pub generation: Generation,
    /// The members of that generation, in rank order; kept after the end of the run.
    pub members: Vec<Member>,
    /// The chain of samples up to the last commit; none if nothing was committed in this attempt.
    pub samples_digest: Option<Digest>,
    /// Of the finished model.
    pub weights_digest: Option<Digest>,
    /// The newest checkpoint.
    pub restore: Option<CheckpointAt>,
    /// In how many generations trainers ended by themselves since the last commit.
    pub restarts: u32,
    /// The step at which it diverged and went back; none once a checkpoint is past it.
    pub diverged_at: Option<Step>,
    /// It diverged: until the next attempt begins, states of later steps are not to be trusted.
    pub trusted: Option<Step>,
}

impl RunRecord {
    /// A run that was just submitted.
    pub fn new(id: RunId, spec: RunSpec, place: u64) -> Self {
        Self {
            id,
            spec,
            status: RunStatus::Queued,
            reason: None,
            place,
            cancelling: false,
            step: Step(0),
            attempt: Attempt(1),
            generation: Generation(0),
            members: Vec::new(),
            samples_digest: None,
            weights_digest: None,
            restore: None,
            restarts: 0,
            diverged_at: None,
            trusted: None,
        }
    }

    /// How many workers work on it.
    pub fn world_size(&self) -> WorldSize {
        let members = if self.status == RunStatus::Running { self.members.len() } else { 0 };
        WorldSize(u32::try_from(members).expect("there are at most as many members as slots, a u32"))
    }

    /// What a [`Record::Commit`] changes in the run's own record. The shell applies it in the transaction that stores
    /// the commit; no separate [`Record::Run`] follows.
    pub fn advance(&mut self, step: Step, samples_digest: Digest) {
        self.step = step;
        self.samples_digest = Some(samples_digest);
        self.restarts = 0;
    }

    /// What a [`Record::Attempt`] changes in the run's own record, in the same transaction. The members of the last
    /// generation are struck out, so that none of them can bring back a state that is superseded.
    pub fn begin_attempt(&mut self, attempt: Attempt, from_step: Step) {
        (self.attempt, self.step) = (attempt, from_step);
        (self.samples_digest, self.trusted) = (None, None);
        self.members.clear();
    }
}

/// Something to make durable.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "each is carried out at once")]
pub enum Record {
    /// The run's record in full: insert or replace.
    Run(RunRecord),
    /// A new attempt: rows of older attempts with a later step than `from_step` are superseded. Changes the run's own
    /// record too, see [`RunRecord::begin_attempt`]. The first attempt is there with the run and has no such record.
    Attempt {
        /// Of which run.
        run: RunId,
        /// Its number, from 2.
        attempt: Attempt,
        /// The step it starts from.
        from_step: Step,
    },
    /// A step happened. Advances the run's own record too, see [`RunRecord::advance`].
    Commit {
        /// Of which run.
        run: RunId,
        /// In which attempt.
        attempt: Attempt,
        /// The generation whose report was the first.
        generation: Generation,
        /// Steps done, with this one.
        step: Step,
        /// The samples of all slots, in slot order.
        segments: Vec<Segment>,
        /// The chain up to and with this step.
        samples_digest: Digest,
    },
    /// An event of the run, for people.
    Note {
        /// Of which run.
        run: RunId,
        /// What happened.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_it_is_spelled() {
        for status in RunStatus::ALL {
            assert_eq!(RunStatus::parse(status.as_str()), Some(status));
        }
        let ended = ["completed", "failed", "cancelled"];
        assert!(ended.iter().all(|text| RunStatus::parse(text).is_some_and(RunStatus::has_ended)));
        assert_eq!(RunStatus::ALL.iter().filter(|status| status.has_ended()).count(), ended.len());
        assert_eq!(RunStatus::parse("Completed"), None);
    }
}
