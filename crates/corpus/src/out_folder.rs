//! Folders that a command fills. What is in one belongs together, so nothing of an earlier one may stay there.

use crate::error::{CorpusError, ErrorKind};
use config::WEIGHTS_FILES;
use std::fs;
use std::io;
use std::path::Path;

/// A tokenizer's files, in all their forms.
pub const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
];

/// What else a model's folder holds of it, beside its weights. `transformers` takes an adapter that lies beside a model for
/// the one that is meant, and `generate` its generation_config.json.
const MODEL_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.onnx",
    "model_int8.onnx",
    "tf_model.h5",
    "tf_model.h5.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
];

/// How the parts of weights begin and end that lie in several files.
const SHARD_BEGINNINGS: [&str; 4] = ["model-", "pytorch_model-", "tf_model-", "flax_model-"];
const SHARD_ENDINGS: [&str; 4] = [".safetensors", ".bin", ".h5", ".msgpack"];

/// How a file's name ends that is not whole yet.
const PARTIAL: &str = ".partial";

/// A model's card, and how a card begins that was written here: people have files of that name, too.
pub const CARD: &str = "README.md";
/// What every card of ours says before its first heading.
pub const CARD_TAGS: &str = "tags:\n- trireme\n";

/// What a command fills a folder with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// A tokenizer's files.
    Tokenizer,
    /// A model's files and its tokenizer's.
    Model,
}

impl Filling {
    /// Refuses a folder that holds anything, unless it may be written over; and one that must not be. A folder that is not
    /// there is empty, and so is one with what an interrupted command has left.
    pub fn check(self, folder: &Path, overwrite: bool) -> Result<(), CorpusError> {
        let names = match names(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let message = format!("cannot be read as a folder: {error}");
                return Err(wrong(folder, ErrorKind::Unreadable, message, "name another one with --out"));
            }
            Ok(names) => names,
        };
        let of_model = names.iter().find(|name| is_of_model(name) && !is_of_tokenizer(name));
        if let (Self::Tokenizer, Some(name)) = (self, of_model) {
            let message = format!("it holds a model ({name}), for which another tokenizer is of no use");
            return Err(wrong(folder, ErrorKind::Value, message, "name another folder with --out"));
        }
        let Some(first) = names.iter().find(|name| !name.ends_with(PARTIAL) && !overwrite) else {
            // Before the work, not after it.
            return self.leaving(folder).map(|_| ());
        };
        let message = format!("the folder is not empty, it holds {first}");
        let what = if self == Self::Model { "files of an earlier model" } else { "an earlier tokenizer's files" };
        let help =
            format!("name another one with --out, or give --overwrite: {what} go away then, and all others stay");
        Err(wrong(folder, ErrorKind::Value, message, &help))
    }

    /// What is about to be written anew, and what belongs to that, in the order in which it goes: a model's config.json first,
    /// without which nobody takes what is left for a whole one. An error if one of them is a folder.
    fn leaving(self, folder: &Path) -> Result<Vec<String>, CorpusError> {
        let mut names = names(folder).unwrap_or_default();
        names.retain(|name| match self {
            Self::Tokenizer => is_of_tokenizer(name),
            Self::Model => is_of_model(name) || (name == CARD && is_own_card(folder)),
        });
        names.sort_by_key(|name| name != "config.json");
        let is_folder = |name: &&String| folder.join(name).symlink_metadata().is_ok_and(|it| it.is_dir());
        if let Some(name) = names.iter().find(is_folder) {
            let message = "it is a folder, and a file of that name belongs to what is written there".to_owned();
            let help = "move it away, or name another folder with --out";
            return Err(wrong(&folder.join(name), ErrorKind::Value, message, help));
        }
        Ok(names)
    }

    /// Removes what is about to be written anew, and what belongs to that; the names of what has gone, for
    /// [`Filling::removal`]. Nothing goes if one of the names is a folder's.
    pub fn clear(self, folder: &Path) -> Result<Vec<String>, CorpusError> {
        let names = self.leaving(folder)?;
        for name in &names {
            let path = folder.join(name);
            fs::remove_file(&path).map_err(|error| {
                let message = format!("cannot be removed, and does not belong to what is written there: {error}");
                wrong(&path, ErrorKind::Unreadable, message, "remove it, or name another folder with --out")
            })?;
        }
        Ok(names)
    }

    /// A line for people about what [`Filling::clear`] removed; None: nothing.
    pub fn removal(removed: &[String]) -> Option<String> {
        (!removed.is_empty()).then(|| format!("removed of what was there: {}", removed.join(", ")))
    }
}

