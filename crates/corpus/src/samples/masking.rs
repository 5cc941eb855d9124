//! BERT's masking (google-research/bert, create_masked_lm_predictions): which tokens are predicted, and what stands in
//! their place.

mod ngrams;
mod segmenter;
mod spans;

pub use segmenter::check_segmenter;

use crate::random::{Chance, Stream};
use crate::{SpecialIds, Tokenizer};
use config::{Masking, ObjectiveConfig};
use segmenter::Segmenter;
use std::sync::Arc;

/// The rule. `[CLS]`, `[SEP]` and `[PAD]` are never predicted. The number to predict is
/// `min(most, max(1, round(length × rate)))` of an [`Amount`], where the length counts special tokens and `round` takes
/// halves to the even neighbour, as Python does. With `whole_word` a `##` piece goes with the piece before it, and a
/// word that would overflow the number is passed over. Each chosen piece alone becomes `[MASK]`, or a uniform id of the
/// whole vocabulary, or stays.
#[derive(Clone, Debug)]
pub(crate) struct Masker {
    special: SpecialIds,
    vocabulary: usize,
    mask_share: f64,
    random_share: f64,
    /// By id; empty unless whole words or spans of words are masked.
    continuation: Arc<[bool]>,
    /// Words that are masked together at most.
    ngram_max: usize,
    /// Spans of words are masked together.
    spans: bool,
    /// What lies beside a span is wanted, too.
    pub(crate) span_boundary: bool,
    /// What puts characters together to words.
    segmenter: Option<Segmenter>,
}

/// How much of a row is predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Amount {
    /// Share of the row's tokens.
    pub(crate) rate: f64,
    /// Positions at most.
    pub(crate) most: usize,
}

/// Reused from sample to sample.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (start, end) of each candidate word.
    words: Vec<(u32, u32)>,
    /// (start, end) of each span, ascending; empty where words are masked one by one.
    spans: Vec<(u32, u32)>,
    /// By position: the number of its word, plus 1; 0 for special tokens.
    word_of: Vec<u32>,
    /// (position, the id that stood there), ascending.
    masked: Vec<(u32, u32)>,
}

impl Scratch {
    /// (position, the id that stood there), ascending by position.
    pub(crate) fn masked(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.masked.iter().map(|(at, id)| (*at as usize, *id))
    }

    /// Of spans, alongside [`Scratch::masked`]: the tokens just before and just behind the span. There always are two, since
    /// a row begins and ends with special tokens.
    pub(crate) fn beside_spans(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        let beside = |(start, end): &(u32, u32)| {
            std::iter::repeat_n([*start as usize - 1, *end as usize], (end - start) as usize)
        };
        self.spans.iter().flat_map(beside)
    }
}

impl Masker {
    pub(crate) fn new(objective: &ObjectiveConfig, tokenizer: &Tokenizer) -> Self {
        let spans = objective.masking == Masking::Span;
        let continuation = if objective.whole_word || spans {
            (0..tokenizer.size() as u32).map(|id| tokenizer.is_continuation(id)).collect()
        } else {
            Arc::default()
        };
        Self {
            special: tokenizer.special(),
            vocabulary: tokenizer.size(),
            mask_share: objective.mask_token_share,
            random_share: objective.random_token_share,
            continuation,
            ngram_max: objective.ngram_max,
            spans,
            span_boundary: objective.span_boundary,
            segmenter: objective.word_segmenter.map(|_| Segmenter::new(tokenizer)),
        }
    }

