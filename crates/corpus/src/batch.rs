//! What the trainer gets: plain vectors in the shapes that become tensors.

use crate::answers::Window;
use std::sync::Arc;
use types::{Cursor, Segment};

/// One micro-batch of `samples` rows of `sequence_length` tokens, row after row. `sequence_length` is that of the
/// longest row, rounded up to a multiple of 8, and that of a full row at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Rows: one for each sample, or the short rows that samples were cut into (`batch.short_length`), or two for each
    /// pair that is to match, or one for each choice.
    pub samples: usize,
    /// Tokens in a row, padding included.
    pub sequence_length: usize,
    /// `[samples, sequence_length]`.
    pub ids: Vec<i64>,
    /// `[samples, sequence_length]`, 0 or 1; None where all would be 0.
    pub segment_ids: Option<Vec<i64>>,
    /// `[samples, sequence_length]`, true = real; None: no padding.
    pub mask: Option<Vec<bool>>,
    /// What is to be predicted.
    pub labels: Labels,
}

/// What is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Masked words, and next sentences where the objective has them.
    Masked {
        /// Into the flat `samples × sequence_length`, ascending.
        positions: Vec<i64>,
        /// The ids that stood there.
        ids: Vec<i64>,
        /// `[samples]`: 0 = B continues A, 1 = B is from elsewhere.
        next_sentence: Option<Vec<i64>>,
        /// Alongside `positions`, the flat places of the two tokens beside the span that each is of. None unless the
        /// objective predicts from them.
        spans: Option<Vec<[i64; 2]>>,
    },
    /// `[samples]`: index into the labels.
    Class(Vec<i64>),
    /// `[samples, sequence_length]`: index into the labels on the first piece of each word, elsewhere -100.
    Tags(Vec<i64>),
    /// A number for each row.
    Score(Vec<f64>),
    /// For each row the positions of the answer's first and last token; both 0, which is `[CLS]`, where the window holds
    /// no answer.
    Answer {
        /// `[samples]`
        starts: Vec<i64>,
        /// `[samples]`
        ends: Vec<i64>,
        /// What the rows are windows of. Those of one question follow each other.
        windows: Vec<Window>,
    },
    /// Rows 2 i and 2 i + 1 are the two texts of a pair.
    Match,
    /// Prompts with one word left out.
    Cloze {
        /// `[samples]`: where it is, into the flat `samples × sequence_length`.
        positions: Vec<i64>,
        /// `[samples]`: index into the labels.
        labels: Vec<i64>,
        /// For each label the ids of the words that stand for it.
        words: Arc<Vec<Vec<i64>>>,
    },
    /// The rows of a sample follow each other, one for each of its choices.
    Choice {
        /// How many choices each sample has: together as many as there are rows.
        counts: Vec<i64>,
        /// For each sample the number of the right one, from 0.
        right: Vec<i64>,
    },
}

/// The label that a loss ignores, as in PyTorch.
pub const IGNORED: i64 = -100;

/// What one slot computes in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotStep {
    /// As many micro-batches as the step has for each slot (`batch.accumulate`, or less while the batch grows), of
    /// `batch.micro_batch` samples each.
    pub batches: Vec<Batch>,
    /// The samples used, in order. A unit that held no sample (null rows only) appears as `0..0` of 0, so that the
    /// ledger can account for every unit.
    pub segments: Vec<Segment>,
    /// Where the slot stands after them.
    pub cursor: Cursor,
}

impl Batch {
    /// Real tokens in the batch.
    pub fn tokens(&self) -> u64 {
        let real = self.mask.as_ref().map(|mask| mask.iter().filter(|real| **real).count());
        real.unwrap_or(self.samples * self.sequence_length) as u64
    }
}
