//! `[run]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of run this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Self-supervised, on raw text.
    Pretrain,
    /// Supervised, on labelled examples.
    Finetune,
}

impl RunKind {
    /// As the config and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            RunKind::Pretrain => "pretrain",
            RunKind::Finetune => "finetune",
        }
    }
}

/// Name, length, seed and number of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// 1 to 64 of `a-z A-Z 0-9 . _ -`; need not be unique.
    pub name: String,
    /// `pretrain` or `finetune`.
    pub kind: RunKind,
    /// Optimizer steps.
    pub steps: u64,
    /// Seeds the weights, the data order, the masks and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The run starts, and goes on, only with at least this many workers.
    #[serde(default = "one")]
    pub min_workers: u32,
    /// Workers beyond this many are left to other runs. Default: `batch.slots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
}

fn default_seed() -> u64 {
    42
}

fn one() -> u32 {
    1
}
