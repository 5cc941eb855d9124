//! The losses that an objective adds up: their names, what each is a mean over, and sums of them that do not depend on
//! who adds them.
//!
//! What is learned from is `Σ weight × sum / count` over the losses, where sum and count are those of the global batch. The
//! counts are known before the forward pass, from the batches alone; the sums travel as integers.

use crate::objective::{LossSum, Sums};
use corpus::{Batch, IGNORED, Labels};
use tch::Tensor;

/// One of the losses that an objective adds up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Loss {
    /// Metrics are called `NAME_loss` and `NAME_accuracy`. Empty where it is the only one: then it is `loss`.
    pub name: &'static str,
    /// Its factor.
    pub weight: f64,
    /// What it is a mean over.
    pub counted: Counted,
    /// Whether its predictions are right or wrong: then an accuracy is reported.
    pub has_answers: bool,
}

/// What a loss is a mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Words to predict.
    MaskedWords,
    /// Pairs of texts.
    Pairs,
    /// Labelled samples or words, pairs that match, or samples with choices.
    Labels,
    /// Tokens that are no padding.
    Tokens,
    /// Words of spans that are predicted from beside the span.
    SpanWords,
}

/// How many predictions each loss is a mean over, of a batch or of many; alongside the losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Targets(pub Vec<i64>);

impl Loss {
    /// Of numbers that are no predictions, such as a distance.
    pub fn distance(name: &'static str, counted: Counted, weight: f64) -> Self {
        Self { name, weight, counted, has_answers: false }
    }

    /// Of predictions that are right or wrong, with the weight 1.
    pub fn new(name: &'static str, counted: Counted) -> Self {
        Self { name, weight: 1.0, counted, has_answers: true }
    }

    /// The name of a metric of this loss.
    pub fn metric(&self, what: &str) -> String {
        if self.name.is_empty() { what.to_owned() } else { format!("{}_{what}", self.name) }
    }
}

impl Counted {
    fn of(self, batch: &Batch) -> i64 {
        let count = match (self, &batch.labels) {
            (Self::Tokens, _) => batch.tokens() as usize,
            (Self::MaskedWords, Labels::Masked { ids, .. }) => ids.len(),
            (Self::SpanWords, Labels::Masked { positions, spans, .. }) => {
                spans.as_ref().map_or(0, |spans| span_words(positions, spans).count())
            }
            (Self::Pairs, Labels::Masked { next_sentence, .. }) => next_sentence.as_ref().map_or(0, Vec::len),
            (Self::Labels, Labels::Class(labels) | Labels::Cloze { labels, .. }) => labels.len(),
            (Self::Labels, Labels::Tags(labels)) => labels.iter().filter(|&&label| label != IGNORED).count(),
            (Self::Labels, Labels::Score(scores)) => scores.len(),
            (Self::Labels, Labels::Answer { starts, .. }) => starts.len(),
            (Self::Labels, Labels::Choice { right, .. }) => right.len(),
            // First and second texts in turn.
            (Self::Labels, Labels::Match) => batch.samples / 2,
            (Self::MaskedWords | Self::Pairs | Self::SpanWords, _) | (Self::Labels, Labels::Masked { .. }) => 0,
        };
        count as i64
    }
}

/// The words that are predicted from beside their span: their index in `positions`, and their place in the span. All
/// but those behind the first [`model::SPAN_TARGETS`].
pub(crate) fn span_words(positions: &[i64], spans: &[[i64; 2]]) -> impl Iterator<Item = (usize, i64)> {
    let places = positions.iter().zip(spans).map(|(at, [left, _])| at - left - 1).enumerate();
    places.filter(|(_, place)| *place < model::SPAN_TARGETS)
}

impl Targets {
    /// What `batch` asks for.
    pub fn of(losses: &[Loss], batch: &Batch) -> Self {
        Self(losses.iter().map(|loss| loss.counted.of(batch)).collect())
    }

    /// Adds those of another batch.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(total, count)| *total += count);
    }

    /// The loss of a batch in the global batch, whose targets these are.
    pub fn share(&self, losses: &[Loss], sums: &Sums) -> Tensor {
        assert_eq!((self.0.len(), sums.losses.len()), (losses.len(), losses.len()), "a sum and a count for each loss");
        let mut parts = losses.iter().zip(&self.0).zip(&sums.losses);
        let scaled =
            |((loss, count), sum): ((&Loss, &i64), &LossSum)| &sum.loss * (loss.weight / (*count).max(1) as f64);
        let mut total = scaled(parts.next().expect("an objective has a loss"));
        for part in parts {
            total += scaled(part);
        }
        total
    }
}

/// What batches summed up; alongside the losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Losses that no number can stand for.
    pub broken: u64,
    pub sums: Vec<FixedSum>,
}

