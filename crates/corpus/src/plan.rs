//! The plan: which unit a slot works on in which turn, for ever. Pure; needs no file.
//!
//! The training units, permuted by (seed, epoch), make an endless stream, epoch after epoch. Turn `t` of slot `v` of
//! `V` is position `p = t · V + v`; its epoch is `p / U` and its unit `permutation(seed, epoch)[p % U]`. So every unit
//! of every epoch is dealt exactly once for any number of slots, also when there are fewer units than slots. The
//! permutation is Fisher–Yates on a ChaCha8 stream (see `random`), so it never changes.

use crate::random::Stream;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use types::SlotId;

/// The smallest piece of corpus that is assigned: a range of rows within one row group of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Unit {
    /// Index into the corpus's files.
    pub file: u32,
    /// Row group of the file.
    pub row_group: u32,
    /// First row within the row group.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
}

/// What [`Plan::deal`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dealt {
    /// How often the whole training set has been dealt before.
    pub epoch: u64,
    /// Index into [`Plan::units`].
    pub unit: usize,
}

/// The endless deal of training units to slots, and the units that are held out from it.
#[derive(Debug)]
pub struct Plan {
    units: Vec<Unit>,
    eval_units: Vec<Unit>,
    slots: u32,
    seed: u64,
    /// The permutations asked for last: neighbouring turns share one, and making it is linear in the units.
    recent: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl Clone for Plan {
    fn clone(&self) -> Self {
        Self::new(self.units.clone(), self.eval_units.clone(), self.slots, self.seed)
    }
}

/// Slots near the end of an epoch work in two epochs at once; a third leaves room for one that runs ahead.
const KEPT_PERMUTATIONS: usize = 3;

impl Plan {
    /// A plan over `units`. Panics without a unit or without a slot: whoever builds one has reported that before.
    pub fn new(units: Vec<Unit>, eval_units: Vec<Unit>, slots: u32, seed: u64) -> Self {
        assert!(!units.is_empty(), "a plan needs at least one training unit");
        assert!(slots > 0, "a plan needs at least one slot");
        Self { units, eval_units, slots, seed, recent: Mutex::new(Vec::new()) }
    }

    /// The unit of `slot`'s turn number `turn`.
    pub fn deal(&self, slot: SlotId, turn: u64) -> Dealt {
        let position = self.position(slot, turn);
        let count = self.units.len() as u64;
        let epoch = position / count;
        Dealt { epoch, unit: self.permutation(epoch)[(position % count) as usize] as usize }
    }

    /// Where `slot`'s turn stands in the endless stream: `turn · slots + slot`.
    pub fn position(&self, slot: SlotId, turn: u64) -> u64 {
        assert!(slot.0 < self.slots, "slot {slot} of {}", self.slots);
        turn.checked_mul(u64::from(self.slots)).and_then(|p| p.checked_add(u64::from(slot.0))).expect("turn overflow")
    }

    /// The order of the units in `epoch`: indices into [`Plan::units`].
    pub fn permutation(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, order)) = recent.iter().find(|(known, _)| *known == epoch) {
            return order.clone();
        }
        let order: Arc<[u32]> = Stream::new("plan", &[self.seed, epoch]).permutation(self.units.len()).into();
        if recent.len() == KEPT_PERMUTATIONS {
            recent.remove(0);
        }
        recent.push((epoch, order.clone()));
        order
    }

    /// V.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The training units, in file order.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The held-out units, in file order.
    pub fn eval_units(&self) -> &[Unit] {
        &self.eval_units
    }

    /// Of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Cuts row groups into units of `unit_rows` rows at most. `row_groups`: (file, row group, rows).
pub(crate) fn cut(row_groups: impl Iterator<Item = (u32, u32, u64)>, unit_rows: u64) -> Vec<Unit> {
    let mut units = Vec::new();
    for (file, row_group, rows) in row_groups {
        let mut first_row = 0;
        while first_row < rows {
            let taken = unit_rows.min(rows - first_row);
            units.push(Unit { file, row_group, first_row, rows: taken });
            first_row += taken;
        }
    }
    units
}

