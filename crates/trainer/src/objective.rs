//! From a micro-batch to what is learned from it: sums over tokens or samples, never means.

mod tasks;

use config::{CheckedConfig, ObjectiveKind, Precision};
use corpus::{Batch, IGNORED, Labels};
use model::{Head, Input, Model};
use tch::{Device, Kind, Reduction, Tensor};

/// The fraction bits of losses that are summed as integers: nats to nine digits, and 2^33 of them fit.
const LOSS_FRACTION_BITS: i32 = 30;

/// How many predictions a batch asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Masked words, labelled samples or labelled words.
    pub main: i64,
    /// Next sentences.
    pub next_sentence: i64,
}

impl Targets {
    /// What `batch` asks for.
    pub fn of(batch: &Batch) -> Self {
        match &batch.labels {
            Labels::Masked { ids, next_sentence, .. } => Self {
                main: ids.len() as i64,
                next_sentence: next_sentence.as_ref().map_or(0, |labels| labels.len() as i64),
            },
            Labels::Class(labels) => Self { main: labels.len() as i64, next_sentence: 0 },
            Labels::Score(scores) => Self { main: scores.len() as i64, next_sentence: 0 },
            Labels::Answer { starts, .. } => Self { main: starts.len() as i64, next_sentence: 0 },
            Labels::Match => Self { main: batch.samples as i64 / 2, next_sentence: 0 },
            Labels::Tags(labels) => {
                Self { main: labels.iter().filter(|&&label| label != IGNORED).count() as i64, next_sentence: 0 }
            }
        }
    }
}

/// Sums over a batch: cross-entropy in nats (float32 scalars that can be differentiated) and right answers (int64).
pub(crate) struct Sums {
    pub main: Tensor,
    pub main_correct: Tensor,
    /// Of the next sentences, where the objective has them.
    pub next_sentence: Option<(Tensor, Tensor)>,
    /// `classify` and `tag`: the labels and the predictions, flat, ignored ones included.
    pub answers: Option<(Tensor, Tensor)>,
    /// What the model says where that is no label. Regression: `[samples]`; `answer`: the scores of an answer's first and
    /// last token, `[samples, length, 2]`.
    pub outputs: Option<Tensor>,
}

/// How losses are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Computation {
    precision: Precision,
    /// What cosines are multiplied by.
    similarity_scale: f64,
}

impl Computation {
    /// As the config has it.
    pub fn of(config: &CheckedConfig) -> Self {
        Self {
            precision: config.run.precision,
            similarity_scale: config.objective.similarity_scale.unwrap_or(SIMILARITY_SCALE),
        }
    }
}

/// That of sentence-transformers.
const SIMILARITY_SCALE: f64 = 20.0;

/// Runs the model on a batch.
pub(crate) fn forward(model: &Model, batch: &Batch, computation: Computation, device: Device, train: bool) -> Sums {
    let scale = computation.similarity_scale;
    match computation.precision {
        Precision::Float32 => sums(model, batch, device, train, scale),
        Precision::Bfloat16 => kernels::with_bfloat16(device, || sums(model, batch, device, train, scale)),
    }
}

fn sums(model: &Model, batch: &Batch, device: Device, train: bool, similarity_scale: f64) -> Sums {
    let shape = [batch.samples as i64, batch.sequence_length as i64];
    let input = Input {
        ids: Tensor::from_slice(&batch.ids).view(shape).to_device(device),
        segments: batch.segment_ids.as_ref().map(|ids| Tensor::from_slice(ids).view(shape).to_device(device)),
        mask: batch.mask.as_ref().map(|mask| Tensor::from_slice(mask).view(shape).to_device(device)),
    };
    let hidden = model.encode(&input, train);
    match &batch.labels {
        Labels::Masked { positions, ids, next_sentence } => {
            let positions = Tensor::from_slice(positions).to_device(device);
            let ids = Tensor::from_slice(ids).to_device(device);
            let (main, main_correct) = model.mlm_loss_sum(&hidden, &positions, &ids);
            let next_sentence = next_sentence.as_ref().map(|labels| {
                let labels = Tensor::from_slice(labels).to_device(device);
                let logits = model.nsp_logits(&hidden);
                let (loss, correct, _) = cross_entropy(&logits, &labels);
                (loss, correct)
            });
            Sums { main, main_correct, next_sentence, answers: None, outputs: None }
        }
        Labels::Class(labels) => {
            let labels = Tensor::from_slice(labels).to_device(device);
            answered(&model.class_logits(&hidden, input.mask.as_ref(), train), labels)
        }
        Labels::Tags(labels) => {
            let labels = Tensor::from_slice(labels).to_device(device);
            let logits = model.token_logits(&hidden, train);
            answered(&logits.reshape([labels.size()[0], -1]), labels)
        }
        Labels::Score(scores) => {
            let outputs = model.class_logits(&hidden, input.mask.as_ref(), train).squeeze_dim(1);
            tasks::squared_error(outputs, scores)
        }
        Labels::Answer { starts, ends, .. } => {
            tasks::spans(model.answer_logits(&hidden, train), input.mask.as_ref(), starts, ends)
        }
        Labels::Match => tasks::contrast(&model.embeddings(&hidden, input.mask.as_ref()), batch, similarity_scale),
    }
}

