//! Small models of every architecture.
// Each test file uses a part of it.
#![allow(dead_code, missing_docs)]

use config::{Architecture, ModelConfig, ModelShape};

pub const ALL: [Architecture; 6] = [
    Architecture::Bert,
    Architecture::Modern,
    Architecture::Albert,
    Architecture::Electra,
    Architecture::Distilbert,
    Architecture::Roberta,
];

pub fn shape(architecture: Architecture, dropout: f64) -> ModelShape {
    ModelConfig {
        architecture,
        layers: Some(3),
        hidden: Some(16),
        heads: Some(2),
        intermediate: Some(24),
        dropout: Some(dropout),
        ..ModelConfig::default()
    }
    .shape(40, 16)
}
