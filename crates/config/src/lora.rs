//! `[lora]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A matrix of a layer that gets an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// The queries of attention.
    Query,
    /// Its keys.
    Key,
    /// Its values.
    Value,
    /// What comes after attention.
    AttentionOutput,
    /// Both matrices of the feed-forward layer.
    FeedForward,
}

/// Low-rank adapters (Hu et al. 2021): beside a matrix W, which stays as it is, B · A of a small rank is learned, and the
/// layer computes W x + (alpha / rank) · B A x. Trained, reduced over the workers and kept by the optimizer are the adapters
/// and the heads alone. Checkpoints and exports hold W + (alpha / rank) · B A in W's place, so that they are models like
/// any other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The rank of the adapters. Default: 8.
    pub rank: i64,
    /// What the adapters' part is multiplied by, times the rank. Default: 16.
    pub alpha: f64,
    /// Dropout on what goes into the adapters. Default: 0.
    pub dropout: f64,
    /// `query`, `key`, `value`, `attention_output`, `feed_forward`. `modern` has one matrix for queries, keys and values:
    /// name the three of them or none. Default: `query` and `value`.
    pub targets: Vec<LoraTarget>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![LoraTarget::Query, LoraTarget::Value] }
    }
}

impl LoraConfig {
    /// What the adapters' part is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Whether a matrix has an adapter.
    pub fn adapts(&self, target: LoraTarget) -> bool {
        self.targets.contains(&target)
    }
}
