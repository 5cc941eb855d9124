//! `[model]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The family of encoders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Devlin et al. 2018, as published: post-norm, learned positions, segments.
    #[default]
    Bert,
    /// The ModernBERT layout (Warner et al. 2024): pre-norm, rotary positions, GeGLU, no biases, no segments.
    Modern,
    /// Lan et al. 2019: BERT with narrow embeddings, and one layer that is used as often as there are layers.
    Albert,
    /// Clark et al. 2020: BERT whose embeddings may be narrower; the discriminator that tells which tokens were replaced.
    Electra,
    /// Sanh et al. 2019: BERT without segments and without a pooler, as a student of a larger model.
    Distilbert,
    /// Liu et al. 2019: BERT without segments and next sentences, and with positions that are counted from 2.
    Roberta,
}

impl Architecture {
    /// As the config spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Modern => "modern",
            Self::Albert => "albert",
            Self::Electra => "electra",
            Self::Distilbert => "distilbert",
            Self::Roberta => "roberta",
        }
    }
}

/// Published sizes (Turc et al. 2019, Devlin et al. 2018): layers × hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelSize {
    /// 2 × 128, 2 heads.
    Tiny,
    /// 4 × 256, 4 heads.
    #[default]
    Mini,
    /// 4 × 512, 8 heads.
    Small,
    /// 8 × 512, 8 heads.
    Medium,
    /// 12 × 768, 12 heads.
    Base,
    /// 24 × 1024, 16 heads.
    Large,
}

/// The non-linearity of the feed-forward layers and of the MLM head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact GELU (erf), as in Hugging Face.
    #[default]
    Gelu,
    /// The tanh approximation, as in Google's release.
    GeluNew,
    /// max(0, x).
    Relu,
}

/// How weight matrices are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initializer {
    /// N(0, std), as in Hugging Face and NVIDIA.
    #[default]
    Normal,
    /// Redrawn beyond two standard deviations, as in Google's release.
    TruncatedNormal,
}

/// The encoder. A size names the published shape; any single number can be overridden.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// `bert`, `modern`, `albert`, `electra`, `distilbert` or `roberta`.
    pub architecture: Architecture,
    /// `tiny`, `mini`, `small`, `medium`, `base`, `large`.
    pub size: ModelSize,
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<i64>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<i64>,
    /// Attention heads; must divide `hidden`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<i64>,
    /// Width of the feed-forward layer. Default: 4 × hidden; for `modern` 8/3 × hidden rounded up to a multiple
    /// of 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<i64>,
    /// Width of the embeddings (`albert`, `electra`), which is brought to `hidden` by a matrix. Default: 128 for `albert`,
    /// `hidden` for `electra`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<i64>,
    /// Width of ELECTRA's generator (`objective.kind = "replaced_tokens"`). Default: a quarter of `hidden`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_hidden: Option<i64>,
    /// Layers of ELECTRA's generator. Default: as many as the discriminator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_layers: Option<i64>,
    /// Attention heads of ELECTRA's generator. Default: one for each 64 of its width, one at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_heads: Option<i64>,
    /// Rows of the embedding. Default: the tokenizer's size rounded up to a multiple of 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<i64>,
    /// Longest sequence. Default: 512, or `batch.sequence_length` if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<i64>,
    /// Default: `gelu`; `gelu_new` for `albert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Dropout on embeddings and sub-layers. Default: 0.1; 0 for `modern` and `albert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Dropout on attention weights. Default: as `dropout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_dropout: Option<f64>,
    /// Default: 1e-12; 1e-5 for `modern` and `roberta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_norm_epsilon: Option<f64>,
    /// Standard deviation of the initial weights. Default: 0.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// How the initial weights are drawn.
    pub initializer: Initializer,
    /// Base of the rotary positions (`modern`); with local attention, of the layers that attend globally. Default: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// `modern`: of so many layers, beginning with the first, one attends to the whole sequence, and the others within
    /// `local_attention`. ModernBERT's is 3. Default: 1, all of them globally.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_attn_every_n_layers: Option<i64>,
    /// With `global_attn_every_n_layers`: the window of the other layers; a token sees half of it on either side. Cheaper
    /// than the whole sequence with `batch.padding = "unpadded"`. Default: 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_attention: Option<i64>,
    /// With `global_attn_every_n_layers`: base of the rotary positions of the other layers. Default: 10000; ModernBERT's
    /// `rope_theta` is 160000 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_rope_theta: Option<f64>,
    /// Fine-tuning: the embeddings and so many layers from the first on stay as they are. They need no backward pass, no
    /// reduction and no optimizer's memory. 0: the embeddings alone. Default: everything is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_layers: Option<i64>,
}

