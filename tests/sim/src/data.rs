//! The corpus as the simulator sees it: units of different sizes, dealt to slots, and the samples of each step.

use types::{Cursor, Digest, Segment, SlotId, Step};

/// A small corpus and how a run walks through it. A pure function of its fields.
#[derive(Clone, Debug)]
pub struct Data {
    pub seed: u64,
    pub units: u64,
    pub slots: u32,
    /// Samples of one slot in one step.
    pub samples: u64,
}

/// What a trainer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub step: Step,
    pub digest: Digest,
    pub cursors: Vec<Cursor>,
}

impl Data {
    /// Before the first step.
    pub fn initial(&self) -> State {
        let cursors = vec![Cursor::default(); self.slots as usize];
        State { step: Step(0), digest: Digest::default(), cursors }
    }

    /// One step of all slots.
    pub fn step(&self, state: &State) -> (Vec<Segment>, State) {
        let mut next = state.clone();
        let mut segments = Vec::new();
        for (slot, cursor) in (0..self.slots).map(SlotId).zip(&mut next.cursors) {
            self.take(slot, cursor, &mut segments);
        }
        next.step = state.step.next();
        next.digest = state.digest.chain_samples(next.step, &segments);
        (segments, next)
    }

    fn take(&self, slot: SlotId, cursor: &mut Cursor, segments: &mut Vec<Segment>) {
        let mut missing = self.samples;
        while missing > 0 {
            let total = self.unit_samples(slot, cursor.turn);
            let taken = missing.min(total - cursor.sample);
            if taken > 0 {
                let (start, end) = (cursor.sample, cursor.sample + taken);
                segments.push(Segment { slot, turn: cursor.turn, start, end, total });
            }
            cursor.sample += taken;
            missing -= taken;
            if cursor.sample == total {
                *cursor = Cursor { turn: cursor.turn + 1, sample: 0 };
            }
        }
    }

    /// How many samples a slot's turn has: of the unit dealt to it, in that epoch. Some have none.
    fn unit_samples(&self, slot: SlotId, turn: u64) -> u64 {
        let position = turn * u64::from(self.slots) + u64::from(slot.0);
        let (epoch, unit) = (position / self.units, position % self.units);
        let bytes = [self.seed, epoch, unit].map(u64::to_le_bytes).concat();
        u64::from(Digest::blake3(&bytes).0[0] % 9)
    }
}
