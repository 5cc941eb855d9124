//! ALBERT's n-gram masking (google-research/albert, create_masked_lm_predictions, `favor_shorter_ngram`): up to n words
//! that follow each other are predicted together.

use super::{Masker, Scratch};
use crate::random::{Chance, Stream};

impl Masker {
    /// Chooses among `scratch.words`, in an order by chance, the first word of each run; a run of n words is drawn with a
    /// probability proportional to 1/n among the lengths that the row has room for. A run that would make more than
    /// `wanted` predictions is shortened word by word, and passed over if its first word alone is too long; so is one
    /// that touches a run already chosen. As in the reference, words are neighbours across a `[SEP]`, too.
    pub(super) fn mask_ngrams(&self, tokens: &mut [u32], wanted: usize, stream: &mut Stream, scratch: &mut Scratch) {
        let Scratch { words, masked, .. } = scratch;
        let mut covered = vec![false; words.len()];
        for first in stream.permutation(words.len()).into_iter().map(|first| first as usize) {
            if masked.len() >= wanted {
                break;
            }
            if covered[first] {
                continue;
            }
            let pieces = |count: usize| words[first..first + count].iter().map(|(start, end)| (end - start) as usize);
            let mut count = drawn_length(self.ngram_max.min(words.len() - first), stream);
            while count > 1 && masked.len() + pieces(count).sum::<usize>() > wanted {
                count -= 1;
            }
            let run = first..first + count;
            if masked.len() + pieces(count).sum::<usize>() > wanted || covered[run.clone()].contains(&true) {
                continue;
            }
            covered[run.clone()].fill(true);
            for at in words[run].iter().flat_map(|(start, end)| *start..*end) {
                let token = &mut tokens[at as usize];
                masked.push((at, *token));
                self.replace(token, stream);
            }
        }
    }
}

/// 1 to `most`, n with a probability proportional to 1/n.
fn drawn_length(most: usize, stream: &mut Stream) -> usize {
    let total: f64 = (1..=most).map(|length| 1.0 / length as f64).sum();
    let mut left = stream.random() * total;
    for length in 1..most {
        left -= 1.0 / length as f64;
        if left < 0.0 {
            return length;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecialIds;
    use crate::samples::masking::Amount;
    use std::sync::Arc;

    fn masker(ngram_max: usize, whole_word: bool) -> Masker {
        // Ids 50 to 99 go on with a word.
        let continuation = if whole_word { (0..100).map(|id| id >= 50).collect() } else { Arc::default() };
        let special = SpecialIds { pad: 0, unknown: 1, classify: 2, separator: 3, mask: 4 };
        let (mask_share, random_share, spans) = (0.8, 0.1, false);
        Masker {
            special,
            vocabulary: 100,
            mask_share,
            random_share,
            continuation,
            ngram_max,
            spans,
            span_boundary: false,
            segmenter: None,
        }
    }

    fn masked(masker: &Masker, tokens: &[u32], most: usize, sample: u64) -> Vec<usize> {
        let mut scratch = Scratch::default();
        let amount = Amount { rate: 0.15, most };
        let mut after = tokens.to_vec();
        masker.apply(&mut after, amount, &mut Stream::new("mask", &[sample]), &mut scratch);
        let found: Vec<(usize, u32)> = scratch.masked().collect();
        assert!(found.iter().all(|(at, id)| tokens[*at] == *id && ![2, 3].contains(id)));
        assert!(found.windows(2).all(|two| two[0].0 < two[1].0), "each place once, in order");
        assert!((0..tokens.len()).all(|at| tokens[at] == after[at] || found.iter().any(|(place, _)| *place == at)));
        found.into_iter().map(|(at, _)| at).collect()
    }

    #[test]
    fn lengths_are_as_likely_as_their_inverse() {
        let mut stream = Stream::new("test", &[1]);
        let mut counts = [0_u32; 3];
        for _ in 0..11_000 {
            counts[drawn_length(3, &mut stream) - 1] += 1;
        }
        // 1 : 1/2 : 1/3, that is 6 : 3 : 2 of 11.
        let expected = [6000.0, 3000.0, 2000.0];
        let chi_square: f64 =
            counts.iter().zip(expected).map(|(seen, all)| (f64::from(*seen) - all).powi(2) / all).sum();
        assert!(chi_square < 13.8, "p < 0.001 with two degrees of freedom: {chi_square} {counts:?}");
    }

    #[test]
    fn neighbours_are_masked_together_and_the_number_stays() {
        let tokens: Vec<u32> = std::iter::once(2).chain((0..198).map(|at| 5 + at % 40)).chain([3]).collect();
        let neighbours = |ngram_max: usize| -> usize {
            let pairs = (0..200).map(|sample| {
                let found = masked(&masker(ngram_max, false), &tokens, usize::MAX, sample);
                assert_eq!(found.len(), 30, "sample {sample}");
                found.windows(2).filter(|two| two[1] == two[0] + 1).count()
            });
            pairs.sum()
        };
        let (alone, together) = (neighbours(1), neighbours(3));
        assert!(together > 2 * alone, "{alone} neighbours by chance, {together} in runs");
    }

    #[test]
    fn whole_words_are_never_split() {
        // Words of three pieces.
        let tokens: Vec<u32> =
            std::iter::once(2).chain((0..99).map(|at| if at % 3 == 0 { 7 } else { 60 })).chain([3]).collect();
        for sample in 0..200 {
            let found = masked(&masker(3, true), &tokens, 14, sample);
            assert!(found.len() == 12, "four words of three pieces fit into 14: {found:?}");
            for at in &found {
                let start = at - (at - 1) % 3;
                assert!((start..start + 3).all(|piece| found.contains(&piece)), "sample {sample}: {found:?}");
            }
        }
    }
}
