//! What can happen: everything the core is told.

use crate::{CheckpointAt, Millis, RunSpec};
use serde::{Deserialize, Serialize};
use types::{Digest, Generation, RunId, Segment, Step, WorkerId};

/// What a worker says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Host name.
    pub host: String,
    /// The agent's process number. With the host it tells a reconnecting process from another one of the same name.
    pub pid: u32,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Compute threads.
    pub threads: u32,
    /// Of the worker's program.
    pub version: String,
    /// Where other workers reach it (no port).
    pub address: String,
}

/// What a worker's trainer has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Of which run.
    pub run: RunId,
    /// The generation it last worked in.
    pub generation: Generation,
    /// Steps done.
    pub step: Step,
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing of a step.
    Idle,
    /// Meets the other members.
    Rendezvous,
    /// Gets the state.
    Restore,
    /// Waits for samples.
    Data,
    /// Forward and backward passes.
    Compute,
    /// In a collective: needs all others to go on.
    Reduce,
    /// Applies the step.
    Update,
    /// Measures on held-out data.
    Evaluate,
    /// Hands over a checkpoint.
    Checkpoint,
}

/// Why the state that the members hold is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Divergence {
    /// Too many steps in a row were skipped: it went wrong before the first of them, on all members alike.
    Skipped,
    /// The replicas differ and no majority tells whose is right: since the last comparison.
    Replicas,
}

/// Something that happened. Anything that does not fit the present state is ignored; reports of a generation that is
/// over are counted as refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A person submitted a run. The id is new.
    Submit {
        /// Chosen by the shell.
        run: RunId,
        /// What the core needs of its config.
        spec: RunSpec,
    },
    /// A person cancels a run (ask [`crate::Control::check_cancel`] first for the answer to give).
    Cancel {
        /// Which.
        run: RunId,
    },
    /// A person resumes a run (ask [`crate::Control::check_resume`] first).
    Resume {
        /// Which.
        run: RunId,
    },
    /// A person, or a policy of the shell, wants a checkpoint at the next step boundary.
    CheckpointWanted {
        /// Of which run.
        run: RunId,
    },
    /// A worker registered.
    WorkerConnected {
        /// Its name.
        worker: WorkerId,
        /// Numbers the sessions; never used twice by one coordinator process.
        session: u64,
        /// What it says of itself.
        facts: WorkerFacts,
        /// What its trainer has in memory.
        holding: Option<Holding>,
        /// It has a trainer that answers; else [`Event::TrainerReady`] tells when it has.
        ready: bool,
    },
    /// A session ended.
    WorkerDisconnected {
        /// Whose.
        worker: WorkerId,
        /// Which; an old one changes nothing.
        session: u64,
    },
    /// The worker was told to end and waits for its release.
    WorkerLeaving {
        /// Which.
        worker: WorkerId,
    },
    /// A new trainer is up and holds nothing. Told of every trainer, before it is handed an assignment that waited for
    /// it. One that forgets its run because it was released says how its part in it ended, and nothing more: by that a
    /// trainer that hung is known to answer again.
    TrainerReady {
        /// Whose.
        worker: WorkerId,
    },
    /// A sign of life.
    Heartbeat {
        /// From whom.
        worker: WorkerId,
        /// The run it works on.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done.
        step: Step,
        /// What it is doing.
        phase: Phase,
        /// How many collectives its group has begun, as it sees it.
        collective: u64,
        /// For how long nothing has moved, in milliseconds.
        since_progress_ms: u64,
        /// For how long its agent has not heard its trainer, in milliseconds.
        trainer_silent_ms: u64,
    },
    /// A step was applied.
    Progress {
        /// By whom.
        worker: WorkerId,
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done, with this one.
        step: Step,
        /// The samples of all slots, in slot order. None: the member leaves them to others as long as it may; it says
        /// only that it has done the step, and with which digest.
        segments: Option<Vec<Segment>>,
        /// The chain up to and with this step.
        samples_digest: Digest,
        /// Tokens that this member alone computed; 0 if it does not say.
        tokens: u64,
        /// The seconds it computed for, without waiting for others.
        seconds: f64,
    },
    /// A collective failed; nothing of the step after `step` was applied.
    StepFailed {
        /// Where.
        worker: WorkerId,
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done.
        step: Step,
        /// What went wrong.
        error: String,
    },
    /// The trainer stopped after `step`, as it was asked to, and keeps its state.
    Paused {
        /// Whose.
        worker: WorkerId,
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done.
        step: Step,
    },
    /// The last step is done and its checkpoint handed over.
    Finished {
        /// By whom.
        worker: WorkerId,
        /// Which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done.
        step: Step,
        /// SHA-256 of all parameters.
        weights_digest: Digest,
    },
    /// The trainer process ended by itself; what it held is gone.
    TrainerExited {
        /// Whose.
        worker: WorkerId,
        /// The run it worked on, if any.
        run: Option<RunId>,
        /// In which generation; 0 without a run.
        generation: Generation,
        /// "exit status 1", "killed by signal 9 (SIGKILL)".
        cause: String,
        /// The end of what it printed.
        last_lines: Vec<String>,
    },
    /// The run cannot go on, whoever works on it.
    RunFailed {
        /// Who found out.
        worker: WorkerId,
        /// Which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// The state that the members hold is not to be trusted.
    Diverged {
        /// Who says so.
        worker: WorkerId,
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Steps done.
        step: Step,
        /// In which way.
        kind: Divergence,
        /// What was seen.
        reason: String,
    },
    /// A checkpoint's manifest is durable.
    CheckpointCommitted {
        /// Of which run.
        run: RunId,
        /// Which.
        at: CheckpointAt,
    },
    /// A checkpoint was found to be damaged or is gone.
    CheckpointLost {
        /// Of which run.
        run: RunId,
        /// Which.
        at: CheckpointAt,
    },
    /// The answer to [`crate::Effect::FindRestore`].
    RestoreFound {
        /// For which run.
        run: RunId,
        /// The newest good checkpoint; none if there is none.
        at: Option<CheckpointAt>,
    },
}

impl Event {
    /// The worker whose trainer must have been alive so long ago to have this said.
    pub(crate) fn speaker(&self) -> Option<(&WorkerId, Millis)> {
        match self {
            Event::Heartbeat { worker, trainer_silent_ms, .. } => Some((worker, Millis(*trainer_silent_ms))),
            Event::WorkerConnected { worker, .. }
            | Event::WorkerLeaving { worker }
            | Event::TrainerReady { worker }
            | Event::Progress { worker, .. }
            | Event::StepFailed { worker, .. }
            | Event::Paused { worker, .. }
            | Event::Finished { worker, .. }
            | Event::TrainerExited { worker, .. }
            | Event::RunFailed { worker, .. }
            | Event::Diverged { worker, .. } => Some((worker, Millis(0))),
            Event::Submit { .. }
            | Event::Cancel { .. }
            | Event::Resume { .. }
            | Event::CheckpointWanted { .. }
            | Event::WorkerDisconnected { .. }
            | Event::CheckpointCommitted { .. }
            | Event::CheckpointLost { .. }
            | Event::RestoreFound { .. } => None,
        }
    }
}
