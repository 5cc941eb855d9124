//! Dealing V slots to W workers.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use types::SlotId;

/// Contiguous stretches of these lengths, in rank order.
pub(crate) fn deal(shares: &[u32]) -> Vec<Vec<SlotId>> {
    let mut next = 0;
    let stretch = |share: &u32| {
        let first = next;
        next += share;
        (first..next).map(SlotId).collect()
    };
    shares.iter().map(stretch).collect()
}

/// Shares that differ by at most one. Needs `1 <= workers <= slots`.
pub(crate) fn even(slots: u32, workers: usize) -> Vec<u32> {
    let workers = u32::try_from(workers).expect("at most as many as slots");
    assert!(workers >= 1 && workers <= slots, "{workers} workers cannot share {slots} slots");
    let bound = |rank: u32| u32::try_from(u64::from(rank) * u64::from(slots) / u64::from(workers)).expect("<= slots");
    (0..workers).map(|rank| bound(rank + 1) - bound(rank)).collect()
}

/// The shares with the shortest step: one for each, then each further slot to whom it makes the least late. Of two
/// such, the lower rank. Needs `1 <= speeds.len() <= slots` and positive speeds.
pub(crate) fn by_speed(slots: u32, speeds: &[f64]) -> Vec<u32> {
    let mut shares = vec![1_u32; speeds.len()];
    let late = |rank: usize, share: u32| Reverse(Late { time: f64::from(share + 1) / speeds[rank], rank });
    let mut next: BinaryHeap<_> = (0..speeds.len()).map(|rank| late(rank, 1)).collect();
    for _ in speeds.len()..slots as usize {
        let Some(Reverse(Late { rank, .. })) = next.pop() else { break };
        shares[rank] += 1;
        next.push(late(rank, shares[rank]));
    }
    shares
}

/// When a worker would be done with one slot more.
#[derive(Clone, Copy, Debug)]
struct Late {
    time: f64,
    rank: usize,
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.total_cmp(&other.time).then(self.rank.cmp(&other.rank))
    }
}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Late {}

/// How long a step takes, as a number to compare: that of the member that takes the longest.
pub(crate) fn step_time(shares: &[u32], speeds: &[f64]) -> f64 {
    shares.iter().zip(speeds).map(|(share, speed)| f64::from(*share) / speed).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::shares;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_slot_is_dealt_once_and_evenly(slots in 1u32..300, share in 0.0f64..1.0) {
            let workers = 1 + ((slots - 1) as f64 * share) as usize;
            let sizes = even(slots, workers);
            let dealt = deal(&sizes);
            prop_assert_eq!(dealt.len(), workers);
            prop_assert_eq!(dealt.concat(), (0..slots).map(SlotId).collect::<Vec<_>>());
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }

        #[test]
        fn by_speed_every_slot_is_dealt_once_and_nobody_goes_empty(
            speeds in prop::collection::vec(0.01f64..100.0, 1..20), more in 0u32..100
        ) {
            let slots = speeds.len() as u32 + more;
            let sizes = shares(slots, &speeds);
            prop_assert_eq!(deal(&sizes).concat(), (0..slots).map(SlotId).collect::<Vec<_>>());
            prop_assert!(sizes.iter().all(|size| *size >= 1));
            // No single slot that moves makes it faster.
            let fair = by_speed(slots, &speeds);
            let time = step_time(&fair, &speeds);
            for (from, to) in (0..fair.len()).flat_map(|from| (0..fair.len()).map(move |to| (from, to))) {
                if from != to && fair[from] > 1 {
                    let mut other = fair.clone();
                    (other[from], other[to]) = (other[from] - 1, other[to] + 1);
                    prop_assert!(step_time(&other, &speeds) >= time * 0.999_999);
                }
            }
        }
    }

    #[test]
    fn small_differences_change_nothing() {
        assert_eq!(shares(8, &[1.0, 1.02, 0.97]), even(8, 3));
        assert_eq!(shares(8, &[2.0, 1.0, 1.0]), [4, 2, 2]);
        assert_eq!(shares(3, &[9.0, 1.0, 1.0]), [1, 1, 1]);
    }
}