/// Of one loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FixedSum {
    /// See [`loss_to_fixed`].
    pub loss: i64,
    /// Right answers.
    pub correct: i64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(losses: usize) -> Self {
        Self { broken: 0, sums: vec![FixedSum::default(); losses] }
    }

    /// Adds a batch's numbers; `batches` like it are added up at most, by all workers together.
    pub fn add(&mut self, sums: &Sums, batches: u64) {
        assert_eq!(self.sums.len(), sums.losses.len(), "a sum for each loss");
        for (total, LossSum { loss, correct }) in self.sums.iter_mut().zip(&sums.losses) {
            match loss_to_fixed(loss.double_value(&[]), batches) {
                Some(loss) => total.loss += loss,
                None => self.broken += 1,
            }
            total.correct += correct.as_ref().map_or(0, |correct| correct.int64_value(&[]));
        }
    }

    /// How many numbers [`Tally::to_words`] gives.
    pub fn words(losses: usize) -> usize {
        1 + 2 * losses
    }

    /// As numbers that add up.
    pub fn to_words(&self) -> Vec<i64> {
        [self.broken as i64].into_iter().chain(self.sums.iter().flat_map(|sum| [sum.loss, sum.correct])).collect()
    }

    /// The inverse of [`Tally::to_words`].
    pub fn from_words(words: &[i64]) -> Self {
        let sums = words[1..].chunks_exact(2).map(|sum| FixedSum { loss: sum[0], correct: sum[1] });
        Self { broken: words[0] as u64, sums: sums.collect() }
    }

    /// The mean of each loss.
    pub fn means(&self, targets: &Targets) -> Vec<f64> {
        self.sums
            .iter()
            .zip(&targets.0)
            .map(|(sum, count)| loss_from_fixed(sum.loss) / (*count).max(1) as f64)
            .collect()
    }
}

/// The means, each times its weight, added up.
pub(crate) fn weighted(losses: &[Loss], means: &[f64]) -> f64 {
    losses.iter().zip(means).map(|(loss, mean)| loss.weight * mean).sum()
}

/// The fraction bits of losses that are summed as integers: nats to nine digits, and 2^33 of them fit.
const LOSS_FRACTION_BITS: i32 = 30;

/// A loss as an integer, so that its sum over workers does not depend on order; None if it is not finite, or so large that
/// the sum of `losses` like it would not fit, whoever adds them up.
fn loss_to_fixed(loss: f64, losses: u64) -> Option<i64> {
    let scaled = (loss * f64::from(LOSS_FRACTION_BITS).exp2()).round();
    (scaled.abs() < f64::from(62).exp2() / losses.max(1) as f64).then_some(scaled as i64)
}

/// The inverse of [`loss_to_fixed`].
fn loss_from_fixed(fixed: i64) -> f64 {
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

    fn sums(losses: &[f64]) -> Sums {
        let sum = |loss: &f64| LossSum { loss: Tensor::from(*loss), correct: Some(Tensor::from(1_i64)) };
        Sums { losses: losses.iter().map(sum).collect(), answers: None, outputs: None }
    }

    #[test]
    fn losses_that_do_not_add_up_are_broken() {
        let mut tally = Tally::new(1);
        for _ in 0..3 {
            tally.add(&sums(&[f64::from(31).exp2() * 1.6]), 3);
        }
        assert_eq!((tally.broken, tally.sums[0]), (3, FixedSum { loss: 0, correct: 3 }));
    }

    #[test]
    fn a_batch_has_its_share_of_each_loss() {
        let second = Loss { weight: 5.0, ..Loss::new("second", Counted::Pairs) };
        let losses = [Loss::new("first", Counted::MaskedWords), second];
        let targets = Targets(vec![4, 10]);
        assert_eq!(targets.share(&losses, &sums(&[2.0, 3.0])).double_value(&[]), 2.0 / 4.0 + 5.0 * 3.0 / 10.0);
        let mut tally = Tally::new(2);
        tally.add(&sums(&[2.0, 3.0]), 2);
        tally.add(&sums(&[6.0, 1.0]), 2);
        let same = Tally::from_words(&tally.to_words());
        assert_eq!((&same, tally.to_words().len()), (&tally, Tally::words(2)));
        assert_eq!(tally.means(&targets), [2.0, 0.4]);
        assert_eq!(weighted(&losses, &tally.means(&targets)), 4.0);
        assert_eq!(
            (losses[1].metric("loss"), Loss::new("", Counted::Labels).metric("accuracy")),
            ("second_loss".into(), "accuracy".into())
        );
    }

    #[test]
    fn the_first_words_of_a_span_are_predicted_from_beside_it() {
        // A span of two, and one of 23 behind it.
        let positions: Vec<i64> = (3..5).chain(7..30).collect();
        let spans: Vec<[i64; 2]> = std::iter::repeat_n([2, 5], 2).chain(std::iter::repeat_n([6, 30], 23)).collect();
        let words: Vec<(usize, i64)> = span_words(&positions, &spans).collect();
        assert_eq!(words[..3], [(0, 0), (1, 1), (2, 0)]);
        assert_eq!((words.len(), words[21]), (22, (21, 19)));
    }
}
