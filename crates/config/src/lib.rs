//! A run's config: one TOML file, one struct per component, parsed once and checked.
//!
//! `RunConfig` is what the file says; [`CheckedConfig`] is what the rest of the code takes, and the only way to one is
//! [`RunConfig::check`]. The room knows no files of a corpus, no tensors and no network, because the coordinator
//! validates configs on hosts without libtorch (docs/adr/001-config-is-its-own-crate.md).

mod batch;
mod check;
mod checkpoint;
mod data;
mod distill;
mod error;
mod eval;
pub mod flops;
mod inherit;
mod init;
mod load;
mod lora;
mod model;
mod objective;
mod optimizer;
mod prompt;
mod reading;
pub mod recipe;
mod recovery;
mod reduce;
mod run;
mod schedule;
mod sweep;
mod tokenizer;
mod tuning;

pub use batch::{BatchConfig, Padding};
pub use check::{CheckedConfig, EXACT_CONTRIBUTIONS_MAX};
pub use checkpoint::CheckpointConfig;
pub use data::{DataConfig, DataFormat};
pub use distill::{DistillConfig, DistillOver};
pub use error::ConfigError;
pub use eval::EvalConfig;
pub use init::{InitConfig, InitSource};
pub use load::{Override, json_schema, load, load_checked, parse, to_toml};
pub use lora::{LoraConfig, LoraTarget};
pub use model::{
    Activation, Architecture, GeneratorShape, Initializer, LocalAttention, ModelConfig, ModelShape, ModelSize,
    PADDING_ID, VOCABULARY_MULTIPLE,
};
pub use objective::{
    AnswerRule, AnswerWindows, CHOICES_MAX, Masking, ObjectiveConfig, ObjectiveKind, Packing, Pooling, TagScheme,
    WordSegmenter,
};
pub use optimizer::{OptimizerConfig, OptimizerKind};
pub use prompt::{PROMPT_MASK, Prompt, PromptPart};
pub use reading::{LFS_POINTER_BEGINNING, Reading, TOKENIZER_KEY, WEIGHTS_FILES, lfs_pointer};
pub use recovery::{OnDivergence, RecoveryConfig};
pub use reduce::{Compression, ReduceBackend, ReduceConfig, ReduceMode};
pub use run::{Precision, RunKind, RunSection};
pub use schedule::{Decay, ScheduleConfig};
pub use sweep::{SweepConfig, SweepPoint, lower_is_better};
pub use tokenizer::TokenizerConfig;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything one run is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name, length, seed and number of workers.
    pub run: RunSection,
    /// The corpus, or the labelled examples.
    pub data: DataConfig,
    /// How text becomes token ids.
    pub tokenizer: TokenizerConfig,
    /// The encoder.
    #[serde(default)]
    pub model: ModelConfig,
    /// Where the first weights come from.
    #[serde(default)]
    pub init: InitConfig,
    /// What is learned.
    #[serde(default)]
    pub objective: ObjectiveConfig,
    /// A teacher (`objective.kind = "distill"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// The global batch.
    pub batch: BatchConfig,
    /// How gradients are summed over slots and workers.
    #[serde(default)]
    pub reduce: ReduceConfig,
    /// How gradients become updates.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Low-rank adapters instead of training all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How the learning rate moves.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// When checkpoints are written and how many are kept.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Measuring on held-out data.
    #[serde(default)]
    pub eval: EvalConfig,
    /// What counts as going wrong, and what is done about it.
    #[serde(default)]
    pub recovery: RecoveryConfig,
    /// Several runs of this config that are compared (`coordinator sweep submit`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepConfig>,
}
