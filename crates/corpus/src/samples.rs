//! The samples of one unit, flat, and how a micro-batch is made of some.

pub(crate) mod blocks;
pub(crate) mod choices;
pub(crate) mod labelled;
pub(crate) mod masking;
pub(crate) mod pairs;
pub(crate) mod sentences;

use crate::answers::Window;
use crate::batch::{Batch, IGNORED, Labels};
use crate::random::Stream;
use choices::ChoiceSample;
use masking::{Amount, Masker};
use std::sync::Arc;

/// What the samples of a unit are to predict.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Targets {
    /// Words that are masked when a batch is made; for pairs also 1 where the second part is from elsewhere.
    Masked { next_sentence: Option<Vec<i64>> },
    /// For each sample.
    Class(Vec<i64>),
    /// For each token of all samples.
    Tags(Vec<i64>),
    /// A number for each sample.
    Score(Vec<f64>),
    /// For each sample, a window: where in it the answer is.
    Answer(Vec<(Window, [i64; 2])>),
    /// For each sample the lengths of its texts, which become rows of their own.
    Match(Vec<[usize; 2]>),
    /// For each sample where the word is left out, and the label.
    Cloze {
        /// For each label the ids of its words.
        words: Arc<Vec<Vec<i64>>>,
        places: Vec<(usize, i64)>,
    },
    /// For each sample the lengths of its choices, which become rows of their own, and the right one.
    Choice(Vec<ChoiceSample>),
}

/// The samples of one unit: special tokens included, padding and masks not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples {
    pub(crate) tokens: Vec<u32>,
    /// For each sample, where it ends in `tokens`.
    pub(crate) ends: Vec<usize>,
    /// For each sample, how many of its tokens are of segment 0; empty: all of all.
    pub(crate) first_segment: Vec<usize>,
    pub(crate) targets: Targets,
    /// What the masks of this unit are drawn from, but for the sample's number: a domain, the seed, and the numbers.
    pub(crate) mask_key: MaskKey,
}

/// See [`Samples::mask_key`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MaskKey {
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) unit: u64,
    pub(crate) held_out: bool,
}

impl MaskKey {
    /// The stream for one use of this unit.
    pub(crate) fn stream(self, domain: &str, number: u64) -> Stream {
        Stream::new(domain, &[self.seed, u64::from(self.held_out), self.epoch, self.unit, number])
    }
}

impl Samples {
    pub(crate) fn new(targets: Targets, mask_key: MaskKey) -> Self {
        Self { tokens: Vec::new(), ends: Vec::new(), first_segment: Vec::new(), targets, mask_key }
    }

    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, sample: usize) -> std::ops::Range<usize> {
        let start = if sample == 0 { 0 } else { self.ends[sample - 1] };
        start..self.ends[sample]
    }

    /// Whether a sample and the one before it must be looked at together: they are windows of one question.
    pub(crate) fn goes_on(&self, sample: usize) -> bool {
        match &self.targets {
            Targets::Answer(windows) => sample > 0 && windows[sample].0.goes_on(&windows[sample - 1].0),
            _ => false,
        }
    }

    /// Where the rows of a sample are: each is the sample's first token, those of one of these ranges, and the sample's
    /// last token. One row if it has at most `row_length` tokens so; else as many full ones as there are, and the rest.
    fn rows(&self, sample: usize, row_length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let range = self.range(sample);
        let (start, end) = (range.start + 1, range.end - 1);
        let room = row_length - 2;
        // A sample without any text is a row, too.
        let count = (end - start).div_ceil(room).max(1);
        (0..count).map(move |row| {
            let start = start + row * room;
            start..end.min(start + room)
        })
    }

    /// The samples in another order.
    pub(crate) fn reordered(&self, order: &[u32]) -> Self {
        let mut targets = match &self.targets {
            Targets::Masked { next_sentence } => {
                Targets::Masked { next_sentence: next_sentence.as_ref().map(|_| Vec::with_capacity(order.len())) }
            }
            Targets::Class(_) => Targets::Class(Vec::with_capacity(order.len())),
            Targets::Tags(_) => Targets::Tags(Vec::with_capacity(self.tokens.len())),
            Targets::Score(_) => Targets::Score(Vec::with_capacity(order.len())),
            Targets::Answer(_) => Targets::Answer(Vec::with_capacity(order.len())),
            Targets::Match(_) => Targets::Match(Vec::with_capacity(order.len())),
            Targets::Cloze { words, .. } => {
                Targets::Cloze { words: Arc::clone(words), places: Vec::with_capacity(order.len()) }
            }
            Targets::Choice(_) => Targets::Choice(Vec::with_capacity(order.len())),
        };
        let mut tokens = Vec::with_capacity(self.tokens.len());
        let mut ends = Vec::with_capacity(order.len());
        let mut first_segment = Vec::with_capacity(self.first_segment.len());
        for sample in order.iter().map(|sample| *sample as usize) {
            tokens.extend_from_slice(&self.tokens[self.range(sample)]);
            ends.push(tokens.len());
            first_segment.extend(self.first_segment.get(sample));
            match (&mut targets, &self.targets) {
                (Targets::Masked { next_sentence: Some(out) }, Targets::Masked { next_sentence: Some(from) }) => {
                    out.push(from[sample]);
                }
                (Targets::Class(out), Targets::Class(from)) => out.push(from[sample]),
                (Targets::Tags(out), Targets::Tags(from)) => out.extend_from_slice(&from[self.range(sample)]),
                (Targets::Score(out), Targets::Score(from)) => out.push(from[sample]),
                (Targets::Answer(out), Targets::Answer(from)) => out.push(from[sample].clone()),
                (Targets::Match(out), Targets::Match(from)) => out.push(from[sample]),
                (Targets::Cloze { places: out, .. }, Targets::Cloze { places: from, .. }) => out.push(from[sample]),
                (Targets::Choice(out), Targets::Choice(from)) => out.push(from[sample].clone()),
                _ => {}
            }
        }
        Self { tokens, ends, first_segment, targets, mask_key: self.mask_key }
    }
}

