//! What people see of workers, of zombies and of stored checkpoints.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use proto::v1;
use proto::v1::coordinator_message::Kind as Directive;
use proto::v1::worker_message::Kind as Report;
use serde_json::{Value, json};
use std::time::Duration;
use support::{FakeTraining, FakeWorker, Server, config, progress, small_run, upload, write_corpus};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_zombie_tries_is_refused_counted_and_told() {
    let (_folder, server, run) = small_run(9).await;
    let (mut alpha, mut old) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(alpha.checkpoint(&server, &old).await);
    let refused =
        |run: &v1::Run| run.refused.iter().map(|refused| (refused.kind.clone(), refused.count)).collect::<Vec<_>>();
    let shown = server.show(&run).await;
    assert_eq!(refused(&shown), ["commit", "metrics", "report", "rendezvous", "upload"].map(|kind| (kind.into(), 0)));
    // Its trainer is gone, and with it the state; it gets a new one.
    let ended = v1::TrainerExited { run: run.clone(), generation: 1, cause: "signal 9".into(), last_lines: vec![] };
    alpha.report(Report::TrainerExited(ended)).await;
    alpha.report(Report::TrainerReady(v1::TrainerReady {})).await;
    let assign = alpha.assigned_at_last().await;
    assert_eq!(assign.restore.as_ref().map(|at| at.step), Some(3));
    let new = FakeTraining::restored(assign, 3);
    assert!(new.assign.generation > 1);
    // What the old one would have said.
    let segments = old.compute();
    alpha.report(Report::Progress(progress(&old, segments))).await;
    let scope = v1::Scope { run: run.clone(), generation: 1, worker: "alpha".into() };
    let set = v1::KeyValue { scope: Some(scope), key: "k".into(), value: vec![] };
    for _ in 0..2 {
        let status = server.rendezvous().await.set(set.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
    }
    let late = v1::CheckpointRef { run: run.clone(), generation: 1, step: 4 };
    let status = upload(&server, &late, "state.json", b"{}").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
    let told = |run: &v1::Run| run.events.iter().filter(|event| event.text.starts_with("refused ")).count() == 4;
    let shown = server.wait_until(&run, "four events", told).await;
    let expected = [("commit", 1), ("metrics", 1), ("report", 0), ("rendezvous", 2), ("upload", 1)];
    assert_eq!(refused(&shown), expected.map(|(kind, count)| (kind.to_owned(), count)));
    assert_eq!(shown.step, 3);
    let (code, text, _) = server.command(&["runs", "show", &run]).await;
    assert_eq!(code, 0);
    assert!(text.contains("1 commit, 1 metrics, 2 rendezvous, 1 upload"), "{text}");
    let (_, text, _) = server.command(&["runs", "show", &run, "--json"]).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["refused"], json!({"commit": 1, "metrics": 1, "report": 0, "rendezvous": 2, "upload": 1}));
    // What names no run is nobody's refusal, and above all no event of a run that is not there.
    let nobody = v1::Scope { run: "nobody".into(), generation: 1, worker: "alpha".into() };
    let set = v1::KeyValue { scope: Some(nobody), key: "k".into(), value: vec![] };
    assert!(server.rendezvous().await.set(set).await.is_err());
    assert_eq!(server.show(&run).await.status, "running");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_and_told_to_go() {
    let (_folder, server, run) = small_run(9).await;
    let (mut alpha, _training) = FakeWorker::trains(&server, "alpha", 1).await;
    let (code, text, complaint) = server.command(&["workers", "list", "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&listed["name"], &listed["state"], &listed["run"]), (&json!("alpha"), &json!("working"), &json!(run)));
    let (code, _, complaint) = server.command(&["workers", "drain", "alpha"]).await;
    assert_eq!(code, 0, "{complaint}");
    assert!(complaint.contains("finishes its step"), "{complaint}");
    assert_eq!(alpha.next().await, Some(Directive::Drain(v1::Drain {})));
    alpha.report(Report::Leaving(v1::Leaving {})).await;
    // The last one that leaves saves the state first.
    match alpha.next().await {
        Some(Directive::Request(request)) => assert!(request.pause && request.checkpoint),
        other => panic!("{other:?}"),
    }
    let (_, text, _) = server.command(&["workers", "list"]).await;
    assert!(text.contains("leaving"), "{text}");
    let (code, _, complaint) = server.command(&["workers", "drain", "omega"]).await;
    assert_eq!(code, 1);
    assert!(complaint.contains("no worker `omega`") && complaint.contains("workers list"), "{complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_checkpoint_is_read_again_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start_with(&folder.path().join("data"), Some(Duration::from_millis(100))).await;
    let run = server.submit(&config(folder.path(), 9)).await;
    let (worker, training) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(worker.checkpoint(&server, &training).await);
    let good = server.wait_until(&run, "verification", |run| run.checkpoints.iter().all(|it| it.verified)).await;
    std::fs::write(good.checkpoints[0].path.clone() + "/model.safetensors", "weights after stop 3").unwrap();
    let told = |run: &v1::Run| run.events.iter().any(|event| event.text.contains("step 3 is damaged: `model.safe"));
    let shown = server.wait_until(&run, "the event", told).await;
    assert!(shown.checkpoints.iter().all(|checkpoint| !checkpoint.verified));
    // It is told once, however often it is read.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let events = server.show(&run).await.events;
    assert_eq!(events.iter().filter(|event| event.text.contains("is damaged: ")).count(), 1, "{events:?}");
    server.stop().await;
}
