//! `[checkpoint]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When checkpoints are written and how many are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0: only at the end. The last step always writes one.
    pub every_steps: u64,
    /// The newest so many are kept, at least 1.
    pub keep_latest: usize,
    /// And so many of the best, by `eval.best_metric`: those with the lowest held-out loss, unless it says otherwise.
    pub keep_best: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_steps: 500, keep_latest: 3, keep_best: 1 }
    }
}
