//! How much of its corpus a run has used, from where its slots stand. Pure. The proof is [`super::ledger`]'s.

use corpus::Plan;
use types::Segment;

/// Epochs that are used up, after a step that used `segments`; `None` if not all slots are in it.
///
/// The units lie in one endless row: position p = turn · slots + slot, epoch = p / units.
pub fn epochs(plan: &Plan, segments: &[Segment]) -> Option<u64> {
    let slots = u64::from(plan.slots());
    let next = |slot: u64| {
        let last = segments.iter().rev().find(|segment| u64::from(segment.slot.0) == slot)?;
        let turn = last.turn + u64::from(last.end == last.total);
        Some(turn * slots + slot)
    };
    let first_unused = (0..slots).map(next).collect::<Option<Vec<_>>>()?.into_iter().min()?;
    first_unused.checked_div(plan.units().len() as u64)
}
