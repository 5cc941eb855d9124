use super::faulty::Fault;
use super::*;

/// Breaks at the first write, at the second, and so on, until one attempt gets through untouched.
async fn at_every_write(make: fn() -> Disk, fault: Fault) {
    let mut at = 0;
    loop {
        let disk = make();
        write(&disk.repository(), &id(1, 10)).await.unwrap();
        let plan = Plan::new(fault, at);
        let result = write(&disk.breaking(&plan), &id(2, 20)).await;
        // The coordinator starts again.
        let repository = disk.repository();
        let found = listed(&repository).await;
        match &result {
            Ok(_) => assert_eq!(found, [(1, 10), (2, 20)]),
            // Whole or not there; it may be there only if the answer alone was lost.
            Err(_) if fault == Fault::CrashAfter => assert!(found.starts_with(&[(1, 10)]), "{found:?}"),
            Err(_) => assert_eq!(found, [(1, 10)], "{fault:?} at {at}"),
        }
        let newest = repository.newest_good(&run_id(), |_| true).await.unwrap();
        assert_eq!(newest.bad, [], "{fault:?} at {at}");
        if let Err(error) = &result
            && fault == Fault::Full
        {
            assert!(matches!(error, CheckpointError::Full { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains("/store/runs/run-1/checkpoints/2-20/"), "{message}");
            assert!(message.contains("bytes are needed"), "{message}");
            if disk.folder.is_some() {
                assert!(disk.on_disk().iter().all(|path| !path.contains('#')), "temporary files are left");
            }
        }
        // The workers send it again.
        write(&repository, &id(2, 20)).await.unwrap();
        assert_eq!(listed(&repository).await, [(1, 10), (2, 20)], "{fault:?} at {at}");
        if result.is_ok() && plan.tried() <= at {
            assert!(at > 8, "only {at} writes");
            break;
        }
        at += 1;
    }
}

#[tokio::test]
async fn a_crash_at_any_write_leaves_only_whole_checkpoints() {
    for fault in [Fault::Crash, Fault::CrashAfter] {
        at_every_write(Disk::memory, fault).await;
        at_every_write(Disk::local, fault).await;
    }
}

#[tokio::test]
async fn a_full_disk_at_any_write_is_named_and_leaves_only_whole_checkpoints() {
    at_every_write(Disk::memory, Fault::Full).await;
    at_every_write(Disk::local, Fault::Full).await;
}
