//! The seeds of everything random inside a step.

use types::{SlotId, Step};

/// The seed of dropout for one forward pass: the first eight bytes (little-endian) of blake3 over the text
/// `trireme dropout v1` and, as little-endian 64-bit integers, the run's seed, the steps done before this one, the slot
/// and the micro-batch. It never depends on rank, worker or generation.
pub(crate) fn dropout_seed(run_seed: u64, step: Step, slot: SlotId, micro: usize) -> i64 {
    seed(b"trireme dropout v1", &[run_seed, step.0, u64::from(slot.0), micro as u64])
}

/// The seed of what an objective draws in the forward pass of a held-out batch (ELECTRA's replacements): the same for a
/// batch whoever measures it, and whenever.
pub(crate) fn held_out_seed(run_seed: u64, batch: usize) -> i64 {
    seed(b"trireme held out v1", &[run_seed, batch as u64])
}

fn seed(domain: &[u8], numbers: &[u64]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    for value in numbers {
        hasher.update(&value.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_counts() {
        let base = dropout_seed(1, Step(2), SlotId(3), 4);
        let others = [
            dropout_seed(2, Step(2), SlotId(3), 4),
            dropout_seed(1, Step(3), SlotId(3), 4),
            dropout_seed(1, Step(2), SlotId(4), 4),
            dropout_seed(1, Step(2), SlotId(3), 5),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(base, dropout_seed(1, Step(2), SlotId(3), 4));
    }
}
