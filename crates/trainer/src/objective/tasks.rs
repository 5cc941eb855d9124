//! The losses of fine-tuning that are not a choice of labels: numbers, spans, pairs among pairs, and choices.

use super::{LossSum, Sums};
use crate::tensors::sent;
use corpus::{Batch, IGNORED};
use model::Model;
use tch::{Kind, Reduction, Tensor};

fn sums(loss: Tensor, correct: Option<Tensor>, outputs: Option<&Tensor>) -> Sums {
    let losses = vec![LossSum { loss, correct }];
    Sums { losses, answers: None, outputs: outputs.map(Tensor::detach) }
}

/// The score of each label in the place that a prompt leaves open: the mean over its words' logits (Schick and Schütze
/// 2021 with several words a label). `[positions, labels]`. `positions` as in [`Model::mlm_logits`]; `words`: for each
/// label their ids.
pub fn label_scores(model: &Model, hidden: &Tensor, positions: &Tensor, words: &[Vec<i64>]) -> Tensor {
    let logits = model.word_logits(hidden, positions, &sent(&words.concat(), hidden.device())).to_kind(Kind::Float);
    let mut first = 0;
    let of_labels: Vec<Tensor> = words
        .iter()
        .map(|words| {
            let count = words.len() as i64;
            let own = logits.narrow(1, first, count);
            first += count;
            own.mean_dim(1, false, Kind::Float)
        })
        .collect();
    Tensor::stack(&of_labels, 1)
}

/// The scores of each sample's choices, side by side: `[samples, most choices]`, float32, -∞ where a sample has fewer.
/// `logits`: `[rows]`, one for each choice; `counts`: how many each sample has.
pub fn choice_scores(logits: &Tensor, counts: &[i64]) -> Tensor {
    let most = counts.iter().copied().max().unwrap_or(0);
    let places: Vec<i64> =
        (0..).zip(counts).flat_map(|(sample, count)| (0..*count).map(move |at| sample * most + at)).collect();
    let samples = counts.len() as i64;
    let nothing = Tensor::full([samples * most], f64::NEG_INFINITY, (Kind::Float, logits.device()));
    let places = sent(&places, logits.device());
    nothing.index_copy(0, &places, &logits.to_kind(Kind::Float)).view([samples, most])
}

/// `outputs`: `[samples]`.
pub(super) fn squared_error(outputs: &Tensor, scores: &[f64]) -> Sums {
    let scores = sent(scores, outputs.device()).to_kind(Kind::Float);
    let loss = outputs.to_kind(Kind::Float).mse_loss(&scores, Reduction::Sum);
    sums(loss, None, Some(outputs))
}

/// The mean of the cross-entropies of first and last token, as in BERT and Hugging Face, for each row; right where both
/// are. `logits`: `[rows, length, 2]`. Padding can be neither.
pub(super) fn spans(logits: &Tensor, mask: Option<&Tensor>, starts: &[i64], ends: &[i64]) -> Sums {
    let logits = logits.to_kind(Kind::Float);
    let logits = match mask {
        Some(mask) => logits.masked_fill(&mask.logical_not().unsqueeze(2), f64::NEG_INFINITY),
        None => logits,
    };
    let mut losses = Vec::with_capacity(2);
    let mut right: Option<Tensor> = None;
    for (place, positions) in [starts, ends].into_iter().enumerate() {
        let positions = sent(positions, logits.device());
        let scores = logits.select(2, place as i64);
        losses.push(scores.cross_entropy_loss::<&Tensor>(&positions, None, Reduction::Sum, IGNORED, 0.0));
        let hits = scores.detach().argmax(-1, false).eq_tensor(&positions);
        right = Some(match right {
            Some(before) => before.logical_and(&hits),
            None => hits,
        });
    }
    let loss = (&losses[0] + &losses[1]) * 0.5;
    sums(loss, right.map(|right| right.sum(Kind::Int64)), Some(&logits))
}

/// For each pair of the micro-batch, the cross-entropy of its second text among all second texts, by the cosine times
/// `scale` (Henderson et al. 2017; the multiple negatives ranking loss of Reimers and Gurevych). A second text that is
/// the same as the pair's own is not held against it. `vectors`: `[2 · pairs, hidden]`, first and second in turn, of
/// length 1. The micro-batch of a slot is all that is compared, so that it does not matter who computes it.
pub(super) fn contrast(vectors: &Tensor, batch: &Batch, scale: f64) -> Sums {
    let pairs = batch.samples as i64 / 2;
    let vectors = vectors.to_kind(Kind::Float).view([pairs, 2, -1]);
    let similarities = vectors.select(1, 0).matmul(&vectors.select(1, 1).transpose(0, 1)) * scale;
    let same = sent(&same_second_texts(batch), similarities.device()).view([pairs, pairs]);
    let similarities = similarities.masked_fill(&same, f64::NEG_INFINITY);
    let own = Tensor::arange(pairs, (Kind::Int64, similarities.device()));
    let loss = similarities.cross_entropy_loss::<&Tensor>(&own, None, Reduction::Sum, IGNORED, 0.0);
    let correct = similarities.detach().argmax(-1, false).eq_tensor(&own).sum(Kind::Int64);
    sums(loss, Some(correct), None)
}

