//! What can go wrong when a model is made, read or written.

use std::path::PathBuf;

/// A model that cannot be made, read or written. Shapes of a batch that do not fit are bugs of the caller and panic.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The architecture has no such head, or an argument contradicts the shape.
    #[error("{0}")]
    Unsupported(String),
    /// `config.json` asks for something that this implementation does not do.
    #[error("config.json: `{key}` = {value} is not supported: {why}")]
    UnsupportedConfig {
        /// The key in `config.json`.
        key: String,
        /// Its value there.
        value: String,
        /// What is supported instead.
        why: String,
    },
    /// `config.json` is not JSON, lacks a key, or a key has the wrong type.
    #[error("config.json: {0}")]
    Config(String),
    /// What is wrong with the `config.json` of a folder.
    #[error("{folder}/{error}")]
    OfFolder {
        /// The folder.
        folder: PathBuf,
        /// Begins with the file's name.
        error: Box<ModelError>,
    },
    /// The weights were made for another vocabulary.
    #[error(
        "the weights have {found} vocabulary rows, the model has {expected}: use the tokenizer that the weights were made with, or set model.vocabulary = {found}"
    )]
    Vocabulary {
        /// Rows of the embedding in this model.
        expected: i64,
        /// Rows of the embedding in the weights.
        found: i64,
    },
    /// Parameters that must be there are not, or have another shape.
    #[error("the weights do not fit the model: {0}")]
    Weights(String),
    /// A safetensors file that cannot be read or made.
    #[error("safetensors: {0}")]
    Safetensors(String),
    /// A tokenizer file that is not what a Hugging Face folder needs.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// The file system.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of weights that is damaged, or is of a kind that cannot be read.
    #[error("{path}: {why}")]
    WeightsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// libtorch refused (out of memory, no such device).
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl ModelError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
