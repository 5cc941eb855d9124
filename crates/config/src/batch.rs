//! `[batch]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the padding of rows that are shorter than the longest of their micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// It goes through the network, and is masked.
    #[default]
    Padded,
    /// Rows lie behind one another without any; a token attends within its row. Numbers differ from those of `padded` in
    /// their last digits, and the weights that dropout hits are others.
    Unpadded,
}

impl Padding {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The global batch: `slots × micro_batch × accumulate` samples a step, however many workers there are. It may begin
/// smaller, and grow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// V: fixed virtual shards of the batch. At most this many workers can take part.
    pub slots: u32,
    /// Samples in one forward pass. Of `match` a sample is two sequences, of `choose` one for each of its choices.
    pub micro_batch: usize,
    /// Forward passes of each slot in one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Forward passes of each slot in the first step. Their number grows evenly, to `accumulate` after `ramp_share` of the
    /// steps. Default: `accumulate` throughout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp_from: Option<usize>,
    /// With `ramp_from`: the share of `run.steps` in which the batch grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp_share: Option<f64>,
    /// Tokens in one sample at most, special tokens included.
    pub sequence_length: usize,
    /// `mlm`: in the first `short_share` of the steps each block is cut into rows of so many tokens, special tokens
    /// included; it divides `sequence_length`. For that a block holds the text of its rows and no more, which is 2 tokens
    /// less for each row but one. Held-out blocks are never cut, and full. Default: nothing is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_length: Option<usize>,
    /// With `short_length`: the share of `run.steps` in which rows are short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_share: Option<f64>,
    /// `padded` or `unpadded`: whether padding goes through the network. Without it nothing is computed that is thrown
    /// away, and attention keeps no scores.
    #[serde(default, skip_serializing_if = "Padding::is_default")]
    pub padding: Padding,
}

impl BatchConfig {
    /// Samples in one step, once the batch has grown.
    pub fn global_samples(&self) -> u64 {
        u64::from(self.slots) * (self.micro_batch * self.accumulate) as u64
    }

    /// Forward passes of each slot in the step that makes `step` done (1-based) of `total`.
    pub fn accumulate_at(&self, step: u64, total: u64) -> usize {
        let Some(Ramp { from, grows, steps }) = self.ramp(total) else { return self.accumulate };
        let done = step.max(1) - 1;
        if done >= steps {
            return self.accumulate;
        }
        let grown = grows as u128 * u128::from(done) / u128::from(steps);
        // Less than `grows`.
        from + grown as usize
    }

    /// Samples of one slot in that step.
    pub fn slot_samples_at(&self, step: u64, total: u64) -> u64 {
        (self.micro_batch * self.accumulate_at(step, total)) as u64
    }

    /// Samples that all slots together use in the first `steps` of `total` steps.
    pub fn samples_until(&self, steps: u64, total: u64) -> u64 {
        let steps = u128::from(steps);
        let passes = match self.ramp(total) {
            None => self.accumulate as u128 * steps,
            Some(Ramp { from, grows, steps: 0 }) => (from + grows) as u128 * steps,
            Some(Ramp { from, grows, steps: ramp }) => {
                // Each pass that is added is there from a step on.
                let added = (1..=grows as u128).map(|pass| (pass * u128::from(ramp)).div_ceil(grows as u128));
                from as u128 * steps + added.map(|begins| steps.saturating_sub(begins)).sum::<u128>()
            }
        };
        let samples = (self.micro_batch as u128 * u128::from(self.slots)).saturating_mul(passes);
        u64::try_from(samples).unwrap_or(u64::MAX)
    }

    /// Tokens in one training sample at most, special tokens included. One that is cut holds the text of its rows, so
    /// that nothing is left over: each row has a first and a last token of its own.
    pub fn sample_length(&self) -> usize {
        self.short_length.map_or(self.sequence_length, |short| self.sequence_length / short * (short - 2) + 2)
    }

