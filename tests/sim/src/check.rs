//! What must hold of every history.

use crate::data::{Data, State};
use std::collections::BTreeMap;
use types::{Attempt, Digest, Generation, Segment, SlotId, Step};

/// The commits of a run, compared with what the data plan says.
#[derive(Debug)]
pub struct Ledger {
    data: Data,
    /// Of the visible history: `states[n]` is what n steps lead to.
    states: Vec<State>,
    /// The visible segments of every step.
    segments: Vec<Vec<Segment>>,
    /// And the generation that committed it.
    generations: Vec<Generation>,
    attempt: Attempt,
}

impl Ledger {
    pub fn new(data: Data) -> Self {
        Self { states: vec![data.initial()], data, segments: Vec::new(), generations: Vec::new(), attempt: Attempt(1) }
    }

    /// The last visible step.
    pub fn step(&self) -> u64 {
        self.segments.len() as u64
    }

    /// The chain of samples up to there.
    pub fn digest(&self) -> Digest {
        self.states.last().expect("the initial state is there").digest
    }

    /// A new attempt supersedes the steps after `from`.
    pub fn attempt(&mut self, attempt: Attempt, from: Step) -> Result<(), String> {
        if attempt <= self.attempt || from.0 > self.step() {
            return Err(format!("attempt {attempt} from step {from} after {} at {}", self.attempt, self.step()));
        }
        self.attempt = attempt;
        self.segments.truncate(from.0 as usize);
        self.generations.truncate(from.0 as usize);
        self.states.truncate(from.0 as usize + 1);
        Ok(())
    }

    /// The next step; every step once, with the samples that the plan says.
    pub fn commit(
        &mut self,
        (attempt, generation): (Attempt, Generation),
        step: Step,
        used: &[Segment],
        digest: Digest,
    ) -> Result<(), String> {
        if attempt != self.attempt || step.0 != self.step() + 1 {
            return Err(format!("commit of step {step}, attempt {attempt}, after step {}", self.step()));
        }
        let (segments, state) = self.data.step(self.states.last().expect("the initial state is there"));
        if segments != used || state.digest != digest {
            return Err(format!("step {step} used {used:?}, the plan says {segments:?}"));
        }
        self.segments.push(segments);
        self.generations.push(generation);
        self.states.push(state);
        Ok(())
    }

    /// Whether a checkpoint is of this history.
    pub fn stands(&self, generation: Generation, step: Step) -> bool {
        let Some(before) = step.0.checked_sub(1) else { return true };
        self.generations.get(before as usize).is_some_and(|committed| *committed <= generation)
    }

    /// Every sample once in each turn, without a hole, in order; and every unit once in each epoch.
    pub fn verify(&self) -> Result<(), String> {
        let mut used: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
        for segment in self.segments.iter().flatten() {
            let (next, total) = used.entry((segment.slot.0, segment.turn)).or_insert((0, segment.total));
            if segment.start != *next || segment.total != *total || segment.end > *total {
                return Err(format!("{segment:?} does not continue at {next} of {total}"));
            }
            *next = segment.end;
        }
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (slot, turn) in used.keys() {
            last.insert(*slot, *turn);
        }
        let mut dealt = BTreeMap::new();
        for (slot, turn) in last.iter().flat_map(|(slot, last)| (0..=*last).map(|turn| (*slot, turn))) {
            let unit = self.data.deal(SlotId(slot), turn);
            if let Some(other) = dealt.insert((unit.epoch, unit.unit), (slot, turn)) {
                return Err(format!(
                    "unit {} of epoch {} is dealt to {other:?} and {:?}",
                    unit.unit,
                    unit.epoch,
                    (slot, turn)
                ));
            }
        }
        let cut = used.iter().find(|((slot, turn), (next, total))| next < total && last[slot] != *turn);
        cut.map_or(Ok(()), |(key, _)| Err(format!("the slot and turn {key:?} were left before the end")))
    }
}