/// Holds out `fraction` of the units, chosen by the seed, at least one. A corpus of a single unit is cut in two, so
/// that a small file has something held out too; a single row stays in training.
pub(crate) fn hold_out(units: Vec<Unit>, fraction: f64, seed: u64) -> (Vec<Unit>, Vec<Unit>) {
    if fraction <= 0.0 || units.is_empty() {
        return (units, Vec::new());
    }
    if let [unit] = units[..] {
        if unit.rows < 2 {
            return (units, Vec::new());
        }
        let held = ((unit.rows as f64 * fraction).round() as u64).clamp(1, unit.rows / 2);
        let kept = unit.rows - held;
        let train = Unit { rows: kept, ..unit };
        let eval = Unit { first_row: unit.first_row + kept, rows: held, ..unit };
        return (vec![train], vec![eval]);
    }
    let count = ((units.len() as f64 * fraction).round() as usize).clamp(1, units.len() / 2);
    let mut held = vec![false; units.len()];
    for index in &Stream::new("hold out", &[seed]).permutation(units.len())[..count] {
        held[*index as usize] = true;
    }
    let mut train = Vec::with_capacity(units.len() - count);
    let mut eval = Vec::with_capacity(count);
    for (unit, held) in units.into_iter().zip(held) {
        if held { eval.push(unit) } else { train.push(unit) }
    }
    (train, eval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn units(count: u64) -> Vec<Unit> {
        cut([(0, 0, count * 10)].into_iter(), 10)
    }

    proptest! {
        #[test]
        fn every_unit_is_dealt_once_an_epoch(count in 1u64..40, slots in 1u32..50, seed: u64, epochs in 1u64..4) {
            let plan = Plan::new(units(count), Vec::new(), slots, seed);
            let mut dealt = vec![0u32; (count * epochs) as usize];
            let turns = (count * epochs).div_ceil(u64::from(slots));
            for turn in 0..turns {
                for slot in 0..slots {
                    let Dealt { epoch, unit } = plan.deal(SlotId(slot), turn);
                    if epoch < epochs {
                        dealt[(epoch * count) as usize + unit] += 1;
                    }
                }
            }
            prop_assert!(dealt.iter().all(|times| *times == 1), "{dealt:?}");
        }

        #[test]
        fn cutting_loses_no_row(rows in proptest::collection::vec(0u64..100, 0..8), unit_rows in 1u64..40) {
            let cut = cut(rows.iter().enumerate().map(|(group, rows)| (0, group as u32, *rows)), unit_rows);
            for (group, rows) in rows.iter().enumerate() {
                let mut next = 0;
                for unit in cut.iter().filter(|unit| unit.row_group == group as u32) {
                    prop_assert_eq!(unit.first_row, next);
                    prop_assert!(unit.rows > 0 && unit.rows <= unit_rows);
                    next += unit.rows;
                }
                prop_assert_eq!(next, *rows);
            }
        }

        #[test]
        fn holding_out_parts_the_units(count in 1u64..200, fraction in 0.0f64..0.5, seed: u64) {
            let all = units(count);
            let (train, eval) = hold_out(all.clone(), fraction, seed);
            let rows = |units: &[Unit]| units.iter().map(|unit| unit.rows).sum::<u64>();
            prop_assert_eq!(rows(&train) + rows(&eval), rows(&all));
            prop_assert!(!train.is_empty());
            prop_assert!(fraction == 0.0 || !eval.is_empty());
            prop_assert!(eval.iter().all(|unit| !train.contains(unit)));
        }
    }

    #[test]
    fn epochs_differ_and_seeds_differ() {
        let plan = Plan::new(units(100), Vec::new(), 4, 1);
        assert_ne!(plan.permutation(0), plan.permutation(1));
        assert_ne!(plan.permutation(0), Plan::new(units(100), Vec::new(), 4, 2).permutation(0));
        let first = plan.permutation(0);
        for epoch in 1..10 {
            plan.permutation(epoch);
        }
        assert_eq!(plan.permutation(0), first, "the cache changes nothing");
    }
}
