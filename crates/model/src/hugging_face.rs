//! Hugging Face folders: `config.json`, `model.safetensors` and the tokenizer's files, both ways.

mod config_json;
mod tokenizer_files;
mod weights;

pub use config_json::from_config_json;

use crate::error::ModelError;
use crate::heads::Head;
use config::{Architecture, ModelShape, PADDING_ID, Reading, TOKENIZER_KEY};
use std::path::Path;
use tch::Tensor;
use tokenizer_files::SpecialTokens;

/// What a folder holds.
#[derive(Debug)]
pub struct Folder {
    /// The encoder's numbers, from `config.json`.
    pub shape: ModelShape,
    /// The head that `architectures` names; [`Head::None`] for a bare encoder.
    pub head: Head,
    /// The weights under the names in the file; [`Model::load_parameters`] knows the variants.
    pub tensors: Vec<(String, Tensor)>,
    /// The identity of the tokenizer that the model was trained with, where `config.json` says one.
    pub tokenizer_identity: Option<String>,
    /// How the model was trained to read, where `config.json` says it.
    pub reading: Option<Reading>,
}

/// Reads `config.json` and the weights: `model.safetensors` or `pytorch_model.bin`, in one file or several.
pub fn read_folder(path: &Path) -> Result<Folder, ModelError> {
    let config = path.join("config.json");
    let config = std::fs::read_to_string(&config).map_err(ModelError::file(config))?;
    let of_folder = |error: ModelError| ModelError::OfFolder { folder: path.to_owned(), error: Box::new(error) };
    let (shape, head) = from_config_json(&config).map_err(of_folder)?;
    let keys: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    let tokenizer_identity = keys[TOKENIZER_KEY].as_str().map(str::to_owned);
    let reading = keys.get(Reading::KEY).map(|reading| serde_json::from_value(reading.clone())).transpose();
    let reading = reading.map_err(|error| of_folder(ModelError::Config(format!("`{}`: {error}", Reading::KEY))))?;
    Ok(Folder { shape, head, tensors: weights::read(path)?, tokenizer_identity, reading })
}

/// The files beside `model.safetensors` that make a folder which `transformers` loads: name and contents of
/// `config.json`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`. `tokenizer` is a
/// tokenizer.json.
///
/// `transformers` loads it with no missing and no unexpected key, with one exception: it has no BERT classifier that
/// pools by the mean, so there it reports the pooler as missing (`coordinator checkpoints export` warns of it). The
/// vocabulary has the rows that pad it, which the export leaves out.
pub fn side_files(
    shape: &ModelShape,
    head: &Head,
    tokenizer: &[u8],
) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
    let special = SpecialTokens::read(tokenizer)?;
    if shape.architecture == Architecture::Roberta && special.id("pad_token") != PADDING_ID {
        let found = special.id("pad_token");
        return Err(ModelError::Tokenizer(format!(
            "`roberta` counts positions from `<pad>`, whose id must be {PADDING_ID} and is {found}: make a vocabulary with \
             `coordinator tokenizer train --model byte-level-bpe`"
        )));
    }
    Ok(vec![
        ("config.json", config_json::config_json(shape, head, &special).into_bytes()),
        ("tokenizer.json", tokenizer.to_vec()),
        ("tokenizer_config.json", special.tokenizer_config(shape).into_bytes()),
        ("special_tokens_map.json", special.map().into_bytes()),
    ])
}