    /// Masks `tokens` in place and leaves in `scratch` what was masked.
    pub(crate) fn apply(&self, tokens: &mut [u32], amount: Amount, stream: &mut Stream, scratch: &mut Scratch) {
        let SpecialIds { pad, classify, separator, .. } = self.special;
        scratch.words.clear();
        scratch.masked.clear();
        for (at, id) in tokens.iter().enumerate() {
            if [pad, classify, separator].contains(id) {
                continue;
            }
            let at = at as u32;
            let goes_on = self.continuation.get(*id as usize).copied().unwrap_or(false);
            match scratch.words.last_mut() {
                Some((_, end)) if goes_on && *end == at => *end = at + 1,
                _ => scratch.words.push((at, at + 1)),
            }
        }
        if let Some(segmenter) = &self.segmenter {
            segmenter.join(tokens, &mut scratch.words);
        }
        if self.spans {
            return spans::apply(self, tokens, amount, stream, scratch);
        }
        let wanted = (tokens.len() as f64 * amount.rate).round_ties_even() as usize;
        let wanted = amount.most.min(wanted.max(1));
        if self.ngram_max > 1 {
            self.mask_ngrams(tokens, wanted, stream, scratch);
            scratch.masked.sort_unstable();
            return;
        }
        stream.shuffle(&mut scratch.words);
        for (start, end) in scratch.words.iter().copied() {
            if scratch.masked.len() >= wanted {
                break;
            }
            if scratch.masked.len() + (end - start) as usize > wanted {
                continue;
            }
            for at in start..end {
                let token = &mut tokens[at as usize];
                scratch.masked.push((at, *token));
                self.replace(token, stream);
            }
        }
        scratch.masked.sort_unstable();
    }

    /// What stands in the place of a chosen piece.
    fn replace(&self, token: &mut u32, stream: &mut Stream) {
        match self.fate(stream) {
            Fate::Mask => *token = self.special.mask,
            Fate::Random => *token = self.random_id(stream),
            Fate::Stay => {}
        }
    }
}

/// What becomes of a chosen token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Mask,
    Random,
    Stay,
}

impl Masker {
    fn fate(&self, stream: &mut Stream) -> Fate {
        let drawn = stream.random();
        if drawn < self.mask_share {
            Fate::Mask
        } else if drawn < self.mask_share + self.random_share {
            Fate::Random
        } else {
            Fate::Stay
        }
    }

