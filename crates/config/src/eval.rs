//! `[eval]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Measuring on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Steps between evaluations; 0: only at the end. The last step is always evaluated.
    pub every_steps: u64,
    /// Held-out samples used each time, at most.
    pub samples: u64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every_steps: 500, samples: 2048 }
    }
}
