//! Bugs that a test plants to see that the simulator finds them. Without the feature `planted-bugs` there is no way to
//! plant one, and nothing of this is left after compilation.

use crate::Control;

/// What can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// A coordinator that starts again counts generations from zero.
    GenerationRestarts,
    /// A report of a generation that is over is committed.
    OldCommit,
}

impl Control {
    /// Breaks it.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[allow(clippy::unused_self, reason = "it has a part in the other build")]
    pub(crate) fn has(&self, _bug: PlantedBug) -> bool {
        false
    }
}
