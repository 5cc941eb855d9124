//! What names a checkpoint, and where it lies in the store.

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::fmt;
use types::{Generation, RunId, Step};

/// A checkpoint of a run, named by the generation that wrote it and its step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckpointId {
    /// Whose checkpoint.
    pub run: RunId,
    /// The generation that wrote it.
    pub generation: Generation,
    /// Steps done.
    pub step: Step,
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.run, self.generation, self.step)
    }
}

impl CheckpointId {
    /// The order in which a run's checkpoints were made. Generations only grow, so a checkpoint that was written after
    /// a rewind is newer than one of a later step that was written before it.
    pub fn age(&self) -> (Generation, Step) {
        (self.generation, self.step)
    }

    /// The folder of this checkpoint below `base`.
    pub(super) fn folder(&self, base: &Path) -> Path {
        run_folder(base, &self.run).join(format!("{}-{}", self.generation, self.step))
    }

    /// The checkpoint that a folder of `run` holds; `None` if its name is not one of ours.
    pub(super) fn of_folder(run: &RunId, folder: &Path) -> Option<Self> {
        let (generation, step) = folder.filename()?.split_once('-')?;
        let id =
            Self { run: run.clone(), generation: Generation(generation.parse().ok()?), step: Step(step.parse().ok()?) };
        (folder.filename() == Some(&format!("{}-{}", id.generation, id.step))).then_some(id)
    }
}

/// The folder of all checkpoints of a run below `base`.
pub(super) fn run_folder(base: &Path, run: &RunId) -> Path {
    base.clone().join("runs").join(run.as_str()).join("checkpoints")
}
