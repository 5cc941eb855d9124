//! Dealing V slots to W workers.

use types::SlotId;

/// Contiguous stretches in rank order whose sizes differ by at most one; every worker gets at least one slot.
/// Needs `1 <= workers <= slots`.
pub(crate) fn deal(slots: u32, workers: u32) -> Vec<Vec<SlotId>> {
    assert!(workers >= 1 && workers <= slots, "{workers} workers cannot share {slots} slots");
    let bound = |rank: u32| u32::try_from(u64::from(rank) * u64::from(slots) / u64::from(workers)).expect("<= slots");
    (0..workers).map(|rank| (bound(rank)..bound(rank + 1)).map(SlotId).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_slot_is_dealt_once_and_evenly(slots in 1u32..300, share in 0.0f64..1.0) {
            let workers = 1 + ((slots - 1) as f64 * share) as u32;
            let dealt = deal(slots, workers);
            prop_assert_eq!(dealt.len(), workers as usize);
            prop_assert_eq!(dealt.concat(), (0..slots).map(SlotId).collect::<Vec<_>>());
            let sizes = dealt.iter().map(Vec::len);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
