//! The corpus as the simulator sees it: units of different sizes, dealt to slots, and the samples of each step.

use corpus::{Dealt, Plan, Unit};
use types::{Cursor, Digest, Segment, SlotId, Step};

/// A small corpus and how a run walks through it: the real plan over units of invented sizes.
#[derive(Clone, Debug)]
pub struct Data {
    plan: Plan,
    /// Samples of one slot in one step.
    samples: u64,
    /// A planted bug: some units are dealt twice.
    pub deals_twice: bool,
}

/// What a trainer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub step: Step,
    pub digest: Digest,
    pub cursors: Vec<Cursor>,
    /// Since this step every step was skipped, or the numbers are wrong in another way.
    pub bad_since: Option<Step>,
    /// A bit flipped in this replica, or in the one that it comes from; which one.
    pub flipped: Option<u32>,
}

impl State {
    /// Of the parameters: bad ones differ.
    pub fn weights(&self) -> Digest {
        let skipped = self.bad_since.map_or(self.digest, |step| self.digest.chain_samples(step, &[]));
        self.flipped.map_or(skipped, |flip| skipped.chain_samples(Step(u64::from(flip)), &[]))
    }
}

impl Data {
    /// A corpus of so many units.
    pub fn new(seed: u64, units: u32, slots: u32, samples: u64) -> Self {
        let unit = |row_group| Unit { file: 0, row_group, first_row: 0, rows: 1 };
        Self { plan: Plan::new((0..units).map(unit).collect(), Vec::new(), slots, seed), samples, deals_twice: false }
    }

    /// Of the run.
    pub fn seed(&self) -> u64 {
        self.plan.seed()
    }

    /// Before the first step.
    pub fn initial(&self) -> State {
        let cursors = vec![Cursor::default(); self.plan.slots() as usize];
        State { step: Step(0), digest: Digest::default(), cursors, bad_since: None, flipped: None }
    }

    /// One step of all slots.
    pub fn step(&self, state: &State) -> (Vec<Segment>, State) {
        let mut next = state.clone();
        let mut segments = Vec::new();
        for (slot, cursor) in (0..self.plan.slots()).map(SlotId).zip(&mut next.cursors) {
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

    /// The unit of a slot's turn.
    pub fn deal(&self, slot: SlotId, turn: u64) -> Dealt {
        let twice = self.deals_twice && turn % 4 == 3;
        self.plan.deal(slot, if twice { turn - 1 } else { turn })
    }

    /// How many samples a slot's turn has: of the unit dealt to it, in that epoch. Some have none; not all, or a step
    /// would never find its samples.
    fn unit_samples(&self, slot: SlotId, turn: u64) -> u64 {
        let Dealt { epoch, unit } = self.deal(slot, turn);
        let bytes = [self.plan.seed(), epoch, unit as u64].map(u64::to_le_bytes).concat();
        u64::from(Digest::blake3(&bytes).0[0] % 9).max(u64::from(unit == 0))
    }
}
