//! SpanBERT's masking (Joshi et al. 2020; pretraining/fairseq/data/masking.py): spans of words.
//!
//! Until ceil(rate × text tokens) positions are chosen: a length in words from Geo(0.2) cut off at 10, and a uniform
//! position that is not chosen yet, whose word the span begins with. It ends after so many words, before a special token, or
//! where the number is reached, even inside a word. Spans that overlap become one. One draw decides for a span whether it
//! becomes `[MASK]`s, uniform ids, or stays.

use super::{Amount, Fate, Masker, Scratch};
use crate::random::{Chance, Stream};

const GEOMETRIC: f64 = 0.2;
const LONGEST: usize = 10;

/// Masks `tokens` in place; `scratch.words` holds the candidate words in order.
pub(super) fn apply(masker: &Masker, tokens: &mut [u32], amount: Amount, stream: &mut Stream, scratch: &mut Scratch) {
    let Scratch { words, spans, word_of, masked } = scratch;
    spans.clear();
    word_of.clear();
    word_of.resize(tokens.len(), 0);
    let mut text = 0;
    for (number, (start, end)) in (1..).zip(words.iter()) {
        word_of[*start as usize..*end as usize].fill(number);
        text += (end - start) as usize;
    }
    let wanted = ((text as f64 * amount.rate).ceil() as usize).max(1).min(amount.most).min(text);
    let mut chosen = vec![false; tokens.len()];
    let mut count = 0;
    while count < wanted {
        let length = span_length(stream);
        let anchor = stream.below(tokens.len() as u64) as usize;
        if chosen[anchor] || word_of[anchor] == 0 {
            continue;
        }
        let first = word_of[anchor] as usize - 1;
        let start = words[first].0;
        let mut end = start;
        for (word_start, word_end) in words[first..].iter().take(length) {
            if *word_start != end || count == wanted {
                break;
            }
            for at in *word_start..*word_end {
                if count == wanted {
                    break;
                }
                count += usize::from(!std::mem::replace(&mut chosen[at as usize], true));
                end = at + 1;
            }
        }
        spans.push((start, end));
    }
    merge(spans);
    for (start, end) in spans.iter().copied() {
        let fate = masker.fate(stream);
        for at in start..end {
            let token = &mut tokens[at as usize];
            masked.push((at, *token));
            match fate {
                Fate::Mask => *token = masker.special.mask,
                Fate::Random => *token = masker.random_id(stream),
                Fate::Stay => {}
            }
        }
    }
}

/// 1 to [`LONGEST`] words, each [`GEOMETRIC`] rarer than the one before.
fn span_length(stream: &mut Stream) -> usize {
    let drawn = stream.random();
    // The inverse of the distribution function 1 − (1 − p)^k, which the cut makes smaller than 1 at its end.
    let within = 1.0 - (1.0 - GEOMETRIC).powi(LONGEST as i32);
    let length = ((1.0 - drawn * within).ln() / (1.0 - GEOMETRIC).ln()).floor() as usize + 1;
    length.min(LONGEST)
}

