//! The samples of one unit, flat, and how a micro-batch is made of some.

pub(crate) mod blocks;
pub(crate) mod labelled;
pub(crate) mod masking;
pub(crate) mod pairs;

use crate::batch::{Batch, IGNORED, Labels};
use crate::random::Stream;
use masking::{Amount, Masker};

/// What the samples of a unit are to predict.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Targets {
    /// Words that are masked when a batch is made; for pairs also 1 where the second part is from elsewhere.
    Masked { next_sentence: Option<Vec<i64>> },
    /// For each sample.
    Class(Vec<i64>),
    /// For each token of all samples.
    Tags(Vec<i64>),
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

    /// The samples in another order.
    pub(crate) fn reordered(&self, order: &[u32]) -> Self {
        let mut targets = match &self.targets {
            Targets::Masked { next_sentence } => {
                Targets::Masked { next_sentence: next_sentence.as_ref().map(|_| Vec::with_capacity(order.len())) }
            }
            Targets::Class(_) => Targets::Class(Vec::with_capacity(order.len())),
            Targets::Tags(_) => Targets::Tags(Vec::with_capacity(self.tokens.len())),
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
    /// A batch of `rows`, at least one: samples of units, all of one objective.
    pub(crate) fn batch(&self, rows: &[(&Samples, usize)], form: Form) -> Batch {
        let Form { row_length, amount } = form;
        let longest = rows.iter().map(|(samples, row)| samples.range(*row).len()).max().unwrap_or(0);
        assert!(longest <= row_length, "a sample of {longest} tokens in a row of {row_length}");
        let length = longest.next_multiple_of(LENGTH_MULTIPLE).min(row_length);
        let total = rows.len() * length;
        let mut ids = vec![i64::from(self.pad); total];
        let mut mask = vec![false; total];
        let mut padded = false;
        let has_segments = rows.iter().any(|(samples, _)| !samples.first_segment.is_empty());
        let mut segment_ids = has_segments.then(|| vec![0; total]);
        let mut labels = match &rows[0].0.targets {
            Targets::Masked { next_sentence } => Labels::Masked {
                positions: Vec::new(),
                ids: Vec::new(),
                next_sentence: next_sentence.as_ref().map(|_| Vec::with_capacity(rows.len())),
            },
            Targets::Class(_) => Labels::Class(Vec::with_capacity(rows.len())),
            Targets::Tags(_) => Labels::Tags(vec![IGNORED; total]),
        };
        let mut tokens = Vec::with_capacity(length);
        let mut scratch = masking::Scratch::default();
        for (index, (samples, row)) in rows.iter().enumerate() {
            let offset = index * length;
            let range = samples.range(*row);
            tokens.clear();
            tokens.extend_from_slice(&samples.tokens[range.clone()]);
            match (&mut labels, &samples.targets) {
                (Labels::Masked { positions, ids, next_sentence }, Targets::Masked { next_sentence: from }) => {
                    let mut stream = samples.mask_key.stream("mask", *row as u64);
                    let masker = self.masker.as_ref().expect("an objective of masked words has a masker");
                    masker.apply(&mut tokens, amount, &mut stream, &mut scratch);
                    positions.extend(scratch.masked().map(|(at, _)| (offset + at) as i64));
                    ids.extend(scratch.masked().map(|(_, id)| i64::from(id)));
                    if let (Some(out), Some(from)) = (next_sentence, from) {
                        out.push(from[*row]);
                    }
                }
                (Labels::Class(out), Targets::Class(from)) => out.push(from[*row]),
                (Labels::Tags(out), Targets::Tags(from)) => {
                    out[offset..offset + range.len()].copy_from_slice(&from[range.clone()]);
                }
                _ => unreachable!("a batch mixes objectives"),
            }
            for (to, id) in ids[offset..].iter_mut().zip(&tokens) {
                *to = i64::from(*id);
            }
            mask[offset..offset + tokens.len()].fill(true);
            padded |= tokens.len() < length;
            if let (Some(segments), Some(first)) = (&mut segment_ids, samples.first_segment.get(*row)) {
                segments[offset + first..offset + tokens.len()].fill(1);
            }
        }
        Batch { samples: rows.len(), sequence_length: length, ids, segment_ids, mask: padded.then_some(mask), labels }
    }
}
