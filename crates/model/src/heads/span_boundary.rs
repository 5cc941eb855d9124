//! SpanBERT's span-boundary objective (Joshi et al. 2020, section 3.2; pretraining/fairseq/models/pair_bert.py): the words of a
//! span from the tokens just outside it.

use super::Heads;
use config::ModelShape;
use tch::Tensor;

/// Before the names of the parameters, which Hugging Face has not.
pub(crate) const PREFIX: &str = "span_boundary.";
/// Words of a span that are predicted, the first ones: a longer span's others are left out.
pub const SPAN_TARGETS: i64 = 20;
/// Width of the embedding of a place in a span.
const PLACE_WIDTH: i64 = 200;

/// The tokens that a span's words are predicted from; alongside the words.
#[derive(Debug)]
pub struct Boundaries {
    /// The flat place of the token before the span. `[words]`, int64
    pub left: Tensor,
    /// Of the one behind it.
    pub right: Tensor,
    /// The place of the word in its span, from 0, less than [`SPAN_TARGETS`].
    pub place: Tensor,
}

/// A part of the head.
pub(crate) enum Part {
    /// Name, rows, columns.
    Table(&'static str, i64, i64),
    /// Name, outputs, inputs.
    Dense(&'static str, i64, i64),
    /// Name, width.
    Norm(&'static str, i64),
    /// Name, length.
    Bias(&'static str, i64),
}

/// What the head is made of. Its output layer is that of the words.
pub(crate) fn parts(shape: &ModelShape) -> [Part; 6] {
    let (hidden, narrow) = (shape.hidden, shape.embedding_width());
    [
        Part::Table("span_boundary.position_embeddings.weight", SPAN_TARGETS, PLACE_WIDTH),
        Part::Dense("span_boundary.first.dense", hidden, 2 * hidden + PLACE_WIDTH),
        Part::Norm("span_boundary.first.norm", hidden),
        Part::Dense("span_boundary.second.dense", narrow, hidden),
        Part::Norm("span_boundary.second.norm", narrow),
        Part::Bias("span_boundary.bias", shape.vocabulary),
    ]
}

impl Heads {
    /// The summed cross-entropy of the words in nats, and how often the word's logit was the greatest. `hidden`: `[batch,
    /// length, hidden]`; `labels`: `[words]`, int64.
    pub fn span_boundary_loss_sum(&self, hidden: &Tensor, at: &Boundaries, labels: &Tensor) -> (Tensor, Tensor) {
        let flat = hidden.reshape([-1, hidden.size()[2]]);
        let table = self.parameter("span_boundary.position_embeddings.weight");
        let place = Tensor::embedding(table, &at.place, -1, false, false).to_kind(flat.kind());
        let seen = Tensor::cat(&[flat.index_select(0, &at.left), flat.index_select(0, &at.right), place], 1);
        let layer = |input: &Tensor, name: &str| {
            let dense = kernels::gelu(&self.linear(input, &format!("span_boundary.{name}.dense")));
            self.norm(&dense, &format!("span_boundary.{name}.norm"))
        };
        let rows = layer(&layer(&seen, "first"), "second");
        kernels::masked_loss(&rows, &self.embeddings, self.parameter("span_boundary.bias"), labels)
    }
}
