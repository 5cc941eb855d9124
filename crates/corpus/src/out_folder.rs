//! Folders that a command fills. What is in one belongs together, so nothing of an earlier one may stay there.

use crate::error::{CorpusError, ErrorKind};
use std::fs;
use std::io;
use std::path::Path;

/// What a model's folder may hold beside [`TOKENIZER_FILES`], of what is written here.
pub const MODEL_FILES: &[&str] = &["config.json", "model.safetensors", "model.onnx", "model_int8.onnx", "README.md"];

/// A tokenizer's files, in all their forms.
pub const TOKENIZER_FILES: &[&str] =
    &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"];

/// Refuses a folder that holds anything, unless it may be written over. One that is not there is empty.
pub fn check_out_folder(folder: &Path, overwrite: bool) -> Result<(), CorpusError> {
    let first = match fs::read_dir(folder).and_then(|mut entries| entries.next().transpose()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let message = format!("cannot be read as a folder: {error}");
            return Err(wrong(folder, ErrorKind::Unreadable, message, "name another one with --out"));
        }
        Ok(first) => first.filter(|_| !overwrite),
    };
    let Some(first) = first else { return Ok(()) };
    let message = format!("the folder is not empty, it holds {}", first.file_name().display());
    let help = "name another one with --out, or give --overwrite: files of an earlier model or tokenizer go away then, \
                and all others stay";
    Err(wrong(folder, ErrorKind::Value, message, help))
}

/// Removes those of `names` from a folder that are not among what is `written` there.
pub fn remove_stale(folder: &Path, names: &[&str], written: &[&str]) -> Result<(), CorpusError> {
    for name in names.iter().filter(|name| !written.contains(*name)) {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message = format!("cannot be removed, and does not belong to what is written there: {error}");
                return Err(wrong(&path, ErrorKind::Io, message, "remove it, or name another folder with --out"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn wrong(path: &Path, kind: ErrorKind, message: String, help: &str) -> CorpusError {
    CorpusError::new(kind, path.display().to_string().as_str(), message, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_in_it_is_refused_unless_it_may_be_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("new");
        assert_eq!(check_out_folder(&inner, false), Ok(()), "not there yet");
        assert_eq!(check_out_folder(folder.path(), false), Ok(()), "empty");
        fs::write(&inner, "").unwrap();
        let error = check_out_folder(folder.path(), false).unwrap_err().to_string();
        assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
        assert!(error.contains("it holds new") && error.contains("--overwrite"), "{error}");
        assert_eq!(check_out_folder(folder.path(), true), Ok(()));
        let error = check_out_folder(&inner, true).unwrap_err().to_string();
        assert!(error.contains("cannot be read as a folder"), "a file is none: {error}");
    }

    #[test]
    fn only_what_is_named_and_not_written_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.txt", "merges.txt", "notes.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        remove_stale(folder.path(), TOKENIZER_FILES, &["vocab.txt"]).unwrap();
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!(["vocab.txt", "merges.txt", "notes.txt"].map(left), [true, false, true]);
    }
}
