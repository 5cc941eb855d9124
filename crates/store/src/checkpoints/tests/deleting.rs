use super::super::{Best, Retained, RetentionPolicy, Standing};
use super::faulty::Fault;
use super::*;
use object_store::ObjectStoreExt;

/// The held-out loss of step n is n / 10: the oldest ones are the best.
async fn written(disk: &Disk, steps: &[u64]) -> CheckpointRepository {
    let repository = disk.repository();
    for step in steps {
        write(&repository, &id(1, *step)).await.unwrap();
    }
    repository
}

/// With every checkpoint standing.
async fn retain(
    repository: &CheckpointRepository,
    policy: RetentionPolicy,
    in_use: &[CheckpointId],
) -> Result<Retained, CheckpointError> {
    let all = repository.list(&run_id()).await?;
    let all: Vec<_> = all.into_iter().map(|manifest| (manifest, Standing::Stands)).collect();
    repository.retain(&all, policy, in_use).await
}

#[tokio::test]
async fn the_latest_and_the_best_stay() {
    for (keep_latest, keep_best, in_use, expected) in [
        (2, 0, vec![], vec![(1, 40), (1, 50)]),
        (2, 1, vec![], vec![(1, 10), (1, 40), (1, 50)]),
        (0, 0, vec![], vec![(1, 50)]),
        (1, 2, vec![id(1, 30)], vec![(1, 10), (1, 20), (1, 30), (1, 50)]),
        (9, 0, vec![], vec![(1, 10), (1, 20), (1, 30), (1, 40), (1, 50)]),
    ] {
        let disk = Disk::memory();
        let repository = written(&disk, &[10, 20, 30, 40, 50]).await;
        let policy = RetentionPolicy { keep_latest, keep_best, best: Best::Loss };
        let retained = retain(&repository, policy, &in_use).await.unwrap();
        assert_eq!(listed(&repository).await, expected, "{policy:?}");
        assert_eq!(retained.deleted.len(), 5 - expected.len());
        assert_eq!(retained.newest, Some(id(1, 50)));
    }
}

#[tokio::test]
async fn what_is_best_is_for_the_policy_to_say() {
    // The score of step n is n modulo 5.
    for (best, expected) in [
        (Best::Loss, vec![(1, 11), (1, 23)]),
        (Best::Lower, vec![(1, 20), (1, 23)]),
        (Best::Higher, vec![(1, 14), (1, 23)]),
    ] {
        let disk = Disk::memory();
        let repository = written(&disk, &[11, 14, 17, 20, 23]).await;
        let policy = RetentionPolicy { keep_latest: 1, keep_best: 1, best };
        retain(&repository, policy, &[]).await.unwrap();
        assert_eq!(listed(&repository).await, expected, "{best:?}");
    }
}

#[test]
fn the_newest_of_equally_good_ones_is_the_best() {
    let measured = [(None, None), (Some(2.0), Some(0.5)), (Some(1.0), Some(0.9)), (Some(1.0), Some(0.5)), (None, None)];
    assert_eq!([Best::Loss, Best::Lower, Best::Higher].map(|best| best.among(measured)), [Some(3), Some(3), Some(2)]);
    assert_eq!(Best::Higher.among([(Some(1.0), None)]), None);
}

#[tokio::test]
async fn nothing_is_deleted_while_the_newest_is_bad() {
    let disk = Disk::memory();
    let repository = written(&disk, &[10, 20, 30]).await;
    disk.store.put(&repository.path(&id(1, 30), "state.json"), "damaged".into()).await.unwrap();
    let policy = RetentionPolicy { keep_latest: 1, keep_best: 0, best: Best::Loss };
    let retained = retain(&repository, policy, &[]).await.unwrap();
    assert_eq!(retained.newest_problems[0].file, "state.json");
    assert_eq!((retained.deleted.len(), repository.list(&run_id()).await.unwrap().len()), (0, 3));
}

#[tokio::test]
async fn only_what_stands_competes_for_a_place() {
    use Standing::{Stands, Superseded, Uncommitted};
    let disk = Disk::memory();
    let repository = written(&disk, &[10, 20, 30, 40, 50]).await;
    let standings = [Stands, Superseded, Stands, Stands, Uncommitted];
    let all: Vec<_> = repository.list(&run_id()).await.unwrap().into_iter().zip(standings).collect();
    let policy = RetentionPolicy { keep_latest: 1, keep_best: 1, best: Best::Loss };
    // What no restore may take keeps no place from what it may.
    disk.store.put(&repository.path(&id(1, 40), "state.json"), "damaged".into()).await.unwrap();
    assert_eq!(repository.retain(&all, policy, &[]).await.unwrap().deleted, []);
    put_again(&disk, 40).await;
    let retained = repository.retain(&all, policy, &[]).await.unwrap();
    assert_eq!(retained.deleted, [id(1, 20), id(1, 30)]);
    assert_eq!(listed(&repository).await, [(1, 10), (1, 40), (1, 50)]);
}

async fn put_again(disk: &Disk, step: u64) {
    let path = disk.repository().path(&id(1, step), "state.json");
    disk.store.put(&path, content("state.json", step, 40).into()).await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_breaks_off_leaves_nothing_that_looks_whole() {
    for make in [Disk::memory, Disk::local] {
        for fault in [Fault::Crash, Fault::CrashAfter] {
            let mut at = 0;
            loop {
                let disk = make();
                written(&disk, &[10, 20, 30]).await;
                let plan = Plan::new(fault, at);
                let policy = RetentionPolicy { keep_latest: 1, keep_best: 0, best: Best::Loss };
                let done = retain(&disk.breaking(&plan), policy, &[]).await.is_ok();
                let repository = disk.repository();
                assert_eq!(listed(&repository).await.last(), Some(&(1, 30)), "{fault:?} at {at}");
                retain(&repository, policy, &[]).await.unwrap();
                repository.clean_unfinished(&run_id(), Generation(2)).await.unwrap();
                assert_eq!(repository.folders(&run_id()).await.unwrap(), [id(1, 30)], "{fault:?} at {at}");
                if done {
                    assert!(at >= 12, "two checkpoints of six files, but only {at} deletions");
                    break;
                }
                at += 1;
            }
        }
    }
}

#[tokio::test]
async fn unfinished_uploads_of_dead_generations_go() {
    for disk in Disk::both() {
        let repository = written(&disk, &[10]).await;
        for id in [id(1, 20), id(2, 20), id(3, 30)] {
            put(&repository, &id, "state.json", &Bytes::from_static(b"{}")).await.unwrap();
        }
        if let Some(folder) = &disk.folder {
            // What a crash in the middle of a write leaves behind; listings do not show it.
            let left = folder.path().join("runs/run-1/checkpoints/2-40");
            std::fs::create_dir(&left).unwrap();
            std::fs::write(left.join("model.safetensors#1"), "half").unwrap();
        }
        let mut cleaned = repository.clean_unfinished(&run_id(), Generation(3)).await.unwrap();
        cleaned.retain(|id| id.step.0 != 40);
        assert_eq!(cleaned, [id(1, 20), id(2, 20)]);
        assert_eq!(repository.folders(&run_id()).await.unwrap(), [id(1, 10), id(3, 30)]);
        assert_eq!(listed(&repository).await, [(1, 10)]);
        assert!(disk.folder.is_none() || disk.on_disk().iter().all(|path| !path.contains('#')));
    }
}

#[tokio::test]
async fn deleting_what_is_not_there_is_no_error() {
    for disk in Disk::both() {
        disk.repository().delete(&id(1, 1)).await.unwrap();
    }
}