/// What a batch is made like, beside of which samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Form {
    /// Tokens in a row at most.
    pub(crate) row_length: usize,
    /// How much of each row is predicted; nothing reads it where nothing is masked.
    pub(crate) amount: Amount,
}

/// Makes micro-batches.
#[derive(Clone, Debug)]
pub(crate) struct Assembler {
    pub(crate) pad: u32,
    /// None: nothing is masked.
    pub(crate) masker: Option<Masker>,
}

/// Rows are padded to a multiple of this: vector units like it, and it costs little.
const LENGTH_MULTIPLE: usize = 8;

impl Assembler {
    /// A batch of `chosen`, at least one: samples of units, all of one objective. Only packed blocks may be longer than a
    /// row: they are cut.
    pub(crate) fn batch(&self, chosen: &[(&Samples, usize)], form: Form) -> Batch {
        match &chosen[0].0.targets {
            Targets::Match(_) => return self.separate(chosen, form.row_length),
            Targets::Choice(_) => return self.choices(chosen, form.row_length),
            _ => {}
        }
        let Form { row_length, amount } = form;
        let (mut count, mut longest) = (0, 0);
        for (samples, sample) in chosen {
            let before = count;
            for inner in samples.rows(*sample, row_length) {
                count += 1;
                longest = longest.max(inner.len() + 2);
            }
            let whole = count == before + 1;
            let is_block = samples.targets == Targets::Masked { next_sentence: None };
            assert!(whole || is_block, "a sample of {} tokens in a row of {row_length}", samples.range(*sample).len());
        }
        let length = longest.next_multiple_of(LENGTH_MULTIPLE).min(row_length);
        let total = count * length;
        let mut ids = vec![i64::from(self.pad); total];
        let mut mask = vec![false; total];
        let mut padded = false;
        let has_segments = chosen.iter().any(|(samples, _)| !samples.first_segment.is_empty());
        let mut segment_ids = has_segments.then(|| vec![0; total]);
        let mut labels = match &chosen[0].0.targets {
            Targets::Masked { next_sentence } => Labels::Masked {
                positions: Vec::new(),
                ids: Vec::new(),
                next_sentence: next_sentence.as_ref().map(|_| Vec::with_capacity(count)),
                spans: self.masker.as_ref().is_some_and(|masker| masker.span_boundary).then(Vec::new),
            },
            Targets::Class(_) => Labels::Class(Vec::with_capacity(count)),
            Targets::Tags(_) => Labels::Tags(vec![IGNORED; total]),
            Targets::Score(_) => Labels::Score(Vec::with_capacity(count)),
            Targets::Answer(_) => Labels::Answer { starts: Vec::new(), ends: Vec::new(), windows: Vec::new() },
            Targets::Match(_) | Targets::Choice(_) => unreachable!("made above"),
            Targets::Cloze { words, .. } => {
                Labels::Cloze { positions: Vec::new(), labels: Vec::new(), words: Arc::clone(words) }
            }
        };
        let mut tokens = Vec::with_capacity(length);
        let mut scratch = masking::Scratch::default();
        let mut offset = 0;
        for (samples, sample) in chosen.iter().map(|(samples, sample)| (*samples, *sample)) {
            let range = samples.range(sample);
            // One stream for all rows of a sample.
            let stream = || samples.mask_key.stream("mask", sample as u64);
            let mut masking = self.masker.as_ref().map(|masker| (masker, stream()));
            for inner in samples.rows(sample, row_length) {
                tokens.clear();
                tokens.push(samples.tokens[range.start]);
                tokens.extend_from_slice(&samples.tokens[inner]);
                tokens.push(samples.tokens[range.end - 1]);
                match (&mut labels, &samples.targets) {
                    (
                        Labels::Masked { positions, ids, next_sentence, spans },
                        Targets::Masked { next_sentence: from },
                    ) => {
                        let (masker, stream) = masking.as_mut().expect("an objective of masked words has a masker");
                        masker.apply(&mut tokens, amount, stream, &mut scratch);
                        positions.extend(scratch.masked().map(|(at, _)| (offset + at) as i64));
                        ids.extend(scratch.masked().map(|(_, id)| i64::from(id)));
                        if let Some(spans) = spans {
                            let beside = scratch.beside_spans();
                            spans.extend(beside.map(|places| places.map(|at| (offset + at) as i64)));
                        }
                        if let (Some(out), Some(from)) = (next_sentence, from) {
                            out.push(from[sample]);
                        }
                    }
                    (Labels::Class(out), Targets::Class(from)) => out.push(from[sample]),
                    (Labels::Tags(out), Targets::Tags(from)) => {
                        out[offset..offset + range.len()].copy_from_slice(&from[range.clone()]);
                    }
                    (Labels::Score(out), Targets::Score(from)) => out.push(from[sample]),
                    (Labels::Answer { starts, ends, windows }, Targets::Answer(from)) => {
                        let (window, [start, end]) = &from[sample];
                        starts.push(*start);
                        ends.push(*end);
                        windows.push(window.clone());
                    }
                    (Labels::Cloze { positions, labels, .. }, Targets::Cloze { places, .. }) => {
                        let (place, label) = places[sample];
                        positions.push((offset + place) as i64);
                        labels.push(label);
                    }
                    _ => unreachable!("a batch mixes objectives"),
                }
                for (to, id) in ids[offset..].iter_mut().zip(&tokens) {
                    *to = i64::from(*id);
                }
                mask[offset..offset + tokens.len()].fill(true);
                padded |= tokens.len() < length;
                if let (Some(segments), Some(first)) = (&mut segment_ids, samples.first_segment.get(sample)) {
                    segments[offset + first..offset + tokens.len()].fill(1);
                }
                offset += length;
            }
        }
        Batch { samples: count, sequence_length: length, ids, segment_ids, mask: padded.then_some(mask), labels }
    }

