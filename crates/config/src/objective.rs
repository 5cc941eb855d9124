//! `[objective]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// BERT's: masked words and next sentence, on sentence pairs.
    #[default]
    MlmNsp,
    /// Masked words only, on packed blocks.
    Mlm,
    /// A class for each text or pair of texts.
    Classify,
    /// A tag for each word.
    Tag,
}

/// How a sequence becomes one vector for `classify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// BERT's pooler: dense and tanh on the first token.
    #[default]
    Cls,
    /// The mean over real tokens.
    Mean,
}

/// What the tags of `tag` mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TagScheme {
    /// One tag a word (parts of speech).
    #[default]
    Plain,
    /// B-X, I-X, O: entity F1 is reported too.
    Bio,
}

/// What is learned, and how the samples are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// `mlm_nsp`, `mlm`, `classify`, `tag`.
    pub kind: ObjectiveKind,
    /// Share of tokens to predict.
    pub mask_rate: f64,
    /// Of those: share that becomes `[MASK]`.
    pub mask_token_share: f64,
    /// Of those: share that becomes a random id; the rest stays.
    pub random_token_share: f64,
    /// Mask all pieces of a word together.
    pub whole_word: bool,
    /// `mlm_nsp`: share of pairs that are made shorter than the sequence.
    pub short_sequence_probability: f64,
    /// Positions to predict in one sequence at most. Default: ceil(mask_rate × sequence length).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_predictions: Option<usize>,
    /// `classify`, `tag`: the labels in order. Empty: the sorted set of labels found in the training data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// `classify`: how a sequence becomes one vector.
    pub pooling: Pooling,
    /// `tag`: what the tags mean.
    pub tag_scheme: TagScheme,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::MlmNsp,
            mask_rate: 0.15,
            mask_token_share: 0.8,
            random_token_share: 0.1,
            whole_word: false,
            short_sequence_probability: 0.1,
            max_predictions: None,
            labels: Vec::new(),
            pooling: Pooling::Cls,
            tag_scheme: TagScheme::Plain,
        }
    }
}
