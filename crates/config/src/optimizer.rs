//! `[optimizer]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Loshchilov & Hutter 2019.
    #[default]
    Adamw,
    /// You et al. 2020.
    Lamb,
    /// Jordan et al. 2024 for the hidden matrices, AdamW for the rest.
    Muon,
}

/// How gradients become updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// `adamw`, `lamb`, `muon`.
    pub kind: OptimizerKind,
    /// Peak learning rate (of the AdamW part, for `muon`).
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay; not applied to biases and LayerNorm. `lamb` scales a step only where there is decay: with 0 it is
    /// Adam.
    pub weight_decay: f64,
    /// Divide the moments by 1 - beta^t. Google's BERT does not.
    pub bias_correction: bool,
    /// Global gradient norm above which gradients are scaled down; 0 turns it off.
    pub clip_norm: f64,
    /// Average the weights: after the t-th update average ← d · average + (1 - d) · weights, with d = min(this,
    /// (1 + t) / (10 + t)). 0.999 is usual. What is evaluated, what `model.safetensors` of a checkpoint holds, and so what
    /// is exported and what other runs start from, is the average; the run itself goes on from the weights. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Fine-tuning: each layer learns at so many times the rate of the one above it (Howard & Ruder 2018): the heads at
    /// the full rate, the last layer at this, the one before at its square, and so on down to the embeddings. 0.8 to 0.95
    /// is usual. Default: all at the full rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// `muon`: peak learning rate of the hidden matrices.
    pub muon_learning_rate: f64,
    /// `muon`: momentum.
    pub muon_momentum: f64,
    /// `muon`: Newton-Schulz iterations.
    pub muon_iterations: u32,
}

impl OptimizerConfig {
    /// What the learning rate of a parameter is multiplied by that is so many levels below the heads.
    pub fn rate_factor(&self, below_head: i64) -> f64 {
        self.layer_decay.map_or(1.0, |decay| decay.powi(i32::try_from(below_head).unwrap_or(i32::MAX)))
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-6,
            weight_decay: 0.01,
            bias_correction: true,
            clip_norm: 1.0,
            ema_decay: None,
            layer_decay: None,
            muon_learning_rate: 0.02,
            muon_momentum: 0.95,
            muon_iterations: 5,
        }
    }
}
