//! What can be told of a model's weights without reading them whole: that the files are there and not cut short, and what
//! their tensors are called. The trainer reads the weights; here a person is still there to be told.

use config::{LFS_POINTER_BEGINNING, WEIGHTS_FILES, lfs_pointer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The parameters with a row for each token, in all architectures. A bias among them is that of a head over the vocabulary.
pub const TABLES: [&str; 12] = [
    "bert.embeddings.word_embeddings.weight",
    "cls.predictions.bias",
    "model.embeddings.tok_embeddings.weight",
    "decoder.bias",
    "albert.embeddings.word_embeddings.weight",
    "predictions.bias",
    "electra.embeddings.word_embeddings.weight",
    "generator_lm_head.bias",
    "distilbert.embeddings.word_embeddings.weight",
    "vocab_projector.bias",
    "roberta.embeddings.word_embeddings.weight",
    "lm_head.bias",
];

/// Bytes before the header of a safetensors file: how long it is.
const LENGTH: u64 = 8;
/// No model has a longer header; safetensors' own limit.
const HEADER_BYTES_MAX: u64 = 100 << 20;
/// The last record of a zip archive, its own bytes and the longest comment behind it.
const ARCHIVE_END: &[u8] = b"PK\x05\x06";
const ARCHIVE_END_BYTES: u64 = 22 + u16::MAX as u64;

/// The names of the tensors in a folder; None where only the trainer can tell, as it can of `pytorch_model.bin`. The
/// error names the file.
pub fn names(folder: &Path) -> Result<Option<Vec<String>>, String> {
    let Some(name) = WEIGHTS_FILES.into_iter().find(|name| folder.join(name).is_file()) else { return Ok(None) };
    if !name.ends_with(".index.json") {
        return of_file(&folder.join(name));
    }
    let path = folder.join(name);
    let wrong = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    if let Some(pointer) = lfs_pointer(&text) {
        return Err(wrong(pointer.to_owned()));
    }
    let index: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let map = index["weight_map"].as_object().ok_or_else(|| wrong("it has no `weight_map`".to_owned()))?;
    let parts: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    for part in parts {
        of_file(&folder.join(part))?;
    }
    Ok(Some(map.keys().cloned().collect()))
}

fn of_file(path: &Path) -> Result<Option<Vec<String>>, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let failed = |error: io::Error| wrong(&error.to_string());
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut beginning = Vec::new();
    (&mut file).take(LFS_POINTER_BEGINNING.len() as u64).read_to_end(&mut beginning).map_err(failed)?;
    if let Some(pointer) = lfs_pointer(&beginning) {
        return Err(wrong(pointer));
    }
    file.rewind().map_err(failed)?;
    let is_pickled = path.extension().is_some_and(|extension| extension == "bin");
    if is_pickled {
        let is_cut = match beginning.starts_with(b"PK") {
            true => !has_archive_end(&mut file, length).map_err(failed)?,
            // The older container says nowhere how long it is.
            false => length == 0,
        };
        return if is_cut { Err(wrong(&cut_short(length, None))) } else { Ok(None) };
    }
    let (header, begin) = read_header(&mut file).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => wrong(&cut_short(length, None)),
        _ => wrong(&format!("it is no safetensors file, or damaged: {error}")),
    })?;
    let entries = entries(&header).map_err(failed)?;
    let whole = entries.iter().map(|(_, entry)| begin.saturating_add(entry.data_offsets.1)).max().unwrap_or(begin);
    if length < whole {
        return Err(wrong(&cut_short(length, Some(whole))));
    }
    Ok(Some(entries.into_iter().map(|(name, _)| name).collect()))
}

fn cut_short(length: u64, whole: Option<u64>) -> String {
    let of = whole.map_or_else(String::new, |whole| format!(" of {whole}"));
    format!("the file is not whole ({length} bytes{of}): fetch it once more, and compare its size with the source's")
}