/// Sorts spans and joins those that overlap; neighbours stay two.
fn merge(spans: &mut Vec<(u32, u32)>) {
    spans.sort_unstable();
    spans.dedup_by(|next, before| {
        let overlaps = next.0 < before.1;
        if overlaps {
            before.1 = before.1.max(next.1);
        }
        overlaps
    });
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BERTS, sentence, span_masker};
    use super::*;

    fn chi_square(seen: &[u32], shares: &[f64]) -> f64 {
        let total = f64::from(seen.iter().sum::<u32>());
        seen.iter().zip(shares).map(|(seen, share)| (f64::from(*seen) - share * total).powi(2) / (share * total)).sum()
    }

    #[test]
    fn lengths_are_geometric_and_cut_off() {
        let mut stream = Stream::new("lengths", &[1]);
        let mut seen = [0u32; LONGEST];
        for _ in 0..100_000 {
            seen[span_length(&mut stream) - 1] += 1;
        }
        // From the definition, not from its inverse.
        let weights: Vec<f64> = (0..10).map(|k| 0.2 * 0.8f64.powi(k)).collect();
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let chi_square = chi_square(&seen, &shares);
        assert!(chi_square < 27.9, "p < 0.001 with nine degrees of freedom: {chi_square} {seen:?}");
        let mean: f64 = (1..).zip(&shares).map(|(length, share)| f64::from(length) * share).sum();
        assert!((mean - 3.797).abs() < 1e-3, "the paper's mean is 3.8: {mean}");
    }

    #[test]
    fn spans_hold_whole_words_and_share_one_fate() {
        let masker = span_masker();
        let mut scratch = Scratch::default();
        let mut fates = [0u32; 3];
        for sample in 0..4000 {
            let before = sentence(sample, 130);
            let mut after = before.clone();
            masker.apply(&mut after, BERTS, &mut Stream::new("mask", &[sample]), &mut scratch);
            // ceil(127 × 0.15): special tokens do not count.
            assert_eq!(scratch.masked().count(), 20, "sample {sample}");
            let beside: Vec<[usize; 2]> = scratch.beside_spans().collect();
            assert_eq!(beside.len(), 20, "one for each");
            for ((at, _), [left, right]) in scratch.masked().zip(beside) {
                let span = scratch.spans.iter().find(|(start, end)| (*start as usize..*end as usize).contains(&at));
                assert_eq!(span, Some(&(left as u32 + 1, right as u32)), "sample {sample}");
            }
            let chosen: Vec<(usize, u32)> = scratch.masked().collect();
            assert!(chosen.windows(2).all(|two| two[0].0 < two[1].0));
            assert!(chosen.iter().all(|(at, id)| before[*at] == *id && ![0, 2, 3].contains(id)));
            let unchanged = (0..130).filter(|at| chosen.iter().all(|(chosen, _)| chosen != at));
            unchanged.for_each(|at| assert_eq!(before[at], after[at], "sample {sample}"));
            let is_within = |at: usize| before[at] >= 50 && ![2, 3].contains(&before[at - 1]);
            let mut split = 0;
            for (start, end) in scratch.spans.iter().map(|(start, end)| (*start as usize, *end as usize)) {
                assert!(!is_within(start), "sample {sample}: a span begins inside a word");
                split += usize::from(is_within(end));
                // Long enough for the fates to be told apart: an id drawn may be the old one, or [MASK].
                if end - start >= 3 {
                    let masked = (start..end).filter(|at| after[*at] == 4).count();
                    let same = (start..end).filter(|at| after[*at] == before[*at]).count();
                    fates[if masked == end - start {
                        0
                    } else if same == end - start {
                        2
                    } else {
                        1
                    }] += 1;
                    assert!(masked == end - start || masked < 3, "sample {sample}: half of a span is masked");
                }
            }
            assert!(split <= 1, "only the last span may be cut inside a word");
        }
        let chi_square = chi_square(&fates, &[0.8, 0.1, 0.1]);
        assert!(chi_square < 13.8, "p < 0.001 with two degrees of freedom: {chi_square} {fates:?}");
    }

    #[test]
    fn overlapping_spans_become_one() {
        let mut spans = vec![(9, 12), (1, 4), (3, 6), (6, 8), (1, 2)];
        merge(&mut spans);
        assert_eq!(spans, [(1, 6), (6, 8), (9, 12)]);
    }

    #[test]
    fn a_row_without_text_masks_nothing() {
        let mut scratch = Scratch::default();
        let mut tokens = [2, 3];
        span_masker().apply(&mut tokens, BERTS, &mut Stream::new("mask", &[1]), &mut scratch);
        assert_eq!((tokens, scratch.masked().count(), scratch.spans.len()), ([2, 3], 0, 0));
    }
}