    /// Each text of each sample as a row of its own.
    fn separate(&self, chosen: &[(&Samples, usize)], row_length: usize) -> Batch {
        let mut rows: Vec<&[u32]> = Vec::with_capacity(2 * chosen.len());
        for (samples, sample) in chosen {
            let Targets::Match(lengths) = &samples.targets else { unreachable!("a batch mixes objectives") };
            let (first, second) = samples.tokens[samples.range(*sample)].split_at(lengths[*sample][0]);
            rows.extend([first, second]);
        }
        self.padded(&rows, row_length, Labels::Match)
    }

    /// A batch of these rows, without segments.
    fn padded(&self, rows: &[&[u32]], row_length: usize, labels: Labels) -> Batch {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or_default();
        assert!(longest <= row_length, "a text of {longest} tokens in a row of {row_length}");
        let length = longest.next_multiple_of(LENGTH_MULTIPLE).min(row_length);
        let mut ids = vec![i64::from(self.pad); rows.len() * length];
        let mut mask = vec![false; rows.len() * length];
        for ((row, ids), mask) in rows.iter().zip(ids.chunks_mut(length)).zip(mask.chunks_mut(length)) {
            for (to, id) in ids.iter_mut().zip(*row) {
                *to = i64::from(*id);
            }
            mask[..row.len()].fill(true);
        }
        let padded = mask.contains(&false);
        let mask = padded.then_some(mask);
        Batch { samples: rows.len(), sequence_length: length, ids, segment_ids: None, mask, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block of numbered tokens behind another one.
    fn block(text: usize) -> Samples {
        let mut samples = Samples::new(Targets::Masked { next_sentence: None }, MaskKey::default());
        samples.tokens = vec![2, 5, 3];
        samples.ends.push(3);
        samples.tokens.push(2);
        samples.tokens.extend((0..text).map(|at| 10 + at as u32));
        samples.tokens.push(3);
        samples.ends.push(samples.tokens.len());
        samples
    }

    proptest! {
        #[test]
        fn rows_hold_the_text_of_a_sample_once(text in 0usize..200, row_length in 8usize..100) {
            let samples = block(text);
            let rows: Vec<Vec<u32>> =
                samples.rows(1, row_length).map(|inner| samples.tokens[inner].to_vec()).collect();
            prop_assert_eq!(rows.concat(), (0..text).map(|at| 10 + at as u32).collect::<Vec<_>>());
            let (last, full) = rows.split_last().unwrap();
            prop_assert!(full.iter().all(|row| row.len() + 2 == row_length));
            prop_assert!(last.len() + 2 <= row_length && (full.is_empty() || !last.is_empty()));
        }
    }

    #[test]
    #[should_panic(expected = "a sample of 32 tokens in a row of 16")]
    fn nothing_but_a_block_is_cut() {
        let mut samples = block(30);
        samples.targets = Targets::Class(vec![0, 0]);
        let form = Form { row_length: 16, amount: Amount::default() };
        Assembler { pad: 0, masker: None }.batch(&[(&samples, 1)], form);
    }
}