/// A torch archive's directory is the last thing in it.
fn has_archive_end(file: &mut File, length: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(length.saturating_sub(ARCHIVE_END_BYTES)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.windows(ARCHIVE_END.len()).any(|window| window == ARCHIVE_END))
}

/// What the header of a safetensors file says of a tensor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// As safetensors names it.
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Where its bytes begin and end, behind the header.
    pub data_offsets: (u64, u64),
}

/// The header of a safetensors file, and where its tensors begin.
pub fn read_header(file: &mut impl Read) -> io::Result<(Map<String, Value>, u64)> {
    let mut length = [0; LENGTH as usize];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a header of {length} bytes")));
    }
    let mut text = Vec::new();
    file.by_ref().take(length).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, LENGTH + length))
}

/// The tensors of a header.
pub fn entries(header: &Map<String, Value>) -> io::Result<Vec<(String, Entry)>> {
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(name, value)| Ok((name.clone(), Entry::deserialize(value)?))).collect()
}

/// Whether tensors of these names bring a head over the vocabulary along. Some files have its bias as that of its last
/// layer, `decoder`.
pub fn have_vocabulary_head(names: &[String]) -> bool {
    let is_bias =
        |name: &String| (TABLES.contains(&name.as_str()) && name.ends_with("bias")) || name.ends_with(".decoder.bias");
    names.iter().any(is_bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file of one tensor of two numbers.
    fn safetensors(name: &str) -> Vec<u8> {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
    }

    fn found(files: &[(&str, &[u8])]) -> Result<Option<Vec<String>>, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            std::fs::write(folder.path().join(name), contents).unwrap();
        }
        names(folder.path())
    }

    #[test]
    fn names_are_read_and_what_is_missing_is_said() {
        let whole = safetensors("cls.predictions.bias");
        let names = found(&[("model.safetensors", &whole)]).unwrap().unwrap();
        assert_eq!(names, ["cls.predictions.bias"]);
        assert!(have_vocabulary_head(&names));
        assert!(!have_vocabulary_head(&["classifier.bias".to_owned(), "cls.seq_relationship.bias".to_owned()]));
        for length in [0, 4, 20, whole.len() - 1] {
            let error = found(&[("model.safetensors", &whole[..length])]).unwrap_err();
            assert!(error.contains("model.safetensors: the file is not whole"), "{error}");
        }
        let error = found(&[("model.safetensors", b"<!DOCTYPE html><html>")]).unwrap_err();
        assert!(error.contains("no safetensors file"), "{error}");
        let pointer = [LFS_POINTER_BEGINNING, b".github.com/spec/v1\n"].concat();
        for name in ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"] {
            let error = found(&[(name, &pointer)]).unwrap_err();
            assert!(error.contains(name) && error.contains("git lfs pull"), "{error}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_has_no_end() {
        let archive = [&b"PK\x03\x04 numbers "[..], ARCHIVE_END, &[0; 18]].concat();
        assert_eq!(found(&[("pytorch_model.bin", &archive)]), Ok(None));
        for cut in [&archive[..10], &[]] {
            let error = found(&[("pytorch_model.bin", cut)]).unwrap_err();
            assert!(error.contains("pytorch_model.bin: the file is not whole"), "{error}");
        }
    }

    #[test]
    fn every_part_of_an_index_is_looked_at() {
        let index = br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        let (one, two) = (safetensors("a"), safetensors("b"));
        let parts = |two: &[u8]| {
            found(&[("model.safetensors.index.json", index), ("1.safetensors", &one), ("2.safetensors", two)])
        };
        assert_eq!(parts(&two).unwrap().unwrap(), ["a", "b"]);
        assert!(parts(&two[..9]).unwrap_err().contains("2.safetensors"));
        assert!(found(&[("model.safetensors.index.json", index)]).unwrap_err().contains("1.safetensors"));
    }
}
