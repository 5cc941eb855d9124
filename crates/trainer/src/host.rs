//! What a trainer is told, what it asks for and what it reports.

use crate::Capture;
use std::collections::BTreeMap;
use types::{Attempt, Digest, Generation, Rank, RunId, Segment, SlotId, Step, WorldSize};

/// This worker's part in one generation of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The run.
    pub run: RunId,
    /// The generation.
    pub generation: Generation,
    /// The attempt. State that was made in another attempt is not used.
    pub attempt: Attempt,
    /// This worker's rank.
    pub rank: Rank,
    /// Members in all.
    pub world: WorldSize,
    /// The slots this worker computes.
    pub slots: Vec<SlotId>,
}

/// What is wanted at the next step boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Save a checkpoint there.
    pub checkpoint: bool,
    /// Stop there and return [`Outcome::Paused`].
    pub pause: bool,
}

/// What the trainer is doing; the names are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Agreeing on the state, reading or broadcasting it.
    Restore,
    /// Waiting for samples.
    Data,
    /// Forward and backward passes.
    Compute,
    /// In a collective of the step; in `fast` mode also in the backward pass that the buckets are sent from. (In `exact`
    /// mode another thread sends them, while this one is in `Compute`.)
    Reduce,
    /// Clipping and the optimizer.
    Update,
    /// Measuring on held-out samples.
    Evaluate,
    /// Copying the state for a checkpoint, or waiting until checkpoints are stored.
    Checkpoint,
}

/// A step was applied (or skipped by everyone alike). All members report the same, but for `tokens` and `seconds`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: Step,
    /// What all slots used in it, in slot order.
    pub segments: Vec<Segment>,
    /// The chain of samples up to and with this step.
    pub samples_digest: Digest,
    /// `train/…` of this step, and `eval/…` where it was evaluated.
    pub metrics: Vec<(String, f64)>,
    /// Tokens that this worker alone computed in this step.
    pub tokens: u64,
    /// Seconds it spent on them (forward and backward passes), waiting for others excluded.
    pub seconds: f64,
}

/// All files of one checkpoint, by name. The number of workers that wrote it does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// File name → bytes.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The trainer's surroundings. All methods are called from the thread that called [`crate::Trainer::run`].
pub trait Host {
    /// What is wanted now. Asked once a step; a wish counts when any member has it, so it may be answered `true` until
    /// it is fulfilled ([`Host::checkpoint`] was called, or `run` returned).
    fn requests(&self) -> Requests;

    /// A new phase began. Must not block.
    fn phase(&self, phase: Phase);

    /// A part of the phase is done: a micro-batch, a held-out batch, a tensor of the state. One that goes on like this does not hang, however
    /// long it takes. Must not block.
    fn moved(&self) {}

    /// A step is done. Must not wait for the network.
    fn progress(&self, report: StepReport);

    /// Stores this worker's share of a checkpoint in the background; serialise with [`Capture::files`] there. That of the
    /// last step is worth every patience.
    fn checkpoint(&self, capture: Capture);

    /// Waits until every checkpoint handed over is stored, or says why one is not.
    fn wait_for_checkpoints(&self) -> Result<(), String>;

    /// The files of the checkpoint named in the assignment; `None` where it names none. Asked on rank 0 only, and only
    /// when no member holds any state. An error says nothing of the run: another checkpoint may be good, and another
    /// worker may read it.
    fn restore(&self) -> Result<Option<CheckpointFiles>, String>;

    /// The files (`config.json` and `model.safetensors` are enough) of the checkpoint that `init.from = "run:…"` names:
    /// asked on rank 0 only, when there is nothing to restore. Or of the one that `distill.teacher = "run:…"` names: asked
    /// on every member, once.
    fn parent(&self) -> Result<CheckpointFiles, String>;
}

/// How [`crate::Trainer::run`] ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A pause was agreed; the state stays in memory.
    Paused {
        /// Steps done.
        step: Step,
    },
    /// The last step is done, evaluated, and its checkpoint is stored.
    Finished {
        /// Steps done: all.
        step: Step,
        /// SHA-256 of all parameters in name order; of the averaged ones where weights are averaged.
        weights_digest: Digest,
    },
}
