//! A disk that is really full: a small tmpfs, where this process may mount one.

use super::*;
use futures::StreamExt;
use std::process::Command;

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not allowed; the fault-injecting store covers the same ground then. Where `CI` is set
    /// it must be possible: a test that is left out there without a word is no test.
    fn mount(kibibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={kibibytes}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        let failure = match mount {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "no tmpfs may be mounted, although CI is set: {failure}");
        eprintln!("no tmpfs may be mounted here, left out: {}", failure.trim());
        None
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.path()).status().unwrap();
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_sent() {
    let Some(disk) = SmallDisk::mount(256) else { return };
    let repository = CheckpointRepository::open(disk.path().to_str().unwrap()).unwrap();
    let error = repository.check_space(1 << 20).unwrap_err();
    assert!(error.to_string().contains("1048576 bytes are needed, 262144 are free"), "{error}");
    repository.check_space(200 << 10).unwrap();
    let big = content("a", 1, 300 << 10);
    let error = put(&repository, &id(1, 1), "a", &big).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Full { needed: 307_200, .. }), "{error}");
    assert!(!disk.path().join("runs").exists());
}

#[tokio::test]
async fn a_disk_that_fills_up_during_an_upload_keeps_nothing_half_written() {
    let Some(disk) = SmallDisk::mount(512) else { return };
    let repository = CheckpointRepository::open(disk.path().to_str().unwrap()).unwrap();
    for length in [PART_BYTES, 3 * PART_BYTES] {
        let content = content("a", 1, length);
        let filler = disk.path().join("filler");
        // Somebody else takes the space between the first chunk and the rest.
        let greedy = filler.clone();
        let sent = stream::iter([content.slice(..100), content.slice(100..)]).map(move |chunk| {
            if chunk.len() > 100 {
                let _ = std::fs::write(&greedy, vec![1; 1 << 20]);
            }
            Ok::<_, String>(chunk)
        });
        let error = repository.put_file(&id(1, 20), &file("a", &content), sent).await.unwrap_err();
        assert!(matches!(error, CheckpointError::Full { .. }), "{error}");
        assert!(error.to_string().contains("checkpoints/1-20/a"), "{error}");
        let folder = disk.path().join("runs/run-1/checkpoints/1-20");
        assert_eq!(std::fs::read_dir(&folder).map_or(0, Iterator::count), 0);
        std::fs::remove_file(&filler).unwrap();
        put(&repository, &id(1, 20), "a", &content).await.unwrap();
        repository.delete(&id(1, 20)).await.unwrap();
    }
}

#[test]
fn a_run_database_on_a_full_disk_says_so_and_goes_on_afterwards() {
    use crate::{Change, Database, DatabaseError, EventRow};
    let Some(disk) = SmallDisk::mount(512) else { return };
    let mut database = Database::open(&disk.path().join("trireme.db")).unwrap();
    database.apply(&[Change::Run(crate::database::tests::run_row("a"))]).unwrap();
    let event = Change::Event(EventRow { run: "a".parse().unwrap(), time_ms: 1, text: "x".repeat(100) });
    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![1; 1 << 20]);
    let error = database.apply(&vec![event.clone(); 2_000]).unwrap_err();
    assert!(matches!(error, DatabaseError::Full { .. }), "{error}");
    assert!(database.events(&"a".parse().unwrap(), 9).unwrap().is_empty());
    std::fs::remove_file(&filler).unwrap();
    database.apply(&vec![event; 20]).unwrap();
    assert_eq!(database.events(&"a".parse().unwrap(), 99).unwrap().len(), 20);
}