    /// How many rows a full sample makes in the step that makes `step` done (1-based) of `total`.
    pub fn rows_at(&self, step: u64, total: u64) -> usize {
        match (self.short_length, self.short_share) {
            (Some(short), Some(share)) if step.max(1) - 1 < steps_of(share, total) => self.sequence_length / short,
            _ => 1,
        }
    }

    /// Tokens in one row at most in that step.
    pub fn row_length_at(&self, step: u64, total: u64) -> usize {
        match self.rows_at(step, total) {
            1 => self.sample_length(),
            rows => self.sequence_length / rows,
        }
    }

    fn ramp(&self, total: u64) -> Option<Ramp> {
        let (from, share) = (self.ramp_from?, self.ramp_share?);
        Some(Ramp { from, grows: self.accumulate.saturating_sub(from), steps: steps_of(share, total) })
    }
}

/// How the number of forward passes grows.
struct Ramp {
    from: usize,
    /// By so many.
    grows: usize,
    /// In so many steps.
    steps: u64,
}

/// So many steps are a share of all.
fn steps_of(share: f64, total: u64) -> u64 {
    (share * total as f64).floor() as u64
}

fn one() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(accumulate: usize, ramp: Option<(usize, f64)>) -> BatchConfig {
        BatchConfig {
            slots: 4,
            micro_batch: 3,
            accumulate,
            ramp_from: ramp.map(|(from, _)| from),
            ramp_share: ramp.map(|(_, share)| share),
            sequence_length: 128,
            short_length: None,
            short_share: None,
            padding: Padding::Padded,
        }
    }

    #[test]
    fn rows_are_short_first_and_hold_the_same_text() {
        let short =
            BatchConfig { sequence_length: 512, short_length: Some(128), short_share: Some(0.9), ..batch(1, None) };
        assert_eq!((short.rows_at(1, 100), short.row_length_at(1, 100)), (4, 128));
        assert_eq!((short.rows_at(90, 100), short.row_length_at(90, 100)), (4, 128));
        assert_eq!((short.rows_at(91, 100), short.row_length_at(91, 100)), (1, 506));
        // Without the first and the last token of each.
        assert_eq!(short.sample_length() - 2, 4 * (128 - 2));
        let whole = batch(1, None);
        assert_eq!((whole.rows_at(1, 100), whole.row_length_at(1, 100), whole.sample_length()), (1, 128, 128));
    }

    #[test]
    fn the_batch_grows_evenly_to_its_full_size() {
        let grows = batch(5, Some((1, 0.4)));
        let passes: Vec<usize> = (1..=20).map(|step| grows.accumulate_at(step, 20)).collect();
        assert_eq!(passes, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!((grows.slot_samples_at(1, 20), grows.slot_samples_at(20, 20)), (3, 15));
        let flat = batch(5, None);
        assert!((1..=20).all(|step| flat.accumulate_at(step, 20) == 5));
        // Too short a share for one step: nothing grows.
        assert_eq!(batch(5, Some((1, 0.01))).accumulate_at(1, 20), 5);
        assert_eq!(batch(5, Some((1, 1.0))).accumulate_at(20, 20), 4, "full only after the whole run");
    }

    #[test]
    fn samples_add_up() {
        for (accumulate, ramp) in
            [(5, Some((1, 0.4))), (7, Some((3, 0.77))), (64, Some((2, 1.0))), (8, Some((1, 0.01))), (3, None)]
        {
            let batch = batch(accumulate, ramp);
            let mut sum = 0;
            for step in 1..=50 {
                sum += 4 * batch.slot_samples_at(step, 50);
                assert_eq!(batch.samples_until(step, 50), sum, "{accumulate}, {ramp:?}, step {step}");
            }
            assert_eq!(batch.samples_until(0, 50), 0);
        }
        assert_eq!(batch(5, Some((1, 0.5))).samples_until(u64::MAX, u64::MAX), u64::MAX);
    }
}
