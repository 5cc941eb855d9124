//! A coordinator that is killed at any moment loses nothing that anybody was told of.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it leaves out")]

mod support;

use proto::v1;
use proto::v1::worker_message::Kind as Report;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::{CheckpointFile, CheckpointId, CheckpointRepository, Shard, ShardOutcome};
use support::{FakeTraining, FakeWorker, Server, config, progress, small_run, write_corpus};
use types::{Digest, Generation, Rank, Step, WorldSize};

const KILLS: u64 = 8;
/// More than any machine reports meanwhile.
const STEPS: u64 = 1 << 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_no_commit_and_no_metric() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let data = folder.path().join("data");
    let mut server = Server::spawn(&data, &[], &[]).await;
    let run = server.submit(&config(folder.path(), STEPS)).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    // What a trainer would send again.
    let mut reports: Vec<v1::Progress> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..KILLS {
        // From the middle of the first transaction to a stretch of some hundred.
        let pause = Duration::from_millis(3 + 47 * round);
        let told = Arc::new(AtomicU64::new(0));
        let watch = tokio::spawn({
            let (told, run) = (Arc::clone(&told), run.clone());
            let mut runs = server.runs().await;
            async move {
                while let Ok(shown) = runs.show(v1::RunRequest { run: run.clone() }).await {
                    told.fetch_max(shown.into_inner().step, Ordering::SeqCst);
                }
            }
        });
        let started = Instant::now();
        while started.elapsed() < pause {
            let segments = training.compute();
            reports.push(progress(&training, segments));
            worker.report(Report::Progress(reports.last().unwrap().clone())).await;
        }
        server.stop().await;
        watch.await.unwrap();
        let told = told.load(Ordering::SeqCst);

        let back = Instant::now();
        server = Server::spawn(&data, &[], &[]).await;
        let shown = server.show(&run).await;
        assert!(shown.step >= told, "round {round}: step {told} was told as committed, now it is {}", shown.step);
        assert_eq!((shown.generation, shown.attempt, shown.status.as_str()), (1, 1, "running"), "round {round}");
        let metrics: Vec<u64> = server.metrics(&run, false).await.iter().map(|row| row.step).collect();
        assert_eq!(metrics, (1..=shown.step).collect::<Vec<_>>(), "round {round}: every commit has its metric");
        // The member re-attaches, and says again what was not recorded.
        let step = training.step;
        let holding = v1::Holding { run: run.clone(), generation: 1, step };
        worker = FakeWorker::join(&server, "alpha", Some(holding)).await;
        for report in &reports[shown.step as usize..] {
            worker.report(Report::Progress(report.clone())).await;
        }
        let caught_up = server.wait_until(&run, "the reports", |run| run.step == step).await;
        slowest = slowest.max(back.elapsed());
        assert_eq!((caught_up.generation, caught_up.attempt), (1, 1), "round {round}: no new generation");
    }
    eprintln!("{} steps, {KILLS} kills; the slowest was back and had caught up in {slowest:?}", training.step);
    let report = server.runs().await.verify_ledger(v1::RunRequest { run: run.clone() }).await.unwrap().into_inner();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.steps, report.chain), (training.step, training.digest.to_string()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_whose_record_was_cut_off_still_completes_the_run() {
    let (folder, server, run) = small_run(3).await;
    let (_worker, training) = FakeWorker::trains(&server, "alpha", 3).await;
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    server.stop().await;
    // The manifest was written, and then nothing more.
    let data = folder.path().join("data");
    let repository = CheckpointRepository::open(data.join("store").to_str().unwrap()).unwrap();
    let reference = training.reference();
    let id = CheckpointId { run: run.parse().unwrap(), generation: Generation(reference.generation), step: Step(3) };
    let mut files = Vec::new();
    for (name, content) in training.files() {
        let blake3 = Digest::blake3(&content);
        let file = CheckpointFile { name: name.to_owned(), bytes: content.len() as u64, blake3 };
        let chunks = tokio_stream::iter([Ok::<_, String>(content.into())]);
        repository.put_file(&id, &file, chunks).await.unwrap();
        files.push(file);
    }
    let weights_digest = Some(Digest([7; 32]));
    let shard = Shard { rank: Rank(0), world: WorldSize(1), files, eval_loss: Some(2.5), score: None, weights_digest };
    let outcome = repository.complete_shard(&id, &shard, 1).await.unwrap();
    assert!(matches!(outcome, ShardOutcome::Committed(_)), "{outcome:?}");

    let server = Server::start(&data).await;
    let holding = v1::Holding { run: run.clone(), generation: reference.generation, step: 3 };
    let worker = FakeWorker::join(&server, "alpha", Some(holding)).await;
    assert!(worker.checkpoint(&server, &training).await, "the worker's second try");
    worker.finished(&training).await;
    let done = server.wait_until(&run, "completion", |run| run.status == "completed").await;
    assert_eq!((done.checkpoints.len(), done.generation), (1, 1));
    server.wait_until(&run, "verification", |run| run.checkpoints[0].verified).await;
    server.stop().await;
}

/// A small file system in memory; `None` where none may be mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Where `CI` is set it must be possible: a test that is left out there without a word is no test.
    fn mount(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()).output();
        let failure = match mount {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "no tmpfs may be mounted, although CI is set: {failure}");
        eprintln!("no tmpfs may be mounted here, left out: {}", failure.trim());
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy"]).arg(self.0.path()).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_room_on_the_coordinators_disk() {
    let Some(disk) = SmallDisk::mount("size=2m") else { return };
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&disk.0.path().join("data")).await;
    let run = server.submit(&config(folder.path(), STEPS)).await;
    let (worker, mut training) = FakeWorker::trains(&server, "alpha", 3).await;
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    let filler = disk.0.path().join("filler");
    let _ = std::fs::write(&filler, vec![1; 4 << 20]);
    // More than what is left in the last pages of the log.
    for _ in 0..200 {
        worker.step(&mut training).await;
    }
    let told = |run: &v1::Run| run.reason.contains("nothing can be recorded") && run.reason.contains("is full");
    let waiting = server.wait_until(&run, "the message", told).await;
    assert_eq!((waiting.status.as_str(), waiting.generation), ("running", 1));
    std::fs::remove_file(&filler).unwrap();
    let done = server.wait_until(&run, "all reports", |run| run.step == training.step).await;
    assert_eq!((done.reason.as_str(), done.generation), ("", 1));
    assert_eq!(server.metrics(&run, false).await.len() as u64, training.step);
    server.stop().await;
}
