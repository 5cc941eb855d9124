//! BERT's masking (google-research/bert, create_masked_lm_predictions): which tokens are predicted, and what stands in
//! their place.

use crate::random::{Chance, Stream};
use crate::{SpecialIds, Tokenizer};
use config::ObjectiveConfig;
use std::sync::Arc;

/// The rule. `[CLS]`, `[SEP]` and `[PAD]` are never predicted. The number to predict is
/// `min(max_predictions, max(1, round(length × rate)))`, where the length counts special tokens and `round` takes
/// halves to the even neighbour, as Python does. With `whole_word` a `##` piece goes with the piece before it, and a
/// word that would overflow the number is passed over. Each chosen piece alone becomes `[MASK]`, or a uniform id of the
/// whole vocabulary, or stays.
#[derive(Clone, Debug)]
pub(crate) struct Masker {
    special: SpecialIds,
    vocabulary: usize,
    rate: f64,
    mask_share: f64,
    random_share: f64,
    max_predictions: usize,
    /// By id; empty unless whole words are masked.
    continuation: Arc<[bool]>,
}

/// Reused from sample to sample.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (start, end) of each candidate word.
    words: Vec<(u32, u32)>,
    /// (position, the id that stood there), ascending.
    masked: Vec<(u32, u32)>,
}

impl Scratch {
    /// (position, the id that stood there), ascending by position.
    pub(crate) fn masked(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.masked.iter().map(|(at, id)| (*at as usize, *id))
    }
}

impl Masker {
    pub(crate) fn new(objective: &ObjectiveConfig, sequence_length: usize, tokenizer: &Tokenizer) -> Self {
        let default = (objective.mask_rate * sequence_length as f64).ceil() as usize;
        let continuation = if objective.whole_word {
            (0..tokenizer.size() as u32).map(|id| tokenizer.is_continuation(id)).collect()
        } else {
            Arc::default()
        };
        Self {
            special: tokenizer.special(),
            vocabulary: tokenizer.size(),
            rate: objective.mask_rate,
            mask_share: objective.mask_token_share,
            random_share: objective.random_token_share,
            max_predictions: objective.max_predictions.unwrap_or(default).max(1),
            continuation,
        }
    }

    /// Masks `tokens` in place and leaves in `scratch` what was masked.
    pub(crate) fn apply(&self, tokens: &mut [u32], stream: &mut Stream, scratch: &mut Scratch) {
        let SpecialIds { pad, classify, separator, mask, .. } = self.special;
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
        let wanted = (tokens.len() as f64 * self.rate).round_ties_even() as usize;
        let wanted = self.max_predictions.min(wanted.max(1));
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
                let drawn = stream.random();
                if drawn < self.mask_share {
                    *token = mask;
                } else if drawn < self.mask_share + self.random_share {
                    *token = stream.below(self.vocabulary as u64) as u32;
                }
            }
        }
        scratch.masked.sort_unstable();
    }
}
