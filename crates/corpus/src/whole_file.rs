//! Files that appear whole or not at all, whatever ends the program meanwhile.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file beside its place, and moves it there once every byte is on the disk.
pub(crate) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = (|| {
        let mut file = File::create(partial)?;
        file.write_all(contents)?;
        file.sync_all()
    })();
    let moved = written.and_then(|()| move_into_place(partial, path));
    if moved.is_err() {
        // Of no use, and perhaps what fills the disk.
        fs::remove_file(partial).ok();
    }
    moved
}

/// Gives a finished file its name, durably.
pub(crate) fn move_into_place(partial: &Path, path: &Path) -> io::Result<()> {
    fs::rename(partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"one").unwrap();
        // A folder in the way of the temporary file: nothing can be written.
        let partial = folder.path().join("file.partial");
        fs::create_dir(&partial).unwrap();
        assert!(write(&path, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        fs::remove_dir(&partial).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (b"two".to_vec(), 1));
    }
}
