//! What only a store on this machine's disk can do: tell the free space, and sweep what a crash left half-written.
//!
//! `object_store` writes a file under a temporary name (`name#1`) beside its place and renames it. A crash leaves that
//! file behind, where listings do not show it.

use object_store::path::Path;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub(super) struct LocalFolder {
    root: PathBuf,
}

impl LocalFolder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Free for unprivileged processes. `None` where the file system does not say.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let facts = nix::sys::statvfs::statvfs(&self.root).ok()?;
        // The fields' widths differ between platforms.
        #[allow(clippy::useless_conversion)]
        Some(u64::from(facts.blocks_available()) * u64::from(facts.fragment_size()))
    }

    /// Makes a deletion in `folder` durable.
    pub(super) fn sync(&self, folder: &Path) -> io::Result<()> {
        File::open(self.on_disk(folder))?.sync_all()
    }

    /// Removes the temporary files of interrupted writes of `file`.
    pub(super) fn sweep(&self, file: &Path) {
        let on_disk = self.on_disk(file);
        let (Some(folder), Some(name)) = (on_disk.parent(), file.filename()) else { return };
        let temporary = format!("{name}#");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&temporary)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a temporary file");
            }
        }
    }

    /// Removes a folder with all that is in it.
    pub(super) fn remove(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(self.on_disk(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn on_disk(&self, path: &Path) -> PathBuf {
        path.parts().fold(self.root.clone(), |folder, part| folder.join(part.as_ref()))
    }
}
