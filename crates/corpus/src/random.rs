//! The one source of chance: streams that depend on nothing but a domain and numbers, stable for ever.
//!
//! A stream is ChaCha8 keyed by blake3(domain ‖ numbers as little-endian u64). Whatever the plan or a sample depends
//! on goes into the numbers, so that any worker, and the coordinator's ledger, draws the same.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The two draws that BERT's reference makes, so that a test can replay the reference's own stream.
pub(crate) trait Chance {
    /// Uniform in [0, 1).
    fn random(&mut self) -> f64;
    /// Uniform in `low..=high`, as Python's `randint`.
    fn randint(&mut self, low: usize, high: usize) -> usize;
}

/// A deterministic stream of random numbers.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn new(domain: &str, numbers: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.as_bytes());
        hasher.update(&[0]);
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// Uniform in `0..bound` without bias: the high half of a 64 × 64 bit product, redrawn where it would be uneven
    /// (Lemire 2019).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw from nothing");
        let uneven = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(bound);
            if product as u64 >= uneven {
                return (product >> 64) as u64;
            }
        }
    }

    /// Fisher–Yates from the back.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// A permutation of `0..count`.
    pub(crate) fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..u32::try_from(count).expect("at most 2^32 units or rows")).collect();
        self.shuffle(&mut order);
        order
    }
}

impl Chance for Stream {
    fn random(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (-53f64).exp2()
    }

    fn randint(&mut self, low: usize, high: usize) -> usize {
        assert!(low <= high, "a draw from nothing");
        low + self.below((high - low) as u64 + 1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_never_changes() {
        // Every stored run depends on these numbers: a change here breaks resume and the ledger.
        let mut stream = Stream::new("test", &[1, 2]);
        let drawn: Vec<u64> = (0..4).map(|_| stream.below(1000)).collect();
        assert_eq!(drawn, PINNED);
        assert_ne!(Stream::new("test", &[1, 3]).permutation(50), Stream::new("test", &[1, 2]).permutation(50));
    }

    const PINNED: [u64; 4] = [229, 856, 985, 131];

    #[test]
    fn a_permutation_holds_everything_once() {
        let mut order = Stream::new("p", &[7]).permutation(1000);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(index, value)| index as u32 == *value));
    }
}