/// Layers that see only what is near by, between layers that see everything (ModernBERT).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalAttention {
    /// Of so many layers, beginning with the first, one attends globally. At least 2.
    pub global_every: i64,
    /// Tokens of the window; half of them on either side.
    pub window: i64,
    /// Base of the rotary positions of the layers that attend locally.
    pub rope_theta: f64,
}

impl LocalAttention {
    /// Whether this layer, counted from 0, sees only its window.
    pub fn is_local(&self, layer: i64) -> bool {
        layer % self.global_every != 0
    }

    /// Positions that a token sees on either side.
    pub fn reach(&self) -> i64 {
        self.window / 2
    }
}

/// The model with every number decided. Field names follow the Hugging Face `config.json` where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Which encoder.
    pub architecture: Architecture,
    /// Rows of the embedding table.
    pub vocabulary: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Layers.
    pub layers: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the feed-forward layer.
    pub intermediate: i64,
    /// Longest sequence.
    pub max_positions: i64,
    /// Segment embeddings; 0 for `modern` and `distilbert`, 1 for `roberta`, 2 for the others.
    pub segment_types: i64,
    /// Width of the embeddings; None: `hidden`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<i64>,
    /// The non-linearity.
    pub activation: Activation,
    /// Dropout on embeddings and sub-layers.
    pub dropout: f64,
    /// Dropout on attention weights.
    pub attention_dropout: f64,
    /// LayerNorm's epsilon.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// How the initial weights are drawn.
    pub initializer: Initializer,
    /// Base of the rotary positions, of the layers that attend globally.
    pub rope_theta: f64,
    /// None: every layer attends globally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_attention: Option<LocalAttention>,
}

/// The numbers of ELECTRA's generator, which shares the discriminator's embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorShape {
    /// Layers.
    pub layers: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the feed-forward layer: 4 × `hidden`.
    pub intermediate: i64,
}

/// Where `model.vocabulary` is left out, the embedding has the tokenizer's size rounded up to a multiple of this.
pub const VOCABULARY_MULTIPLE: i64 = 8;

/// The id that `<pad>` must have with `roberta`: Hugging Face counts positions from it.
pub const PADDING_ID: i64 = 1;

/// The rows of an embedding for so many ids.
pub(crate) fn padded(ids: i64) -> i64 {
    round_up(ids, VOCABULARY_MULTIPLE)
}

/// Saturating: a senseless number is for the checks to refuse, not to panic at.
fn round_up(value: i64, multiple: i64) -> i64 {
    value.saturating_add(multiple - 1) / multiple * multiple
}