/// Whether a folder's README.md, if there is one, is a card that was written here.
pub fn is_own_card(folder: &Path) -> bool {
    fs::read_to_string(folder.join(CARD)).is_ok_and(|text| text.starts_with("---\n") && text.contains(CARD_TAGS))
}

fn is_of_tokenizer(name: &str) -> bool {
    TOKENIZER_FILES.contains(&name)
}

/// Whether a file of this name is a model's or its tokenizer's.
fn is_of_model(name: &str) -> bool {
    let is_shard = SHARD_BEGINNINGS.iter().any(|start| name.starts_with(start))
        && SHARD_ENDINGS.iter().any(|end| name.ends_with(end));
    is_shard || is_of_tokenizer(name) || MODEL_FILES.contains(&name) || WEIGHTS_FILES.contains(&name)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
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
        assert_eq!(Filling::Model.check(&inner, false), Ok(()), "not there yet");
        assert_eq!(Filling::Model.check(folder.path(), false), Ok(()), "empty");
        fs::write(folder.path().join("model.safetensors.partial"), "").unwrap();
        assert_eq!(Filling::Model.check(folder.path(), false), Ok(()), "left by an interrupted command");
        fs::write(&inner, "").unwrap();
        let error = Filling::Model.check(folder.path(), false).unwrap_err().to_string();
        assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
        assert!(error.contains("it holds new") && error.contains("--overwrite"), "{error}");
        assert_eq!(Filling::Model.check(folder.path(), true), Ok(()));
        let error = Filling::Model.check(&inner, true).unwrap_err().to_string();
        assert!(error.contains("cannot be read as a folder"), "a file is none: {error}");
        fs::write(folder.path().join("config.json"), "").unwrap();
        let error = Filling::Tokenizer.check(folder.path(), true).unwrap_err().to_string();
        assert!(error.contains("it holds a model (config.json)") && !error.contains("--overwrite"), "{error}");
    }

    #[test]
    fn what_is_of_a_model_or_a_tokenizer_goes_and_nothing_else() {
        let kept = ["README.md", "model-notes.txt", "notes.txt"];
        let of_model = [
            "config.json",
            "adapter_config.json",
            "adapter_model.safetensors",
            "flax_model.msgpack",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model.onnx",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tf_model-00001-of-00002.h5",
            "tf_model.h5",
        ];
        let of_tokenizer = ["merges.txt", "vocab.txt"];
        let folder = tempfile::tempdir().unwrap();
        for name in kept.iter().chain(&of_model).chain(&of_tokenizer) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let removed = Filling::Tokenizer.clear(folder.path()).unwrap();
        assert_eq!(removed, of_tokenizer);
        assert_eq!(Filling::removal(&removed).unwrap(), "removed of what was there: merges.txt, vocab.txt");
        let mut left = [&kept[..], &of_model].concat();
        left.sort_unstable();
        assert_eq!(names(folder.path()).unwrap(), left);
        assert_eq!(Filling::Model.clear(folder.path()).unwrap(), of_model);
        assert_eq!(names(folder.path()).unwrap(), kept);
        fs::write(folder.path().join(CARD), format!("---\n{CARD_TAGS}---\n")).unwrap();
        assert_eq!(Filling::Model.clear(folder.path()).unwrap(), [CARD], "the card of what has gone");
        assert_eq!(names(folder.path()).unwrap(), kept[1..]);
        let nothing = Filling::Model.clear(&folder.path().join("absent")).unwrap();
        assert_eq!((nothing.len(), Filling::removal(&nothing)), (0, None));
    }

    #[test]
    fn nothing_goes_where_a_folder_has_the_name_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "").unwrap();
        fs::create_dir(folder.path().join("model.onnx")).unwrap();
        let refused =
            [Filling::Model.check(folder.path(), true).unwrap_err(), Filling::Model.clear(folder.path()).unwrap_err()];
        for error in refused.map(|error| error.to_string()) {
            assert!(error.contains("model.onnx: it is a folder") && error.contains("move it away"), "{error}");
        }
        assert_eq!(names(folder.path()).unwrap(), ["config.json", "model.onnx"]);
        fs::remove_dir(folder.path().join("model.onnx")).unwrap();
        // A link goes, and not what it names.
        fs::create_dir(folder.path().join("data")).unwrap();
        std::os::unix::fs::symlink("data", folder.path().join("vocab.txt")).unwrap();
        assert_eq!(Filling::Model.clear(folder.path()).unwrap(), ["config.json", "vocab.txt"]);
        assert!(folder.path().join("data").is_dir());
    }
}
