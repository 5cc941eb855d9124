//! `[tokenizer]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How text becomes token ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A Hugging Face `tokenizer.json`, or a `vocab.txt` for BERT's WordPiece. Relative to the config file's folder.
    pub path: String,
    /// With `vocab.txt`: lower-case and strip accents, as the uncased models do.
    #[serde(default = "yes")]
    pub lowercase: bool,
}

fn yes() -> bool {
    true
}
