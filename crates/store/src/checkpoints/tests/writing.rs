use super::*;
use futures::{StreamExt, TryStreamExt};

#[tokio::test]
async fn two_workers_write_one_checkpoint() {
    for disk in Disk::both() {
        let repository = disk.repository();
        assert_eq!(listed(&repository).await, []);
        let id = id(2, 30);
        let [first, second] = files(30);
        for (name, content) in first.iter().chain(&second) {
            put(&repository, &id, name, content).await.unwrap();
        }
        let waiting = repository.complete_shard(&id, &shard(1, 30), 1).await.unwrap();
        assert_eq!(waiting, ShardOutcome::Waiting { missing: vec![Rank(0)] });
        assert_eq!(listed(&repository).await, []);
        assert!(matches!(repository.manifest(&id).await, Err(CheckpointError::NotFound(_))));
        // A coordinator that was restarted in between remembers the first shard.
        let repository = disk.repository();
        let ShardOutcome::Committed(manifest) = repository.complete_shard(&id, &shard(0, 30), 5).await.unwrap() else {
            panic!("not committed")
        };
        assert_eq!((manifest.world, manifest.created_ms, manifest.eval_loss), (WorldSize(2), 5, Some(3.0)));
        assert_eq!(manifest.weights_digest, shard(0, 30).weights_digest);
        assert_eq!(manifest.files.len(), 5);
        assert_eq!(manifest.bytes(), first.iter().chain(&second).map(|(_, content)| content.len() as u64).sum::<u64>());
        assert_eq!(repository.list(&run_id()).await.unwrap(), std::slice::from_ref(&manifest));
        assert_eq!(listed(&repository).await, [(2, 30)]);
        for (name, content) in first.iter().chain(&second) {
            let (file, stream) = repository.open_file(&id, name).await.unwrap();
            let read: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert_eq!((read.concat(), &file), (content.to_vec(), manifest.file(name).unwrap()));
        }
        // A worker that missed the answer asks again.
        let again = repository.complete_shard(&id, &shard(1, 30), 9).await.unwrap();
        assert_eq!(again, ShardOutcome::AlreadyCommitted(manifest));
        put(&repository, &id, "state.json", &content("state.json", 30, 40)).await.unwrap();
        let late = put(&repository, &id, "state.json", &content("state.json", 31, 40)).await.unwrap_err();
        assert!(late.to_string().contains("committed already"), "{late}");
    }
}

#[tokio::test]
async fn the_layout_on_disk_is_as_documented() {
    let disk = Disk::local();
    write(&disk.repository(), &id(2, 30)).await.unwrap();
    let root = disk.folder.as_ref().unwrap().path().join("runs/run-1/checkpoints/2-30");
    let names = [
        "empty.txt",
        "manifest.json",
        "model.safetensors",
        "optimizer-0-of-2.safetensors",
        "optimizer-1-of-2.safetensors",
        "state.json",
    ];
    assert_eq!(disk.on_disk(), names.map(|name| root.join(name).display().to_string()));
    assert_eq!(disk.repository().location(&id(2, 30)), "/store/runs/run-1/checkpoints/2-30");
}

#[tokio::test]
async fn both_last_shards_at_once_commit_once() {
    let repository = Disk::memory().repository();
    let id = id(1, 8);
    for (name, content) in files(8).concat() {
        put(&repository, &id, name, &content).await.unwrap();
    }
    let (zero, one) = (shard(0, 8), shard(1, 8));
    let (a, b) = tokio::join!(repository.complete_shard(&id, &zero, 1), repository.complete_shard(&id, &one, 1));
    let committed = [a.unwrap(), b.unwrap()].iter().filter(|it| matches!(it, ShardOutcome::Committed(_))).count();
    assert_eq!(committed, 1);
}

