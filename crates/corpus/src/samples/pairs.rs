//! BERT's sentence pairs (google-research/bert, create_instances_from_document), draw for draw.
//!
//! One difference, where the reference labels a pair "random" although all ten tries hit the same document: here such
//! a pair takes its true continuation, and a lone sentence with no other document gives no pair.

use super::{MaskKey, Samples, Targets};
use crate::SpecialIds;
use crate::documents::Documents;
use crate::random::Chance;

/// Tries at finding another document.
const TRIES: usize = 10;

pub(crate) struct PairRule {
    pub(crate) sequence_length: usize,
    pub(crate) short_sequence_probability: f64,
    pub(crate) special: SpecialIds,
}

/// The pairs of all documents of a unit, in document order.
pub(crate) fn build(documents: &Documents, rule: &PairRule, chance: &mut impl Chance, key: MaskKey) -> Samples {
    let mut samples = Samples::new(Targets::Masked { next_sentence: None }, key);
    let mut labels = Vec::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for document in 0..documents.count() {
        let emit = |first: &[u32], second: &[u32], is_random: bool| {
            samples.tokens.push(rule.special.classify);
            samples.tokens.extend_from_slice(first);
            samples.tokens.push(rule.special.separator);
            samples.first_segment.push(first.len() + 2);
            samples.tokens.extend_from_slice(second);
            samples.tokens.push(rule.special.separator);
            samples.ends.push(samples.tokens.len());
            labels.push(i64::from(is_random));
        };
        document_pairs(documents, document, rule, chance, (&mut first, &mut second), emit);
    }
    samples.targets = Targets::Masked { next_sentence: Some(labels) };
    samples
}

fn document_pairs(
    documents: &Documents,
    document: usize,
    rule: &PairRule,
    chance: &mut impl Chance,
    (first, second): (&mut Vec<u32>, &mut Vec<u32>),
    mut emit: impl FnMut(&[u32], &[u32], bool),
) {
    let most = rule.sequence_length - 3;
    // Most pairs fill the sequence; some are shorter, so that fine-tuning on short input is no surprise.
    let target = if chance.random() < rule.short_sequence_probability { chance.randint(2, most) } else { most };
    let count = documents.sentence_count(document);
    let mut start = 0;
    let mut length = 0;
    let mut at = 0;
    while at < count {
        length += documents.sentence(document, at).len();
        if at == count - 1 || length >= target {
            let chunk = at + 1 - start;
            let split = if chunk >= 2 { chance.randint(1, chunk - 1) } else { 1 };
            first.clear();
            second.clear();
            for sentence in start..start + split {
                first.extend_from_slice(documents.sentence(document, sentence));
            }
            let wants_random = chunk == 1 || chance.random() < 0.5;
            let other = if wants_random { other_document(documents, document, chance) } else { None };
            if let Some(other) = other {
                let wanted = target.saturating_sub(first.len());
                let begin = chance.randint(0, documents.sentence_count(other) - 1);
                for sentence in begin..documents.sentence_count(other) {
                    second.extend_from_slice(documents.sentence(other, sentence));
                    if second.len() >= wanted {
                        break;
                    }
                }
                // The sentences that B did not take are put back.
                at -= chunk - split;
            } else {
                for sentence in start + split..start + chunk {
                    second.extend_from_slice(documents.sentence(document, sentence));
                }
            }
            if !second.is_empty() {
                let (a, b) = truncate(first, second, most, chance);
                emit(a, b, other.is_some());
            }
            start = at + 1;
            length = 0;
        }
        at += 1;
    }
}

/// A document other than `document`, or None where ten tries found none.
fn other_document(documents: &Documents, document: usize, chance: &mut impl Chance) -> Option<usize> {
    (0..TRIES).map(|_| chance.randint(0, documents.count() - 1)).find(|other| *other != document)
}

/// Drops one token at a time from the longer side (B on ties), front or back, until both fit.
fn truncate<'a>(first: &'a [u32], second: &'a [u32], most: usize, chance: &mut impl Chance) -> (&'a [u32], &'a [u32]) {
    let (mut first, mut second) = (first, second);
    while first.len() + second.len() > most {
        let longer = if first.len() > second.len() { &mut first } else { &mut second };
        *longer = if chance.random() < 0.5 { &longer[1..] } else { &longer[..longer.len() - 1] };
    }
    (first, second)
}
