//! BERT's sentence pairs (google-research/bert, create_instances_from_document), draw for draw; with `sentence_order`
//! ALBERT's (google-research/albert, the same function with `random_next_sentence` off), draw for draw: the second piece
//! is the true continuation, and half of the pairs are swapped. A chunk of one sentence has no continuation, so there it
//! takes a random one, labelled like a swapped pair.
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
    /// Whether the label tells swapped pairs (ALBERT) and not random ones (BERT).
    pub(crate) sentence_order: bool,
    pub(crate) special: SpecialIds,
}

/// The pairs of all documents of a unit, in document order.
pub(crate) fn build(documents: &Documents, rule: &PairRule, chance: &mut impl Chance, key: MaskKey) -> Samples {
    let mut samples = Samples::new(Targets::Masked { next_sentence: None }, key);
    let mut labels = Vec::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for document in 0..documents.count() {
        let emit = |first: &[u32], second: &[u32], label: bool| {
            samples.tokens.push(rule.special.classify);
            samples.tokens.extend_from_slice(first);
            samples.tokens.push(rule.special.separator);
            samples.first_segment.push(first.len() + 2);
            samples.tokens.extend_from_slice(second);
            samples.tokens.push(rule.special.separator);
            samples.ends.push(samples.tokens.len());
            labels.push(i64::from(label));
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
            let alone = chunk == 1;
            let half = alone || chance.random() < 0.5;
            let wants_random = alone || (half && !rule.sentence_order);
            let wants_swap = !alone && half && rule.sentence_order;
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
                if wants_swap {
                    std::mem::swap(first, second);
                }
                let (a, b) = truncate(first, second, most, chance);
                emit(a, b, other.is_some() || wants_swap);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const SPECIAL: SpecialIds = SpecialIds { pad: 0, unknown: 1, classify: 2, separator: 3, mask: 4 };

    fn documents(all: &[Vec<Vec<u32>>]) -> Documents {
        let mut documents = Documents::default();
        for sentences in all {
            documents.add_sentences(sentences);
        }
        documents
    }

    /// (A, B, label) of each sample, its special tokens checked and taken off.
    fn pairs(samples: &Samples) -> Vec<(Vec<u32>, Vec<u32>, i64)> {
        let Targets::Masked { next_sentence: Some(labels) } = &samples.targets else { panic!("no pairs") };
        let mut start = 0;
        let mut found = Vec::new();
        for (index, end) in samples.ends.iter().enumerate() {
            let tokens = &samples.tokens[start..*end];
            let middle = samples.first_segment[index];
            assert_eq!((tokens[0], tokens[middle - 1], tokens[tokens.len() - 1]), (2, 3, 3));
            found.push((tokens[1..middle - 1].to_vec(), tokens[middle..tokens.len() - 1].to_vec(), labels[index]));
            start = *end;
        }
        found
    }

    /// The draws that Python's generator made for the reference.
    struct Replay(VecDeque<serde_json::Value>);

    impl Chance for Replay {
        fn random(&mut self) -> f64 {
            self.0.pop_front().and_then(|draw| draw.as_f64()).expect("the reference draws random() here")
        }

        fn randint(&mut self, low: usize, high: usize) -> usize {
            let draw: (usize, usize, usize) = serde_json::from_value(self.0.pop_front().expect("a draw"))
                .expect("the reference draws randint() here");
            assert_eq!((draw.0, draw.1), (low, high), "the same bounds as the reference");
            draw.2
        }
    }

    fn replay(name: &str, sentence_order: bool) -> Vec<(Vec<u32>, Vec<u32>, i64)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/fixtures/tokenizer");
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let case: serde_json::Value = serde_json::from_str(&text).unwrap();
        let all: Vec<Vec<Vec<u32>>> = serde_json::from_value(case["documents"].clone()).unwrap();
        let mut replay = Replay(serde_json::from_value(case["draws"].clone()).unwrap());
        let rule = PairRule {
            sequence_length: case["sequence_length"].as_u64().unwrap() as usize,
            short_sequence_probability: case["short"].as_f64().unwrap(),
            sentence_order,
            special: SPECIAL,
        };
        let built = build(&documents(&all), &rule, &mut replay, MaskKey::default());
        assert!(replay.0.is_empty(), "every draw of the reference was made");
        let expected: Vec<(Vec<u32>, Vec<u32>, i64)> = case["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                let ids = |key: &str| serde_json::from_value(pair[key].clone()).unwrap();
                (ids("a"), ids("b"), i64::from(pair["random"].as_bool().unwrap()))
            })
            .collect();
        assert!(expected.len() > 20);
        assert_eq!(pairs(&built), expected);
        expected
    }

    #[test]
    fn the_reference_is_replayed_draw_for_draw() {
        replay("pairs.json", false);
    }

    #[test]
    fn alberts_reference_is_replayed_draw_for_draw() {
        let found = replay("ordered_pairs.json", true);
        // Ids rise through each document: a pair of one document tells by them whether it is swapped.
        let swapped = found.iter().filter(|(a, b, label)| *label == 1 && b[0] < a[0]).count();
        let ordered = found.iter().filter(|(a, b, label)| *label == 0 && a[a.len() - 1] < b[0]).count();
        assert!(swapped > 5 && ordered == found.iter().filter(|(_, _, label)| *label == 0).count());
    }

    /// Documents of numbered tokens: a token tells its document and place.
    fn numbered(lengths: &[Vec<usize>]) -> Vec<Vec<Vec<u32>>> {
        let mut next = 10;
        let mut sentence = |length: usize| -> Vec<u32> {
            next += length as u32;
            (next - length as u32..next).collect()
        };
        lengths.iter().map(|document| document.iter().map(|length| sentence(*length)).collect()).collect()
    }

    proptest! {
        #[test]
        fn pairs_keep_their_promises(
            lengths in proptest::collection::vec(proptest::collection::vec(1usize..30, 1..12), 1..8),
            sequence_length in 8usize..64,
            short in 0.0f64..1.0,
            seed: u64,
        ) {
            let all = numbered(&lengths);
            let rule = PairRule {
                sequence_length,
                short_sequence_probability: short,
                sentence_order: false,
                special: SPECIAL,
            };
            let built = build(&documents(&all), &rule, &mut Stream::new("pairs", &[seed]), MaskKey::default());
            let document_of = |id: u32| all.iter().position(|d| d.iter().flatten().any(|other| *other == id)).unwrap();
            for (a, b, label) in pairs(&built) {
                prop_assert!(!a.is_empty() && !b.is_empty());
                prop_assert!(a.len() + b.len() + 3 <= sequence_length);
                prop_assert!(a.windows(2).all(|two| two[1] == two[0] + 1) && b.windows(2).all(|two| two[1] == two[0] + 1));
                if label == 0 {
                    // The continuation; truncation may have taken the seam.
                    prop_assert_eq!(document_of(a[0]), document_of(b[0]));
                    prop_assert!(b[0] > a[a.len() - 1]);
                } else {
                    prop_assert_ne!(document_of(a[0]), document_of(b[0]));
                }
            }
            if all.len() == 1 && all[0].len() == 1 {
                prop_assert_eq!(built.count(), 0, "a lone sentence gives no pair");
            }
        }
    }

    #[test]
    fn half_of_the_pairs_are_random() {
        let all = numbered(&vec![vec![5; 60]; 100]);
        let rule =
            PairRule { sequence_length: 64, short_sequence_probability: 0.1, sentence_order: false, special: SPECIAL };
        let found = pairs(&build(&documents(&all), &rule, &mut Stream::new("pairs", &[3]), MaskKey::default()));
        let random = found.iter().filter(|(_, _, label)| *label == 1).count() as f64;
        let count = found.len() as f64;
        // Four standard deviations, and the few one-sentence chunks that are random by rule.
        assert!((random / count - 0.5).abs() < 2.0 / count.sqrt() + 0.03, "{random} of {count}");
        let full = found.iter().filter(|(a, b, _)| a.len() + b.len() == 61).count() as f64;
        assert!(full / count > 0.6, "most pairs fill the sequence: {full} of {count}");
    }
}
