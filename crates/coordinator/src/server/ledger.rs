//! The proof that every sample of every epoch was used exactly once, from the committed steps. Pure.
//!
//! The plan deals every unit of every epoch to exactly one turn of one slot; each slot walks through its turns in order,
//! through each turn's unit from the first sample to the last ([`types::Cursor`]), by as many samples as the config has
//! for a slot in that step. So what every step has to use follows from the plan, the config and from how many samples its
//! units make: that is computed here again, step by step, and compared with what was committed, and so is the chain of
//! digests over it.
//!
//! How many samples a unit makes is taken as the workers reported it, unless whoever asks has made the units again and
//! says so with [`Ledger::made`].

use config::BatchConfig;
use corpus::{Dealt, Plan};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// The last link of the chain, computed again from the plan.
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
    batch: BatchConfig,
    total_steps: u64,
    walks: Vec<Walk>,
    // Samples of units that were made again and are not used up.
    made: HashMap<Dealt, u64>,
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
    /// Of a run with this plan and this batch, of `total_steps` steps; nothing committed yet.
    pub fn new(plan: Plan, batch: BatchConfig, total_steps: u64) -> Self {
        let walks = vec![Walk::default(); plan.slots() as usize];
        Self {
            plan,
            batch,
            total_steps,
            walks,
            made: HashMap::new(),
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
        let a_slot = self.batch.slot_samples_at(step.0, self.total_steps);
        let due = self.due(a_slot, segments);
        let known = self.problem_count;
        self.chain = self.chain.chain_samples(step, due.as_deref().unwrap_or(segments));
        if self.chain != samples_digest {
            self.problem(format!(
                "step {step}: the chain of samples gives {}, recorded is {samples_digest}",
                self.chain
            ));
            // Go on from what is recorded, so that one damaged commit is told once.
            self.chain = samples_digest;
        }
        self.count(step, a_slot, segments);
        for segment in segments {
            self.walk(step, *segment);
        }
        if due.is_none_or(|due| due != segments) && self.problem_count == known {
            self.problem(format!("step {step}: its samples are not listed as the plan deals them"));
        }
    }

    /// What the plan has the slots use, `a_slot` samples each, after all that was committed before; nothing if that cannot
    /// be told, since `segments` leave out a unit that is due.
    fn due(&self, a_slot: u64, segments: &[Segment]) -> Option<Vec<Segment>> {
        let reported: HashMap<(SlotId, u64), u64> =
            segments.iter().map(|segment| ((segment.slot, segment.turn), segment.total)).collect();
        let mut due = Vec::with_capacity(segments.len());
        for (slot, walk) in (0..).map(SlotId).zip(&self.walks) {
            let Walk { cursor: Cursor { mut turn, mut sample }, .. } = *walk;
            let mut wanted = a_slot;
            while wanted > 0 {
                let said = reported.get(&(slot, turn)).copied();
                let total = self.remade(slot, turn).or(said)?;
                let taken = wanted.min(total.checked_sub(sample)?);
                let end = sample + taken;
                due.push(Segment { slot, turn, start: sample, end, total });
                (wanted, sample) = (wanted - taken, end);
                if end == total {
                    (turn, sample) = (turn + 1, 0);
                }
            }
        }
        Some(due)
    }

    /// Every slot uses the same number of samples in a step.
    fn count(&mut self, step: Step, a_slot: u64, segments: &[Segment]) {
        let mut used = vec![0_u64; self.walks.len()];
        for segment in segments {
            if let Some(used) = used.get_mut(segment.slot.0 as usize) {
                *used = used.saturating_add(segment.end.saturating_sub(segment.start));
            }
        }
        for (slot, used) in used.into_iter().enumerate().filter(|(_, used)| *used != a_slot) {
            self.problem(format!("step {step}: slot {slot} used {used} samples instead of {a_slot}"));
        }
    }

    /// Units of these segments that were not made again yet.
    pub fn unmade<'a>(&self, segments: impl IntoIterator<Item = &'a Segment>) -> BTreeSet<(u64, usize)> {
        let dealt = segments.into_iter().filter_map(|segment| self.dealt(segment.slot, segment.turn));
        dealt.filter(|dealt| !self.made.contains_key(dealt)).map(|Dealt { epoch, unit }| (epoch, unit)).collect()
    }

    fn dealt(&self, slot: SlotId, turn: u64) -> Option<Dealt> {
        let slots = self.walks.len() as u64;
        let there_is = u64::from(slot.0) < slots && turn < u64::MAX / slots;
        there_is.then(|| self.plan.deal(slot, turn))
    }

    fn remade(&self, slot: SlotId, turn: u64) -> Option<u64> {
        self.dealt(slot, turn).and_then(|dealt| self.made.get(&dealt)).copied()
    }

    /// A unit was made again: it has so many samples, whatever is reported of it.
    pub fn made(&mut self, dealt: Dealt, samples: u64) {
        self.made.insert(dealt, samples);
    }

    fn walk(&mut self, step: Step, segment: Segment) {
        let Segment { slot, turn, start, end, mut total } = segment;
        let Some(walk) = self.walks.get(slot.0 as usize).copied() else {
            return self.problem(format!("step {step}: slot {slot}, but the run has {} slots", self.walks.len()));
        };
        if start > end || end > total {
            return self.problem(format!("step {step}: slot {slot}: {start}..{end} of {total} is no stretch"));
        }
        // Nobody has checked what a worker reports: also numbers that no run reaches must only be told.
        if self.dealt(slot, turn).is_none() {
            return self.problem(format!("step {step}: slot {slot}: there is no turn {turn}"));
        }
        self.samples = self.samples.saturating_add(end - start);
        if let Some(made) = self.remade(slot, turn).filter(|made| *made != total) {
            self.problem(format!(
                "step {step}: slot {slot}: {total} samples were reported for turn {turn}, but its unit makes {made}"
            ));
            total = made;
        }
        let mut cursor = walk.cursor;
        if turn < cursor.turn {
            self.duplicates = self.duplicates.saturating_add(end - start);
            return self.problem(format!(
                "step {step}: slot {slot} used samples {start}..{end} of turn {turn} again, it was at turn {}",
                cursor.turn
            ));
        }
        if turn > cursor.turn {
            // It left the unit before its end, if it was in one; units between were not used at all.
            let left = walk.total.map_or(0, |total| total - cursor.sample);
            let unseen = turn - cursor.turn - u64::from(walk.total.is_some());
            self.missing = self.missing.saturating_add(left);
            if left > 0 || unseen > 0 {
                // How many samples an unseen unit has is not recorded: it counts as one.
                self.missing = self.missing.saturating_add(unseen);
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
            self.duplicates = self.duplicates.saturating_add(end.min(cursor.sample) - start);
            self.problem(format!(
                "step {step}: slot {slot} used samples {start}..{} of turn {turn} again",
                end.min(cursor.sample)
            ));
        } else if start > cursor.sample {
            self.missing = self.missing.saturating_add(start - cursor.sample);
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
        self.made.remove(&dealt);
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