fn answered(logits: &Tensor, labels: Tensor) -> Sums {
    let (main, main_correct, predictions) = cross_entropy(logits, &labels);
    Sums { main, main_correct, next_sentence: None, answers: Some((labels, predictions)), outputs: None }
}

/// Summed loss, right answers, predictions. `logits`: `[n, classes]`; `labels`: `[n]`.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> (Tensor, Tensor, Tensor) {
    let loss = logits.cross_entropy_loss::<&Tensor>(labels, None, Reduction::Sum, IGNORED, 0.0);
    let predictions = logits.detach().argmax(-1, false);
    let correct = predictions.eq_tensor(labels).sum(Kind::Int64);
    (loss, correct, predictions)
}

/// The head that the objective trains.
pub(crate) fn head(config: &CheckedConfig, labels: &[String]) -> Head {
    match config.objective.kind {
        ObjectiveKind::MlmNsp => Head::PreTraining,
        ObjectiveKind::Mlm => Head::MaskedLm,
        ObjectiveKind::Classify => {
            // A number is one output, which needs a name in `config.json`.
            let labels = if config.objective.regression { vec!["score".to_owned()] } else { labels.to_vec() };
            Head::SequenceClassifier { labels, pooling: config.objective.pooling }
        }
        ObjectiveKind::Tag => Head::TokenClassifier { labels: labels.to_vec() },
        ObjectiveKind::Answer => Head::QuestionAnswering,
        ObjectiveKind::Match => Head::Embedder,
    }
}

/// A loss as an integer, so that its sum over workers does not depend on order; None if it is not finite, or so large that
/// the sum of `losses` like it would not fit, whoever adds them up.
pub(crate) fn loss_to_fixed(loss: f64, losses: u64) -> Option<i64> {
    let scaled = (loss * f64::from(LOSS_FRACTION_BITS).exp2()).round();
    (scaled.abs() < f64::from(62).exp2() / losses.max(1) as f64).then_some(scaled as i64)
}

/// The inverse of [`loss_to_fixed`].
pub(crate) fn loss_from_fixed(fixed: i64) -> f64 {
    fixed as f64 / f64::from(LOSS_FRACTION_BITS).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_survive_the_fixed_point() {
        for loss in [0.0, 10.397_207, 1e6] {
            assert!((loss_from_fixed(loss_to_fixed(loss, 64).unwrap()) - loss).abs() < 1e-9);
        }
        assert_eq!([f64::NAN, f64::INFINITY, 1e12].map(|loss| loss_to_fixed(loss, 1)), [None; 3]);
    }

    #[test]
    fn losses_that_are_accepted_can_be_added_up() {
        for losses in [1, 3, 64, 4096, 1_000_003] {
            let largest = (0..64).rev().map(|bits| f64::from(bits).exp2()).find_map(|loss| loss_to_fixed(loss, losses));
            let sum = largest.and_then(|loss| loss.checked_mul(losses as i64));
            assert!(sum.is_some(), "{losses} times {largest:?}");
        }
        // Three of these do not fit into 63 bits.
        let large = f64::from(61 - LOSS_FRACTION_BITS).exp2() * 1.6;
        assert!(loss_to_fixed(large, 1).is_some());
        assert_eq!(loss_to_fixed(large, 3), None);
    }
}