impl ModelConfig {
    /// Fills in every number. `tokenizer_size` is the number of ids the tokenizer knows.
    pub fn shape(&self, tokenizer_size: i64, sequence_length: i64) -> ModelShape {
        let (layers, hidden, heads) = match self.size {
            ModelSize::Tiny => (2, 128, 2),
            ModelSize::Mini => (4, 256, 4),
            ModelSize::Small => (4, 512, 8),
            ModelSize::Medium => (8, 512, 8),
            ModelSize::Base => (12, 768, 12),
            ModelSize::Large => (24, 1024, 16),
        };
        let hidden = self.hidden.unwrap_or(hidden);
        let (modern, albert) = (self.architecture == Architecture::Modern, self.architecture == Architecture::Albert);
        let feed_forward = if modern { round_up(hidden.saturating_mul(8) / 3, 64) } else { hidden.saturating_mul(4) };
        let dropout = self.dropout.unwrap_or(if modern || albert { 0.0 } else { 0.1 });
        let embedding = match self.architecture {
            Architecture::Albert => Some(self.embedding.unwrap_or(128)),
            Architecture::Electra => Some(self.embedding.unwrap_or(hidden)),
            _ => None,
        };
        let segment_types = match self.architecture {
            Architecture::Modern | Architecture::Distilbert => 0,
            Architecture::Roberta => 1,
            _ => 2,
        };
        let epsilon = if modern || self.architecture == Architecture::Roberta { 1e-5 } else { 1e-12 };
        ModelShape {
            architecture: self.architecture,
            vocabulary: self.vocabulary.unwrap_or_else(|| padded(tokenizer_size)),
            hidden,
            layers: self.layers.unwrap_or(layers),
            heads: self.heads.unwrap_or(heads),
            intermediate: self.intermediate.unwrap_or(feed_forward),
            max_positions: self.max_positions.unwrap_or(sequence_length.max(512)),
            segment_types,
            embedding: embedding.filter(|width| *width != hidden),
            activation: self.activation.unwrap_or(if albert { Activation::GeluNew } else { Activation::Gelu }),
            dropout,
            attention_dropout: self.attention_dropout.unwrap_or(dropout),
            layer_norm_epsilon: self.layer_norm_epsilon.unwrap_or(epsilon),
            initializer_range: self.initializer_range.unwrap_or(0.02),
            initializer: self.initializer,
            rope_theta: self.rope_theta.unwrap_or(10_000.0),
            local_attention: self.local_attention().filter(|_| modern),
        }
    }

    fn local_attention(&self) -> Option<LocalAttention> {
        let global_every = self.global_attn_every_n_layers.filter(|every| *every > 1)?;
        let (window, rope_theta) = (self.local_attention.unwrap_or(128), self.local_rope_theta.unwrap_or(10_000.0));
        Some(LocalAttention { global_every, window, rope_theta })
    }

    /// The generator beside a discriminator of this shape (google-research/electra: a quarter as wide, as deep).
    pub fn generator(&self, discriminator: &ModelShape) -> GeneratorShape {
        let hidden = self.generator_hidden.unwrap_or(discriminator.hidden / 4);
        GeneratorShape {
            layers: self.generator_layers.unwrap_or(discriminator.layers),
            hidden,
            heads: self.generator_heads.unwrap_or((hidden / 64).max(1)),
            intermediate: hidden.saturating_mul(4),
        }
    }
}

impl GeneratorShape {
    /// The generator as an encoder of its own, beside this discriminator.
    pub fn beside(&self, discriminator: &ModelShape) -> ModelShape {
        ModelShape {
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads,
            intermediate: self.intermediate,
            embedding: Some(discriminator.embedding_width()),
            ..discriminator.clone()
        }
    }
}

impl ModelShape {
    /// Whether the second text of a pair has a segment of its own.
    pub fn has_segments(&self) -> bool {
        self.segment_types > 1 && self.architecture != Architecture::Roberta
    }

    /// The position of a row's first token. RoBERTa's is one more than the id of `<pad>`, which must be 1; so its table
    /// has two rows more than there are positions.
    pub fn first_position(&self) -> i64 {
        if self.architecture == Architecture::Roberta { PADDING_ID + 1 } else { 0 }
    }

    /// Width of the embeddings.
    pub fn embedding_width(&self) -> i64 {
        self.embedding.unwrap_or(self.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_called_what_the_config_calls_them() {
        use Architecture::{Albert, Bert, Distilbert, Electra, Modern, Roberta};
        for architecture in [Bert, Modern, Albert, Electra, Distilbert, Roberta] {
            assert_eq!(serde_json::to_value(architecture).unwrap(), architecture.as_str());
        }
    }
}
