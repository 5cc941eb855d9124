//! What outlives the coordinator: the run records, the ledger and the checkpoints, each checked as it is written.

use crate::check::Ledger;
use crate::data::{Data, State};
use control::{CheckpointAt, Record, RunRecord};
use std::collections::{BTreeMap, BTreeSet};
use types::{Rank, RunId, Step};

/// One run's files and rows.
#[derive(Debug)]
pub struct Kept {
    pub record: RunRecord,
    pub ledger: Ledger,
    pub checkpoints: BTreeMap<CheckpointAt, State>,
    /// Shards that are there of checkpoints that are not complete.
    pub shards: BTreeMap<CheckpointAt, BTreeSet<Rank>>,
    /// Checkpoints with a flipped byte.
    pub corrupt: BTreeSet<CheckpointAt>,
    /// A bad state was restored, or handed on to another member, when nobody knew yet: nothing is promised any more.
    pub tainted: bool,
}

impl Kept {
    /// The newest checkpoint that verifies, is of the history as it stands and not past `at_most`.
    pub fn newest_good(&self, at_most: Step) -> Option<CheckpointAt> {
        let good = |at: &&CheckpointAt| {
            at.step <= at_most && !self.corrupt.contains(at) && self.ledger.stands(at.generation, at.step)
        };
        self.checkpoints.keys().rev().find(good).copied()
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Disk {
    pub runs: BTreeMap<RunId, Kept>,
    /// The data of runs, known before their first record.
    pub data: BTreeMap<RunId, Data>,
}

impl Disk {
    /// Makes one record durable.
    pub fn persist(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Run(record) => self.upsert(record),
            Record::Attempt { run, attempt, from_step } => {
                let kept = self.kept(&run)?;
                kept.ledger.attempt(attempt, from_step)?;
                kept.record.begin_attempt(attempt, from_step);
                Ok(())
            }
            Record::Commit { run, attempt, generation, step, segments, samples_digest } => {
                let kept = self.kept(&run)?;
                if generation > kept.record.generation || attempt != kept.record.attempt {
                    return Err(format!("{run}: commit {step} of generation {generation}, attempt {attempt}"));
                }
                kept.ledger.commit((attempt, generation), step, &segments, samples_digest)?;
                kept.record.advance(step, samples_digest);
                Ok(())
            }
            Record::Note { .. } => Ok(()),
        }
    }

    fn upsert(&mut self, record: RunRecord) -> Result<(), String> {
        let id = record.id.clone();
        let Some(kept) = self.runs.get_mut(&id) else {
            let ledger = Ledger::new(self.data[&id].clone());
            let (checkpoints, shards, corrupt) = Default::default();
            self.runs.insert(id, Kept { record, ledger, checkpoints, shards, corrupt, tainted: false });
            return Ok(());
        };
        if record.generation < kept.record.generation || record.attempt < kept.record.attempt {
            return Err(format!("{id}: generation or attempt went back"));
        }
        let dealt: Vec<u32> = record.members.iter().flat_map(|member| &member.slots).map(|slot| slot.0).collect();
        if !record.members.is_empty() && dealt != (0..record.spec.slots).collect::<Vec<_>>() {
            return Err(format!("{id}: the slots are dealt as {dealt:?}"));
        }
        if record.step.0 != kept.ledger.step() && record.attempt == kept.record.attempt {
            return Err(format!("{id}: the record is at step {}, the ledger at {}", record.step, kept.ledger.step()));
        }
        kept.record = record;
        Ok(())
    }

    fn kept(&mut self, run: &RunId) -> Result<&mut Kept, String> {
        self.runs.get_mut(run).ok_or_else(|| format!("{run} was never persisted"))
    }

    /// What a starting coordinator reads.
    pub fn records(&self) -> Vec<RunRecord> {
        self.runs.values().map(|kept| kept.record.clone()).collect()
    }
}
