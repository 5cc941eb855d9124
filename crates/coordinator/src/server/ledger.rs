//! The proof that every sample of every epoch was used exactly once, from the committed steps. Pure.
//!
//! Each slot walks through its turns in order, and through each turn's unit from the first sample to the last
//! ([`types::Cursor`]); the plan deals every unit of every epoch to exactly one turn of one slot. So it is enough that
//! no slot's walk has a gap or goes back, that the chain of digests fits, and that the plan's deal is what it promises.

use corpus::Plan;
use std::collections::{BTreeMap, BTreeSet};
use types::{Cursor, Digest, Segment, SlotId, Step};

/// More problems than this tell a person nothing new.
const PROBLEMS_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// No problem at all.
    pub ok: bool,
    /// Epochs that were used completely.
    pub epochs: u64,
    /// Samples used.
    pub samples: u64,
    /// Samples used more than once.
    pub duplicates: u64,
    /// Samples passed over.
    pub missing: u64,
    /// The last link of the chain, computed again.
    pub chain: Digest,
    /// In words.
    pub problems: Vec<String>,
    /// Steps committed.
    pub steps: u64,
}

/// Where a slot stands.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    cursor: Cursor,
    // Of the unit of this turn; None before its first segment.
    total: Option<u64>,
}

/// Takes the commits in order of step.
#[derive(Debug)]
pub struct Ledger {
    plan: Plan,
    walks: Vec<Walk>,
    chain: Digest,
    step: Step,
    samples: u64,
    duplicates: u64,
    missing: u64,
    // Units finished, by epoch; what was found complete and right moves to `epochs`.
    finished: BTreeMap<u64, BTreeSet<usize>>,
    epochs: u64,
    problems: Vec<String>,
    problem_count: usize,
}

impl Ledger {
    /// Of a run with this plan; nothing committed yet.
    pub fn new(plan: Plan) -> Self {
        let walks = vec![Walk::default(); plan.slots() as usize];
        Self {
            plan,
            walks,
            chain: Digest::default(),
            step: Step(0),
            samples: 0,
            duplicates: 0,
            missing: 0,
            finished: BTreeMap::new(),
            epochs: 0,
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }

    /// The next commit that stands.
    pub fn add(&mut self, step: Step, segments: &[Segment], samples_digest: Digest) {
        if step != self.step.next() {
            self.problem(format!("after step {} comes step {step}: commits are missing", self.step));
        }
        self.step = step;
        self.chain = self.chain.chain_samples(step, segments);
        if self.chain != samples_digest {
            self.problem(format!(
                "step {step}: the chain of samples gives {}, recorded is {samples_digest}",
                self.chain
            ));
            // Go on from what is recorded, so that one damaged commit is told once.
            self.chain = samples_digest;
        }
        for segment in segments {
            self.walk(step, *segment);
        }
    }

    fn walk(&mut self, step: Step, segment: Segment) {
        let Segment { slot, turn, start, end, total } = segment;
        let Some(walk) = self.walks.get(slot.0 as usize).copied() else {
            return self.problem(format!("step {step}: slot {slot}, but the run has {} slots", self.walks.len()));
        };
        if start > end || end > total {
            return self.problem(format!("step {step}: slot {slot}: {start}..{end} of {total} is no stretch"));
        }
        self.samples += end - start;
        let mut cursor = walk.cursor;
        if turn < cursor.turn {
            self.duplicates += end - start;
            return self.problem(format!(
                "step {step}: slot {slot} used samples {start}..{end} of turn {turn} again, it was at turn {}",
                cursor.turn
            ));
        }
        if turn > cursor.turn {
            // It left the unit before its end, if it was in one; units between were not used at all.
            let left = walk.total.map_or(0, |total| total - cursor.sample);
            let unseen = turn - cursor.turn - u64::from(walk.total.is_some());
            self.missing += left;
            if left > 0 || unseen > 0 {
                // How many samples an unseen unit has is not recorded: it counts as one.
                self.missing += unseen;
                self.problem(format!(
                    "step {step}: slot {slot} jumped from sample {} of turn {} to turn {turn}",
                    cursor.sample, cursor.turn
                ));
            }
            cursor = Cursor { turn, sample: 0 };
        } else if let Some(known) = walk.total
            && known != total
        {
            self.problem(format!("step {step}: slot {slot}, turn {turn} has {total} samples, before it had {known}"));
        }
        if start < cursor.sample {
            self.duplicates += end.min(cursor.sample) - start;
            self.problem(format!(
                "step {step}: slot {slot} used samples {start}..{} of turn {turn} again",
                end.min(cursor.sample)
            ));
        } else if start > cursor.sample {
            self.missing += start - cursor.sample;
            self.problem(format!(
                "step {step}: slot {slot} left out samples {}..{start} of turn {turn}",
                cursor.sample
            ));
        }
        let sample = cursor.sample.max(end);
        let walk = &mut self.walks[slot.0 as usize];
        if sample >= total {
            *walk = Walk { cursor: Cursor { turn: turn + 1, sample: 0 }, total: None };
            self.finish_unit(slot, turn);
        } else {
            *walk = Walk { cursor: Cursor { turn, sample }, total: Some(total) };
        }
    }

    fn finish_unit(&mut self, slot: SlotId, turn: u64) {
        let dealt = self.plan.deal(slot, turn);
        let units = self.plan.units().len();
        let finished = self.finished.entry(dealt.epoch).or_default();
        if !finished.insert(dealt.unit) {
            self.problem(format!("epoch {}: unit {} was dealt twice", dealt.epoch, dealt.unit));
        } else if finished.len() == units {
            self.finished.remove(&dealt.epoch);
            self.epochs += 1;
        }
    }

    /// `step` and `chain` are the run's own; right after a rewind it has no chain yet.
    pub fn finish(mut self, step: Step, chain: Option<Digest>) -> Report {
        if step != self.step {
            self.problem(format!("the run is at step {step}, its commits end at step {}", self.step));
        } else if let Some(chain) = chain.filter(|chain| *chain != self.chain) {
            self.problem(format!("the run's chain of samples is {chain}, its commits give {}", self.chain));
        }
        if self.problem_count > self.problems.len() {
            self.problems.push(format!("and {} more", self.problem_count - self.problems.len()));
        }
        Report {
            ok: self.problem_count == 0,
            epochs: self.epochs,
            samples: self.samples,
            duplicates: self.duplicates,
            missing: self.missing,
            chain: self.chain,
            problems: self.problems,
            steps: self.step.0,
        }
    }
}

#[cfg(test)]
mod tests;
