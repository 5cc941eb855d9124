use super::*;
use object_store::ObjectStoreExt;

async fn damaged(disk: &Disk, id: &CheckpointId, name: &str, how: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> String {
    let repository = disk.repository();
    let path = repository.path(id, name);
    let before = disk.store.get(&path).await.unwrap().bytes().await.unwrap();
    match how(before.to_vec()) {
        Some(after) => drop(disk.store.put(&path, after.into()).await.unwrap()),
        None => disk.store.delete(&path).await.unwrap(),
    }
    let found = match repository.verify(id).await {
        Ok(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    disk.store.put(&path, before.into()).await.unwrap();
    assert_eq!(repository.verify(id).await.unwrap(), []);
    found
}

#[tokio::test]
async fn verify_names_the_damaged_file() {
    let disk = Disk::memory();
    let id = id(1, 10);
    let manifest = write(&disk.repository(), &id).await.unwrap();
    for file in manifest.files.iter().filter(|file| file.bytes > 0) {
        for at in [0, file.bytes as usize / 2, file.bytes as usize - 1] {
            let found = damaged(&disk, &id, &file.name, |mut bytes| {
                bytes[at] ^= 1;
                Some(bytes)
            });
            assert!(found.await.starts_with(&format!("`{}`: altered: its blake3 is", file.name)));
        }
        let found = damaged(&disk, &id, &file.name, |bytes| Some(bytes[..bytes.len() - 1].to_vec())).await;
        assert_eq!(found, format!("`{}`: {} bytes instead of {}", file.name, file.bytes - 1, file.bytes));
    }
    for file in &manifest.files {
        assert_eq!(damaged(&disk, &id, &file.name, |_| None).await, format!("`{}`: missing", file.name));
        let found = damaged(&disk, &id, &file.name, |bytes| Some([&bytes[..], b"x"].concat())).await;
        assert!(found.contains("bytes instead of"), "{found}");
    }
    let found = damaged(&disk, &id, "manifest.json", |bytes| {
        Some(String::from_utf8(bytes).unwrap().replace("\"step\": 10", "\"step\": 11").into())
    });
    assert_eq!(found.await, "`manifest.json`: it does not match its own hash");
    let found = damaged(&disk, &id, "manifest.json", |bytes| Some(bytes[..50].to_vec())).await;
    assert!(found.starts_with("`manifest.json`: EOF"), "{found}");
    assert_eq!(damaged(&disk, &id, "manifest.json", |_| None).await, "there is no checkpoint run-1/1-10");
}

#[tokio::test]
async fn the_newest_good_one_is_found_and_the_bad_ones_are_named() {
    let disk = Disk::memory();
    let repository = disk.repository();
    assert_eq!(repository.newest_good(&run_id(), |_| true).await.unwrap().good, None);
    // 3-15 was written after a rewind: it is the newest.
    for id in [id(1, 10), id(2, 20), id(2, 30), id(3, 15)] {
        write(&repository, &id).await.unwrap();
    }
    let newest = |found: super::super::NewestGood| found.good.map(|manifest| manifest.id);
    assert_eq!(newest(repository.newest_good(&run_id(), |_| true).await.unwrap()), Some(id(3, 15)));
    assert_eq!(newest(repository.newest_good(&run_id(), |id| id.generation.0 < 3).await.unwrap()), Some(id(2, 30)));
    disk.store.delete(&repository.path(&id(3, 15), "state.json")).await.unwrap();
    disk.store.put(&repository.path(&id(2, 30), "manifest.json"), "{}".into()).await.unwrap();
    let found = repository.newest_good(&run_id(), |_| true).await.unwrap();
    let bad: Vec<_> = found.bad.iter().map(|(id, problems)| (id.to_string(), problems[0].to_string())).collect();
    assert_eq!(bad[0], ("run-1/3-15".into(), "`state.json`: missing".into()));
    assert_eq!(bad[1].0, "run-1/2-30");
    assert!(bad[1].1.starts_with("`manifest.json`: missing field"), "{}", bad[1].1);
    assert_eq!(newest(found), Some(id(2, 20)));
    // An upload that never ended is neither good nor bad: it is no checkpoint.
    put(&repository, &id(9, 90), "state.json", &Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(repository.newest_good(&run_id(), |id| id.generation.0 == 9).await.unwrap().bad, []);
    assert_eq!(repository.list(&run_id()).await.unwrap().len(), 3);
}

/// Opening a file fails, which is another thing than that it is not there.
fn make_unreadable(disk: &Disk, id: &CheckpointId, name: &str) {
    let on_disk = disk.folder.as_ref().unwrap().path().join(disk.repository().path(id, name).as_ref());
    std::fs::remove_file(&on_disk).unwrap();
    std::os::unix::fs::symlink(&on_disk, &on_disk).unwrap();
}

#[tokio::test]
async fn one_that_cannot_be_read_is_passed_over_but_is_not_nothing() {
    let disk = Disk::local();
    let repository = disk.repository();
    for id in [id(1, 10), id(1, 20), id(1, 30)] {
        write(&repository, &id).await.unwrap();
    }
    make_unreadable(&disk, &id(1, 30), "state.json");
    make_unreadable(&disk, &id(1, 20), "manifest.json");
    let found = repository.newest_good(&run_id(), |_| true).await.unwrap();
    assert_eq!(found.good.unwrap().id, id(1, 10));
    let bad: Vec<_> = found.bad.iter().map(|(id, problems)| (id.to_string(), problems[0].to_string())).collect();
    assert_eq!((bad[0].0.as_str(), bad[1].0.as_str()), ("run-1/1-30", "run-1/1-20"));
    assert!(bad[0].1.starts_with("`state.json`: cannot read it: "), "{}", bad[0].1);
    assert!(bad[1].1.starts_with("`manifest.json`: cannot read it: "), "{}", bad[1].1);
    assert_eq!(repository.list(&run_id()).await.unwrap().len(), 2);
    make_unreadable(&disk, &id(1, 10), "state.json");
    let error = repository.newest_good(&run_id(), |_| true).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
}
