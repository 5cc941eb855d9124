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

/// What matrix products and attention are computed in, forwards and backwards. Weights, gradients, sums of gradients and
/// losses are float32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of mantissa.
    #[default]
    Float32,
    /// 8 bits: much faster on GPUs, and on processors with instructions for it.
    Bfloat16,
}

impl Precision {
    fn is_default(&self) -> bool {
        *self == Precision::default()
    }
}

/// Name, length, seed, precision and number of workers.
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
    /// `float32` or `bfloat16`: what matrix products are computed in.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Keep only what goes into each layer, and run the layers again in the backward pass: less memory for long sequences
    /// and large micro-batches, a quarter to a third more time, the same bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub activation_checkpointing: bool,
    /// Not run on a device so far, so that neither its speed nor its bits are known (docs/guide/cuda.md). Workers on a
    /// CUDA device record the launches of the encoder's layers as CUDA graphs and replay them, for processors that launch
    /// more slowly than the device computes. For masked words in blocks, in exact mode; workers without a device do
    /// without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cuda_graphs: bool,
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
