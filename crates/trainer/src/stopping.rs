//! Early stopping (`eval.patience`): how evaluations have gone so far.
//!
//! It is a part of the state: it goes into checkpoints and to joiners, and every member works it out from the same
//! numbers, which are bit-identical for any number of workers. So all end at the same step without a word between them, and
//! so does a run that was interrupted anywhere.

use config::EvalConfig;
use serde::{Deserialize, Serialize};
use types::Step;

/// What evaluations up to a step came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluated {
    /// The last one.
    pub step: Step,
    /// The best one.
    pub best_step: Step,
    /// What `eval.best_metric` was there, as bits, so that no text changes it; none as long as it was not measured.
    pub best_bits: Option<u64>,
    /// How many there were since.
    pub since_best: u64,
}

impl Evaluated {
    /// The best value so far.
    pub fn best(&self) -> Option<f64> {
        self.best_bits.map(f64::from_bits)
    }

    /// Takes in an evaluation. One that is done again, because another member missed it, counts once.
    pub(crate) fn add(&mut self, eval: &EvalConfig, step: Step, value: Option<f64>) {
        if step <= self.step {
            return;
        }
        self.step = step;
        let value = value.filter(|value| value.is_finite());
        match value.filter(|value| self.best().is_none_or(|best| eval.improves(*value, best))) {
            Some(better) => (self.best_bits, self.best_step, self.since_best) = (Some(better.to_bits()), step, 0),
            None => self.since_best += 1,
        }
    }

    /// Whether nothing better is expected.
    pub(crate) fn is_over(&self, eval: &EvalConfig) -> bool {
        eval.patience.is_some_and(|patience| self.since_best >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_after(eval: &EvalConfig, values: &[f64]) -> Option<u64> {
        let mut evaluated = Evaluated::default();
        for (value, step) in values.iter().zip(1..) {
            // Twice, as after a failure.
            for _ in 0..2 {
                evaluated.add(eval, Step(step), Some(*value));
            }
            let text = serde_json::to_string(&evaluated).unwrap();
            assert_eq!(serde_json::from_str::<Evaluated>(&text).unwrap(), evaluated);
            if evaluated.is_over(eval) {
                return Some(step);
            }
        }
        None
    }

    #[test]
    fn it_is_over_after_so_many_evaluations_without_a_better_one() {
        let loss = EvalConfig { patience: Some(2), ..EvalConfig::default() };
        assert_eq!(over_after(&loss, &[3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 1.0]), Some(6));
        assert_eq!(over_after(&loss, &[3.0, 2.0, 2.5, 1.9, 2.0, 1.8]), None);
        let slow = EvalConfig { min_delta: Some(0.1), ..loss.clone() };
        assert_eq!(over_after(&slow, &[2.0, 1.95, 1.92]), Some(3), "it is better, but not by enough");
        assert_eq!(over_after(&slow, &[2.0, 1.95, 1.85, 1.8]), None, "by enough, beside the best one before");
        let accuracy = EvalConfig { best_metric: "accuracy".into(), ..loss.clone() };
        assert_eq!(over_after(&accuracy, &[0.5, 0.6, 0.6, 0.59, 0.7]), Some(4));
        assert_eq!(over_after(&EvalConfig { patience: None, ..loss }, &[1.0, 2.0, 3.0, 4.0]), None);
    }

    #[test]
    fn what_is_not_finite_is_no_better() {
        let eval = EvalConfig { patience: Some(2), ..EvalConfig::default() };
        assert_eq!(over_after(&eval, &[f64::NAN, f64::NEG_INFINITY]), Some(2));
        let mut evaluated = Evaluated::default();
        evaluated.add(&eval, Step(5), None);
        evaluated.add(&eval, Step(10), Some(1.0));
        assert_eq!((evaluated.best(), evaluated.best_step, evaluated.since_best), (Some(1.0), Step(10), 0));
    }
}
