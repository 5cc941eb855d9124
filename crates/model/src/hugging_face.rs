//! Hugging Face folders: `config.json`, `model.safetensors` and the tokenizer's files, both ways.

mod config_json;
mod tokenizer_files;

pub use config_json::from_config_json;

use crate::error::ModelError;
use crate::heads::Head;
use crate::safetensors_io;
use config::ModelShape;
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
}

/// Reads `config.json` and `model.safetensors`.
pub fn read_folder(path: &Path) -> Result<Folder, ModelError> {
    let config = path.join("config.json");
    let config = std::fs::read_to_string(&config).map_err(ModelError::file(config))?;
    let (shape, head) = from_config_json(&config)?;
    let weights = path.join("model.safetensors");
    if !weights.exists() {
        for other in ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"] {
            if path.join(other).exists() {
                return Err(ModelError::Unsupported(format!(
                    "{}: there is `{other}` but no `model.safetensors`: save the model once more with \
                     `save_pretrained(folder)` as one safetensors file",
                    path.display()
                )));
            }
        }
    }
    let bytes = std::fs::read(&weights).map_err(ModelError::file(weights))?;
    Ok(Folder { shape, head, tensors: safetensors_io::read(&bytes)? })
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
    Ok(vec![
        ("config.json", config_json::config_json(shape, head, &special).into_bytes()),
        ("tokenizer.json", tokenizer.to_vec()),
        ("tokenizer_config.json", special.tokenizer_config(shape).into_bytes()),
        ("special_tokens_map.json", special.map().into_bytes()),
    ])
}