#[tokio::test]
async fn bytes_that_were_not_announced_are_refused_and_leave_nothing() {
    for disk in Disk::both() {
        let repository = disk.repository();
        for length in [100, 2 * PART_BYTES + 5] {
            let good = content("a", 1, length);
            let announced = file("a", &good);
            let id = id(1, 1);
            let send = |bytes: Bytes| repository.put_file(&id, &announced, chunks(&bytes));
            let error = send(content("b", 1, length)).await.unwrap_err();
            assert!(matches!(error, CheckpointError::Content { .. }), "{error}");
            assert!(error.to_string().contains("/runs/run-1/checkpoints/1-1/a"), "{error}");
            let error = send([&good[..], b"!"].concat().into()).await.unwrap_err();
            assert!(error.to_string().contains("more came"), "{error}");
            let error = send(good.slice(..length - 1)).await.unwrap_err();
            assert!(matches!(error, CheckpointError::Interrupted { .. }), "{error}");
            let broken = chunks(&good).take(1).chain(stream::iter([Err("peer reset".to_owned())]));
            let error = repository.put_file(&id, &announced, Box::pin(broken)).await.unwrap_err();
            assert!(error.to_string().ends_with("broke off: peer reset"), "{error}");
            assert!(repository.store.list(None).next().await.is_none(), "something is visible");
            if disk.folder.is_some() {
                assert_eq!(disk.on_disk(), [""; 0]);
            }
        }
    }
}

#[tokio::test]
async fn shards_that_contradict_each_other_are_refused() {
    let repository = Disk::memory().repository();
    let id = id(1, 8);
    let error = repository.complete_shard(&id, &shard(0, 8), 1).await.unwrap_err();
    assert!(error.to_string().contains("`model.safetensors` was not uploaded"), "{error}");
    for (name, content) in files(8).concat() {
        put(&repository, &id, name, &content).await.unwrap();
    }
    let refused = async |shard: Shard| repository.complete_shard(&id, &shard, 1).await.unwrap_err().to_string();
    let message = refused(Shard { rank: Rank(2), ..shard(0, 8) }).await;
    assert!(message.contains("no rank 2 of 2"), "{message}");
    let mut short = shard(0, 8);
    short.files[0].bytes += 1;
    let message = refused(short).await;
    assert!(message.contains("bytes instead of"), "{message}");
    repository.complete_shard(&id, &shard(0, 8), 1).await.unwrap();
    let message = refused(Shard { weights_digest: Some(Digest::default()), ..shard(1, 8) }).await;
    assert!(message.contains("replicas disagree"), "{message}");
    let message = refused(Shard { files: shard(0, 8).files, ..shard(1, 8) }).await;
    assert!(message.contains("two ranks uploaded"), "{message}");
    assert_eq!(listed(&repository).await, []);
    repository.complete_shard(&id, &shard(1, 8), 1).await.unwrap();
    let message = refused(Shard { files: vec![file("state.json", b"other")], ..shard(1, 8) }).await;
    assert!(message.contains("with other files"), "{message}");
}

#[tokio::test]
async fn names_that_could_do_harm_are_refused() {
    let repository = Disk::memory().repository();
    let long = "x".repeat(129);
    for name in ["", "..", ".hidden", "a/b", "../../token", "a b", "manifest.json", "shard-0-of-1.json", "a#1", &long] {
        let error = put(&repository, &id(1, 1), name, &Bytes::new()).await.unwrap_err();
        assert!(matches!(error, CheckpointError::FileName(_)), "{name}: {error}");
    }
    write(&repository, &id(1, 2)).await.unwrap();
    let error = repository.open_file(&id(1, 2), "../token").await.map(drop).unwrap_err();
    assert!(matches!(error, CheckpointError::NoSuchFile { .. }), "{error}");
}

#[tokio::test]
async fn stores_are_opened_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/b c");
    for address in [inner.display().to_string(), format!("file://{}", folder.path().join("url").display())] {
        let repository = CheckpointRepository::open(&address).unwrap();
        write(&repository, &id(1, 1)).await.unwrap();
        assert!(repository.free_bytes().is_some_and(|free| free > 0));
        assert!(std::path::Path::new(&repository.location(&id(1, 1))).join("manifest.json").is_file());
    }
    let repository = CheckpointRepository::open("memory:///prefix").unwrap();
    write(&repository, &id(1, 1)).await.unwrap();
    assert_eq!(repository.free_bytes(), None);
    assert_eq!(listed(&repository).await, [(1, 1)]);
    let error = CheckpointRepository::open("gopher://host/x").unwrap_err();
    assert!(error.to_string().contains("begins with s3:"), "{error}");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = CheckpointRepository::open(folder.path().join("file").to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
}
