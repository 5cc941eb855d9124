//! What Git LFS leaves in the place of a file.

use crate::{CorpusError, ErrorKind};
use config::LFS_POINTER_BEGINNING;

/// A pointer is smaller than this, by the specification of Git LFS.
pub(super) const BYTES_MAX: usize = 1024;

/// Refuses a pointer to a file that Git LFS has not fetched. `contents`: all of the file, or so much of its beginning as
/// shows that it is larger than a pointer.
pub fn refuse_pointer(kind: ErrorKind, name: &str, contents: &[u8]) -> Result<(), CorpusError> {
    if contents.len() >= BYTES_MAX || !contents.starts_with(LFS_POINTER_BEGINNING) {
        return Ok(());
    }
    let message = "it is a pointer of Git LFS, not the file itself";
    Err(CorpusError::new(kind, name, message, "run `git lfs pull` where it came from"))
}
