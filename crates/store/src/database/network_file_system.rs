//! SQLite's WAL needs shared memory and honest locks; network file systems give neither.

use super::DatabaseError;
use std::path::Path;

/// Refuses a database file whose folder lies on a network file system. Where that cannot be told, it is allowed.
#[cfg(target_os = "linux")]
pub(super) fn refuse(path: &Path) -> Result<(), DatabaseError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(facts) = nix::sys::statfs::statfs(folder) else { return Ok(()) };
    // The field's width and sign differ between C libraries; the magic numbers are 32 bits wide.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    match name(facts.filesystem_type().0 as u32) {
        Some(kind) => Err(DatabaseError::NetworkFileSystem { path: path.to_path_buf(), kind }),
        None => Ok(()),
    }
}

/// Only Linux tells by a number.
#[cfg(not(target_os = "linux"))]
pub(super) fn refuse(_: &Path) -> Result<(), DatabaseError> {
    Ok(())
}

/// From statfs(2) and linux/magic.h.
#[cfg(any(target_os = "linux", test))]
fn name(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0x517b => Some("SMB"),
        0xff53_4d42 => Some("CIFS"),
        0xfe53_4d42 => Some("SMB2"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x00c3_6400 => Some("Ceph"),
        0x4750_4653 => Some("GPFS"),
        0x1983_0326 => Some("BeeGFS"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_pass() {
        for (magic, expected) in [
            (0x6969, Some("NFS")),
            (0xfe53_4d42, Some("SMB2")),
            (0xef53, None),
            (0x5846_5342, None),
            (0x0102_1994, None),
        ] {
            assert_eq!(name(magic), expected, "{magic:#x}");
        }
        assert!(refuse(&std::env::temp_dir().join("trireme.db")).is_ok());
        assert!(refuse(Path::new("trireme.db")).is_ok());
    }
}
