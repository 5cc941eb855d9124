//! Positions in the data order and the stretches of it that a step used.

use crate::{Digest, SlotId, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a slot stands in its own endless list of units: the next sample it will use.
///
/// Turn `turn` of slot `v` of `V` is position `turn * V + v` of the endless stream of units, epoch after epoch; so
/// every unit of every epoch is dealt exactly once, whatever the number of units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Cursor {
    /// How many units this slot has finished.
    pub turn: u64,
    /// The next sample within the unit of this turn.
    pub sample: u64,
}

/// A stretch of one unit's samples that one slot used in one step: `start..end` of `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// Which slot used it.
    pub slot: SlotId,
    /// The slot's turn, and so the epoch and the unit (see [`Cursor`]).
    pub turn: u64,
    /// First sample used.
    pub start: u64,
    /// One past the last sample used.
    pub end: u64,
    /// How many samples the unit has.
    pub total: u64,
}

impl Digest {
    /// The next link of a run's chain of samples: blake3 over the last link, the step and the segments in slot order.
    #[must_use]
    pub fn chain_samples(self, step: Step, segments: &[Segment]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&step.0.to_le_bytes());
        for segment in segments {
            hasher.update(&segment.slot.0.to_le_bytes());
            for value in [segment.turn, segment.start, segment.end, segment.total] {
                hasher.update(&value.to_le_bytes());
            }
        }
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_every_field() {
        let segment = Segment { slot: SlotId(1), turn: 2, start: 3, end: 4, total: 5 };
        let base = Digest::default().chain_samples(Step(1), &[segment]);
        let others = [
            Digest::default().chain_samples(Step(2), &[segment]),
            base.chain_samples(Step(1), &[segment]),
            Digest::default().chain_samples(Step(1), &[Segment { slot: SlotId(2), ..segment }]),
            Digest::default().chain_samples(Step(1), &[Segment { turn: 3, ..segment }]),
            Digest::default().chain_samples(Step(1), &[Segment { total: 6, ..segment }]),
            Digest::default().chain_samples(Step(1), &[]),
        ];
        assert!(others.iter().all(|other| *other != base));
    }
}
