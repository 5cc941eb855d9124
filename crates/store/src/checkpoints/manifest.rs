//! The manifest: what makes a checkpoint exist. It names every file with size and blake3, and is guarded by a hash of
//! its own, so that a damaged manifest is not believed.

use super::CheckpointId;
use serde::{Deserialize, Serialize};
use types::{Digest, WorldSize};

/// The manifest's name within the checkpoint's folder.
pub(super) const MANIFEST: &str = "manifest.json";

const FORMAT: u32 = 1;

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// Its name within the checkpoint's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Of the whole file.
    pub blake3: Digest,
}

/// Everything there is to know of a committed checkpoint but its contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Run, generation and step.
    #[serde(flatten)]
    pub id: CheckpointId,
    /// How many workers wrote it: the number of optimizer shards.
    pub world: WorldSize,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// Held-out loss at its step, if it was measured.
    pub eval_loss: Option<f64>,
    /// What it was measured to be worth, by the metric that tells the run's best one, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// SHA-256 of all parameters in name order.
    pub weights_digest: Option<Digest>,
    /// In order of name.
    pub files: Vec<CheckpointFile>,
}

/// What is stored: the manifest, then its guard.
#[derive(Serialize, Deserialize)]
struct Guarded {
    #[serde(flatten)]
    manifest: Manifest,
    /// blake3 of the text with 64 zeros in place of this digest.
    manifest_blake3: Digest,
}

impl Manifest {
    pub(super) fn new(
        id: CheckpointId,
        world: WorldSize,
        created_ms: i64,
        (eval_loss, score): (Option<f64>, Option<f64>),
        weights_digest: Option<Digest>,
        mut files: Vec<CheckpointFile>,
    ) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        // JSON has no infinities; what is not finite is no measure of anything.
        let [eval_loss, score] = [eval_loss, score].map(|number| number.filter(|number| number.is_finite()));
        Self { format: FORMAT, id, world, created_ms, eval_loss, score, weights_digest, files }
    }

    /// Of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// One file by its name.
    pub fn file(&self, name: &str) -> Option<&CheckpointFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The text that is stored.
    pub(super) fn to_text(&self) -> String {
        let guarded = Guarded { manifest: self.clone(), manifest_blake3: Digest::default() };
        let text = serde_json::to_string_pretty(&guarded).expect("a manifest is JSON") + "\n";
        let digest = Digest::blake3(text.as_bytes());
        // The guard is the last field, and so the last run of zeros.
        let at = text.rfind(&Digest::default().to_string()).expect("the guard is in the text");
        [&text[..at], &digest.to_string(), &text[at + 64..]].concat()
    }

    /// Reads a stored manifest of `id`; the error says what is wrong with it.
    pub(super) fn from_text(text: &[u8], id: &CheckpointId) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
        let Guarded { manifest, manifest_blake3 } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let guard = manifest_blake3.to_string();
        let at = text.rfind(&guard).ok_or("its own hash is not in lower case")?;
        let blank = [&text[..at], &Digest::default().to_string(), &text[at + 64..]].concat();
        if Digest::blake3(blank.as_bytes()) != manifest_blake3 {
            return Err("it does not match its own hash".to_owned());
        }
        if manifest.format != FORMAT {
            return Err(format!("format {} is not known here: a newer Trireme wrote it", manifest.format));
        }
        if manifest.id != *id {
            return Err(format!("it is the manifest of {}", manifest.id));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Generation, Step};

    fn manifest() -> Manifest {
        let file = |name: &str| CheckpointFile { name: name.into(), bytes: 7, blake3: Digest::blake3(name.as_bytes()) };
        Manifest::new(
            CheckpointId { run: "run".parse().unwrap(), generation: Generation(3), step: Step(40) },
            WorldSize(2),
            1_700_000_000_000,
            (Some(0.1 + 0.2), Some(0.7)),
            Some(Digest::default()),
            vec![file("model.safetensors"), file("a")],
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let written = manifest();
        let read = Manifest::from_text(written.to_text().as_bytes(), &written.id).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.to_text(), written.to_text());
        assert_eq!(read.files[0].name, "a");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let written = manifest();
        let text = written.to_text().into_bytes();
        for index in 0..text.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut damaged = text.clone();
                damaged[index] ^= flip;
                assert!(Manifest::from_text(&damaged, &written.id).is_err(), "byte {index} ^ {flip:#x}");
            }
        }
        for end in 0..text.len() {
            assert!(Manifest::from_text(&text[..end], &written.id).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn another_checkpoints_manifest_is_refused() {
        let written = manifest();
        let other = CheckpointId { step: Step(41), ..written.id.clone() };
        assert!(Manifest::from_text(written.to_text().as_bytes(), &other).unwrap_err().contains("run/3-40"));
    }
}
