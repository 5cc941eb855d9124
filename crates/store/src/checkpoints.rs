//! The checkpoint repository: `<store>/runs/<run>/checkpoints/<generation>-<step>/` on an object store.
//!
//! Every worker uploads its files; each becomes visible only whole, with the announced size and hash, and durable.
//! When the shards of all workers are complete the manifest is written last: **a checkpoint without a valid manifest
//! does not exist**. Deleting goes the other way round: the manifest first. So whatever write or delete a crash or a
//! full disk interrupts, what is listed is whole.
//!
//! Who may write (fencing by generation) is the caller's business, and so is when to verify, retain or clean.

mod error;
mod id;
mod local;
mod manifest;
mod read;
mod retention;
mod shard;
mod upload;

#[cfg(test)]
mod tests;

pub use error::CheckpointError;
pub use id::CheckpointId;
pub use manifest::{CheckpointFile, Manifest};
pub use read::{CheckpointProblem, NewestGood};
pub use retention::{Best, Retained, RetentionPolicy, Standing};
pub use shard::{Shard, ShardOutcome};

use local::LocalFolder;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;
use url::Url;

/// Where all runs' checkpoints lie. Cheap to clone; all clones share one lock.
#[derive(Clone, Debug)]
pub struct CheckpointRepository {
    store: Arc<dyn ObjectStore>,
    /// All paths are below it.
    base: Path,
    /// The store's address, for people.
    address: String,
    /// The same store as a folder of this machine, if that is what it is.
    local: Option<LocalFolder>,
    /// One at a time: completing a shard (two that complete at once must see each other) and deleting.
    order: Arc<Mutex<()>>,
}

impl CheckpointRepository {
    /// Opens a store: a folder (made if it is missing), `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix` or `memory:///`. Credentials come from the environment, by the providers' usual names.
    ///
    /// # Errors
    /// An address that makes no sense, a folder that cannot be made, credentials that are missing.
    pub fn open(address: &str) -> Result<Self, CheckpointError> {
        let refused = |message: String| CheckpointError::Store { store: address.to_owned(), message };
        let url = match Url::parse(address) {
            // A single letter is a drive, not a scheme.
            Ok(url) if url.scheme().len() > 1 => url,
            _ => return Self::open_folder(std::path::Path::new(address)),
        };
        if url.scheme() == "file" {
            let folder = url.to_file_path().map_err(|()| refused("a file: address has no host".to_owned()))?;
            return Self::open_folder(&folder);
        }
        let environment =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let (store, base) = object_store::parse_url_opts(&url, environment).map_err(|error| {
            refused(format!("{error}; use a folder, or an address that begins with s3:, gs:, az: or file:"))
        })?;
        Ok(Self::new(store.into(), base, address.trim_end_matches('/').to_owned(), None))
    }

    fn open_folder(folder: &std::path::Path) -> Result<Self, CheckpointError> {
        let address = folder.display().to_string();
        let refused = |message: String| CheckpointError::Store { store: address.clone(), message };
        std::fs::create_dir_all(folder).map_err(|error| refused(format!("cannot make the folder: {error}")))?;
        let folder = std::fs::canonicalize(folder).map_err(|error| refused(error.to_string()))?;
        // Files and folders are synced before a write counts as done.
        let store =
            LocalFileSystem::new_with_prefix(&folder).map_err(|error| refused(error.to_string()))?.with_fsync(true);
        Ok(Self::new(Arc::new(store), Path::default(), folder.display().to_string(), Some(LocalFolder::new(folder))))
    }

    fn new(store: Arc<dyn ObjectStore>, base: Path, address: String, local: Option<LocalFolder>) -> Self {
        Self { store, base, address, local, order: Arc::default() }
    }

    /// Where a checkpoint lies, for people and for the run database.
    pub fn location(&self, id: &CheckpointId) -> String {
        format!("{}/{}", self.address, id.folder(&Path::default()))
    }

    /// The path of one file of a checkpoint, within the store.
    fn path(&self, id: &CheckpointId, file: &str) -> Path {
        id.folder(&self.base).join(file)
    }

    /// The same, for people.
    fn shown(&self, id: &CheckpointId, file: &str) -> String {
        format!("{}/{file}", self.location(id))
    }

    /// Bytes free for this process, where that can be told: on a local folder.
    pub fn free_bytes(&self) -> Option<u64> {
        self.local.as_ref().and_then(LocalFolder::free_bytes)
    }

    /// Fails if it is known that `bytes` more do not fit.
    ///
    /// # Errors
    /// [`CheckpointError::Full`].
    pub fn check_space(&self, bytes: u64) -> Result<(), CheckpointError> {
        self.space_for(&self.address, bytes)
    }

    fn space_for(&self, path: &str, needed: u64) -> Result<(), CheckpointError> {
        match self.free_bytes() {
            Some(free) if free < needed => {
                Err(CheckpointError::Full { path: path.to_owned(), needed, available: Some(free) })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a file may have this name: nothing that leaves the folder, and none of the repository's own files.
fn check_file_name(name: &str) -> Result<(), CheckpointError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let ours = name == manifest::MANIFEST || shard::is_shard_record(name);
    if (1..=128).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain) && !ours {
        Ok(())
    } else {
        Err(CheckpointError::FileName(name.to_owned()))
    }
}
