//! `[batch]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The global batch: `slots × micro_batch × accumulate` samples a step, however many workers there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// V: fixed virtual shards of the batch. At most this many workers can take part.
    pub slots: u32,
    /// Samples in one forward pass.
    pub micro_batch: usize,
    /// Forward passes of each slot in one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Tokens in one sample at most, special tokens included.
    pub sequence_length: usize,
}

impl BatchConfig {
    /// Samples in one step.
    pub fn global_samples(&self) -> u64 {
        self.slots as u64 * self.slot_samples()
    }

    /// Samples of one slot in one step.
    pub fn slot_samples(&self) -> u64 {
        (self.micro_batch * self.accumulate) as u64
    }
}

fn one() -> usize {
    1
}
