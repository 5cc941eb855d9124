//! `[tokenizer]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How text becomes token ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A Hugging Face `tokenizer.json`, a `vocab.txt` for BERT's WordPiece, a `.model` of SentencePiece, or a `vocab.json`
    /// for RoBERTa's byte-level BPE, with its `merges.txt` beside it. Relative to the config file's folder.
    pub path: String,
    /// With `vocab.txt`: lower-case and strip accents, as the uncased models do.
    #[serde(default = "yes")]
    pub lowercase: bool,
}

fn yes() -> bool {
    true
}
