//! The weights of a folder, in whichever of the usual files they lie.

use crate::error::ModelError;
use crate::{safetensors_io, torch_file};
use config::{WEIGHTS_FILES, lfs_pointer};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use tch::Tensor;

/// Weights of other programs.
const OTHERS: [&str; 4] = ["tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "bert_model.ckpt.index"];

/// Every tensor of the folder's weights, sorted by name.
pub(super) fn read(folder: &Path) -> Result<Vec<(String, Tensor)>, ModelError> {
    let Some(name) = WEIGHTS_FILES.into_iter().find(|name| folder.join(name).exists()) else {
        let other = OTHERS.into_iter().find(|name| folder.join(name).exists());
        let found = other.map_or_else(String::new, |other| format!("there is `{other}`, but "));
        return Err(ModelError::Unsupported(format!(
            "{}: {found}there is no model.safetensors and no pytorch_model.bin: load the model in Python and write it \
             with `save_pretrained(folder)`",
            folder.display()
        )));
    };
    if name.ends_with(".index.json") { shards(folder, name) } else { file(&folder.join(name)) }
}

fn file(path: &Path) -> Result<Vec<(String, Tensor)>, ModelError> {
    let bytes = std::fs::read(path).map_err(ModelError::file(path))?;
    let broken = |why: String| ModelError::WeightsFile { path: path.to_owned(), why };
    if let Some(pointer) = lfs_pointer(&bytes) {
        return Err(broken(pointer.into()));
    }
    if path.extension().is_some_and(|extension| extension == "bin") {
        return torch_file::read(&bytes).map_err(broken);
    }
    safetensors_io::read(&bytes).map_err(|error| match error {
        ModelError::Safetensors(why) => broken(match whole_length(&bytes) {
            Some(whole) if whole > bytes.len() as u64 => {
                format!("the file is not whole: it is cut short, {} bytes of {whole}. Fetch it once more", bytes.len())
            }
            _ => format!(
                "{why}: the file is damaged or not whole ({} bytes). Fetch it once more, and compare its size with what \
                 the other side says",
                bytes.len()
            ),
        }),
        other => other,
    })
}

/// How many bytes a safetensors file has by its header: the header's length (8 bytes), the header, and what the last
/// tensor ends with. None where the header is not whole either.
fn whole_length(bytes: &[u8]) -> Option<u64> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    let header: Map<String, Value> = serde_json::from_slice(rest.get(..usize::try_from(length).ok()?)?).ok()?;
    let end = header.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64()).max()?;
    length.checked_add(8)?.checked_add(end)
}

/// The tensors that an index distributes over files: each file once, and each tensor where the index says.
fn shards(folder: &Path, index: &str) -> Result<Vec<(String, Tensor)>, ModelError> {
    let path = folder.join(index);
    let broken = |why: String| ModelError::WeightsFile { path: path.clone(), why };
    let text = std::fs::read(&path).map_err(ModelError::file(&path))?;
    if let Some(pointer) = lfs_pointer(&text) {
        return Err(broken(pointer.into()));
    }
    let parsed: Value = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let map = parsed["weight_map"].as_object().ok_or_else(|| broken("it has no `weight_map`".to_owned()))?;
    let mut files = BTreeSet::new();
    for (name, file) in map {
        let file = file.as_str().filter(|file| Path::new(file).file_name().is_some_and(|plain| plain == *file));
        files.insert(file.ok_or_else(|| broken(format!("the file of `{name}` is no file's name")))?);
    }
    let mut tensors = Vec::new();
    for part in files {
        if !folder.join(part).exists() {
            return Err(broken(format!("it names {part}, which is not there: fetch all of the model's files")));
        }
        let of_part = |(name, _): &(String, Tensor)| map.get(name).is_some_and(|file| file == part);
        tensors.extend(file(&folder.join(part))?.into_iter().filter(of_part));
    }
    let found: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    if let Some((name, file)) = map.iter().find(|(name, _)| !found.contains(name.as_str())) {
        let file = file.as_str().unwrap_or_default();
        return Err(broken(format!("`{name}` is not in {file}: the files are of different models")));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}