    fn random_id(&self, stream: &mut Stream) -> u32 {
        stream.below(self.vocabulary as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: SpecialIds = SpecialIds { pad: 0, unknown: 1, classify: 2, separator: 3, mask: 4 };
    const VOCABULARY: usize = 100;

    pub(super) const BERTS: Amount = Amount { rate: 0.15, most: usize::MAX };

    fn masker(whole_word: bool) -> Masker {
        // Ids 50 to 99 go on with a word.
        let continuation = if whole_word { (0..VOCABULARY).map(|id| id >= 50).collect() } else { Arc::default() };
        let (mask_share, random_share) = (0.8, 0.1);
        let (spans, ngram_max) = (false, 1);
        Masker {
            special: SPECIAL,
            vocabulary: VOCABULARY,
            mask_share,
            random_share,
            continuation,
            ngram_max,
            spans,
            span_boundary: false,
            segmenter: None,
        }
    }

    pub(super) fn span_masker() -> Masker {
        Masker { spans: true, ..masker(true) }
    }

    pub(super) fn sentence(seed: u64, length: usize) -> Vec<u32> {
        let mut stream = Stream::new("sentence", &[seed]);
        let mut tokens: Vec<u32> = (0..length).map(|_| stream.randint(5, VOCABULARY - 1) as u32).collect();
        tokens[0] = 2;
        tokens[length / 2] = 3;
        tokens[length - 1] = 3;
        tokens
    }

    #[test]
    fn rate_and_shares_are_berts() {
        let masker = masker(false);
        let mut scratch = Scratch::default();
        // [MASK], a random other id, unchanged; and which third of the sequence.
        let (mut kinds, mut places, mut total) = ([0u32; 3], [0u32; 4], 0u32);
        for sample in 0..2000 {
            let before = sentence(sample, 130);
            let mut after = before.clone();
            masker.apply(&mut after, BERTS, &mut Stream::new("mask", &[sample]), &mut scratch);
            let masked: Vec<(usize, u32)> = scratch.masked().collect();
            // round(130 × 0.15) = round(19.5) takes the even neighbour.
            assert_eq!(masked.len(), 20, "sample {sample}");
            assert!(masked.windows(2).all(|two| two[0].0 < two[1].0));
            for (at, id) in &masked {
                assert_eq!(before[*at], *id);
                assert!(![0, 2, 3].contains(id), "special tokens are not predicted");
                kinds[if after[*at] == 4 {
                    0
                } else if after[*at] == *id {
                    2
                } else {
                    1
                }] += 1;
                places[(*at * 4 / 130).min(3)] += 1;
                total += 1;
            }
            let changed = (0..130).filter(|at| before[*at] != after[*at]);
            assert!(changed.into_iter().all(|at| masked.iter().any(|(masked, _)| *masked == at)));
        }
        let total = f64::from(total);
        // A random id is [MASK] or the old id once in a hundred each.
        let expected = [0.801, 0.098, 0.101].map(|share| share * total);
        let chi_square: f64 =
            kinds.iter().zip(expected).map(|(seen, expected)| (f64::from(*seen) - expected).powi(2) / expected).sum();
        assert!(chi_square < 13.8, "p < 0.001 with two degrees of freedom: {chi_square} {kinds:?}");
        // 127 candidates: 32 in the first quarter ([CLS] apart), 33 less one, 32, 33 less one.
        let candidates = (0..130).filter(|at| ![0, 65, 129].contains(at));
        let mut expected = [0.0; 4];
        candidates.for_each(|at: usize| expected[(at * 4 / 130).min(3)] += total / 127.0);
        let chi_square: f64 =
            places.iter().zip(expected).map(|(seen, expected)| (f64::from(*seen) - expected).powi(2) / expected).sum();
        assert!(chi_square < 16.3, "p < 0.001 with three degrees of freedom: {chi_square} {places:?}");
    }

    #[test]
    fn halves_go_to_the_even_neighbour_and_limits_hold() {
        let mut scratch = Scratch::default();
        let mut count = |length: usize, most: usize| {
            let amount = Amount { most, ..BERTS };
            masker(false).apply(&mut sentence(1, length), amount, &mut Stream::new("mask", &[1]), &mut scratch);
            scratch.masked().count()
        };
        assert_eq!((count(30, 99), count(50, 99), count(10, 99)), (4, 8, 2), "4.5, 7.5, 1.5");
        assert_eq!((count(4, 99), count(130, 7)), (1, 7));
    }

    #[test]
    fn words_are_chosen_alike_wherever_they_stand() {
        // Forty words of two pieces each between [CLS] and [SEP]: each is as likely as any other.
        let mut before = vec![2];
        (0..40).for_each(|word| before.extend([5 + word, 50 + word]));
        before.push(3);
        let (masker, mut scratch) = (masker(true), Scratch::default());
        let (mut seen, samples) = ([0u32; 40], 4000);
        for sample in 0..samples {
            masker.apply(&mut before.clone(), BERTS, &mut Stream::new("mask", &[sample]), &mut scratch);
            // round(82 × 0.15) = 12 pieces are six words.
            assert_eq!(scratch.masked().count(), 12);
            scratch.masked().filter(|(at, _)| at % 2 == 1).for_each(|(at, _)| seen[at / 2] += 1);
        }
        let expected = samples as f64 * 6.0 / 40.0;
        assert_eq!(seen.iter().sum::<u32>(), samples as u32 * 6);
        let chi_square: f64 = seen.iter().map(|seen| (f64::from(*seen) - expected).powi(2) / expected).sum();
        assert!(chi_square < 72.1, "p < 0.001 with 39 degrees of freedom: {chi_square} {seen:?}");
    }

    #[test]
    fn whole_words_are_never_split() {
        let masker = masker(true);
        let mut scratch = Scratch::default();
        let mut masked_words = 0;
        for sample in 0..500 {
            let before = sentence(sample, 100);
            masker.apply(&mut before.clone(), BERTS, &mut Stream::new("mask", &[sample]), &mut scratch);
            let masked: Vec<usize> = scratch.masked().map(|(at, _)| at).collect();
            assert!(masked.len() <= 15);
            for at in &masked {
                let goes_on = |at: usize| before.get(at).is_some_and(|id| *id >= 50);
                if goes_on(*at) && ![2, 3].contains(&before[at - 1]) {
                    assert!(masked.contains(&(at - 1)), "sample {sample}: a word's first pieces are left");
                }
                if goes_on(at + 1) {
                    assert!(masked.contains(&(at + 1)), "sample {sample}: a word's last pieces are left");
                }
                masked_words += 1;
            }
        }
        assert!(masked_words > 500 * 12, "words are found that fit: {masked_words}");
    }
}