/// `[pairs, pairs]`: whether another pair's second text is the pair's own.
fn same_second_texts(batch: &Batch) -> Vec<bool> {
    let rows: Vec<&[i64]> = batch.ids.chunks(batch.sequence_length).skip(1).step_by(2).collect();
    let mut same = Vec::with_capacity(rows.len() * rows.len());
    for (pair, own) in rows.iter().enumerate() {
        same.extend(rows.iter().enumerate().map(|(other, row)| pair != other && own == row));
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;
    use corpus::Labels;

    fn loss(sums: &Sums) -> f64 {
        sums.losses[0].loss.double_value(&[])
    }

    fn correct(sums: &Sums) -> i64 {
        sums.losses[0].correct.as_ref().unwrap().int64_value(&[])
    }

    fn pairs(ids: &[i64]) -> Batch {
        Batch {
            samples: ids.len(),
            sequence_length: 1,
            ids: ids.to_vec(),
            segment_ids: None,
            mask: None,
            labels: Labels::Match,
        }
    }

    #[test]
    fn a_pair_is_told_from_the_others_but_not_from_its_own_text() {
        // Vectors of a plane: pairs along x, along y, and along x again.
        let plane = |rows: &[[f32; 2]]| Tensor::from_slice(&rows.concat()).view([-1, 2]);
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        let apart = contrast(&plane(&[x, x, y, y]), &pairs(&[5, 6, 7, 8]), 20.0);
        let expected = 2.0 * (1.0 + f64::exp(-20.0)).ln();
        assert!((loss(&apart) - expected).abs() < 1e-6);
        assert_eq!(correct(&apart), 2);
        // The third pair's second text is another one that looks the same: half of the chance is lost, twice.
        let alike = contrast(&plane(&[x, x, y, y, x, x]), &pairs(&[5, 6, 7, 8, 9, 10]), 20.0);
        assert!((loss(&alike) - 2.0 * f64::ln(2.0)).abs() < 1e-3);
        let equal = contrast(&plane(&[x, x, y, y, x, x]), &pairs(&[5, 6, 7, 8, 9, 6]), 20.0);
        assert!(loss(&equal) < 1e-6);
        assert_eq!(correct(&equal), 3);
    }

    #[test]
    fn choices_that_are_not_there_have_no_score() {
        let logits = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0]).set_requires_grad(true);
        let scores = choice_scores(&logits, &[2, 3]);
        let right = Tensor::from_slice(&[1i64, 0]);
        let loss = scores.cross_entropy_loss::<&Tensor>(&right, None, Reduction::Sum, IGNORED, 0.0);
        let expected = (1.0 + f64::exp(-1.0)).ln() + (1.0 + f64::exp(1.0) + f64::exp(2.0)).ln();
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6);
        loss.backward();
        let gradient = Vec::<f32>::try_from(logits.grad()).unwrap();
        let share = |of: f64, all: f64| (of / all) as f32;
        let all = [1.0 + f64::exp(1.0), 1.0 + f64::exp(1.0) + f64::exp(2.0)];
        let wanted = [
            share(1.0, all[0]),
            share(-1.0, all[0]),
            share(1.0 - all[1], all[1]),
            share(f64::exp(1.0), all[1]),
            share(f64::exp(2.0), all[1]),
        ];
        assert!(gradient.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn padding_is_no_answer() {
        let logits = Tensor::from_slice(&[0.0_f32, 0.0, 1.0, 0.0, 9.0, 9.0]).view([1, 3, 2]);
        let mask = Tensor::from_slice(&[true, true, false]).view([1, 3]);
        let sums = spans(&logits, Some(&mask), &[1], &[1]);
        let expected = ((1.0 + f64::exp(-1.0)).ln() + f64::ln(2.0)) / 2.0;
        assert!((loss(&sums) - expected).abs() < 1e-6);
        assert!(loss(&sums).is_finite());
    }

    #[test]
    fn numbers_are_missed_by_their_squares() {
        let sums = squared_error(&Tensor::from_slice(&[1.0_f32, -2.0]), &[0.5, 1.0]);
        assert!((loss(&sums) - 9.25).abs() < 1e-6 && sums.losses[0].correct.is_none());
    }
}
