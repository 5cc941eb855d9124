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

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_stored_is_an_event() {
    let (folder, server, run) = small_run(9).await;
    let (_alpha, training) = FakeWorker::trains(&server, "alpha", 3).await;
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    // Where the run's folder would be lies a file.
    let runs = folder.path().join("data/store/runs");
    std::fs::create_dir_all(&runs).unwrap();
    std::fs::write(runs.join(&run), "in the way").unwrap();
    let reference = training.reference();
    for _ in 0..2 {
        upload(&server, &reference, "state.json", b"{}").await.unwrap_err();
    }
    let request = v1::CompleteShardRequest {
        checkpoint: Some(reference.clone()),
        worker: "alpha".into(),
        world: 1,
        ..Default::default()
    };
    server.checkpoints().await.complete_shard(request).await.unwrap_err();
    let told = |run: &v1::Run| {
        let text = "the checkpoint at step 3 could not be stored: ";
        run.events.iter().filter(|event| event.text.starts_with(text)).count()
    };
    let shown = server.wait_until(&run, "the event", |run| told(run) > 0).await;
    assert_eq!(told(&shown), 1, "once for a checkpoint: {:?}", shown.events);
    // One of another step is another one.
    upload(&server, &v1::CheckpointRef { step: 4, ..reference }, "state.json", b"{}").await.unwrap_err();
    let other = |run: &v1::Run| run.events.iter().any(|event| event.text.contains("step 4 could not be stored: "));
    let shown = server.wait_until(&run, "the other event", other).await;
    assert_eq!(told(&shown), 1, "{:?}", shown.events);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_is_no_refusal() {
    let (_folder, server, run) = small_run(9).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    let segments = training.compute();
    let report = progress(&training, segments);
    for round in 0..20 {
        // The old session is full of reports when the new one replaces it.
        let sending = tokio::spawn({
            let report = report.clone();
            async move {
                for _ in 0..500 {
                    if !worker.try_report(Report::Progress(report.clone())).await {
                        break;
                    }
                }
                worker
            }
        });
        tokio::task::yield_now().await;
        let holding = v1::Holding { run: run.clone(), generation: 1, step: 1 };
        let next = FakeWorker::join(&server, "alpha", Some(holding)).await;
        drop(sending.await.unwrap());
        worker = next;
        let shown = server.show(&run).await;
        assert!(shown.refused.iter().all(|refused| refused.count == 0), "round {round}: {:?}", shown.refused);
        assert_eq!((shown.generation, shown.status.as_str()), (1, "running"), "round {round}");
    }
    let events = server.show(&run).await.events;
    assert!(events.iter().all(|event| !event.text.starts_with("refused ")), "{events:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_reader_meets_is_known_before_it_is_answered() {
    let (_folder, server, run) = small_run(9).await;
    let (mut worker, mut training) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(worker.checkpoint(&server, &training).await);
    server.wait_until(&run, "verification", |run| run.checkpoints.iter().all(|it| it.verified)).await;
    for _ in 3..6 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    let both = |run: &v1::Run| run.checkpoints.len() == 2 && run.checkpoints.iter().all(|it| it.verified);
    let saved = server.wait_until(&run, "the second", both).await;
    let newest = &saved.checkpoints[1];
    std::fs::write(newest.path.clone() + "/model.safetensors", "weights after stop 6").unwrap();
    let request = v1::DownloadRequest { checkpoint: newest.checkpoint.clone(), file: "model.safetensors".to_owned() };
    let mut chunks = server.checkpoints().await.download(request).await.unwrap().into_inner();
    let refused = loop {
        match chunks.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it passed for what was written"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::DataLoss, "{refused}");
    assert!(refused.message().contains("model.safetensors") && refused.message().contains("altered"), "{refused}");
    // The trainer that wanted it ends, and whoever is next is sent to the one before.
    let ended = v1::TrainerExited { run: run.clone(), generation: 1, cause: "signal 9".into(), last_lines: vec![] };
    worker.report(Report::TrainerExited(ended)).await;
    worker.report(Report::TrainerReady(v1::TrainerReady {})).await;
    let assign = worker.assigned_at_last().await;
    assert_eq!(assign.restore.as_ref().map(|at| at.step), Some(3));
    let shown = server.show(&run).await;
    assert!(!shown.checkpoints[1].verified, "{:?}", shown.checkpoints);
    let told = shown.events.iter().filter(|event| event.text.contains("step 6 is damaged: `model.safe")).count();
    assert_eq!(told, 1, "{:?}", shown.events);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_runs_says_nothing_that_it_has_not_read() {
    let (_folder, server, run) = small_run(9).await;
    let (worker, training) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(worker.checkpoint(&server, &training).await);
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    let (code, text, _) = server.command(&["runs", "list", "--json"]).await;
    assert_eq!(code, 0);
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&listed["id"], &listed["step"], &listed["status"]), (&json!(run), &json!(3), &json!("running")));
    for field in ["skipped_steps", "metrics", "checkpoints", "coverage", "refused", "events"] {
        assert!(listed.get(field).is_none(), "{field} in {listed}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_trainer_is_not_up_gets_no_work() {
    let (_folder, server, run) = small_run(9).await;
    let mut alpha = FakeWorker::join_starting(&server, "alpha").await;
    let (_, text, _) = server.command(&["workers", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&listed["name"], &listed["state"]), (&json!("alpha"), &json!("starting")));
    assert_eq!(server.show(&run).await.status, "queued");
    alpha.report(Report::TrainerReady(v1::TrainerReady {})).await;
    assert_eq!(alpha.assigned().await.run, run);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_run_goes_back_depends_on_how_it_diverged() {
    // Older workers do not say.
    for (kind, step) in
        [(v1::Divergence::Skipped, Some(2)), (v1::Divergence::Replicas, None), (v1::Divergence::Unspecified, None)]
    {
        let folder = tempfile::tempdir().unwrap();
        write_corpus(folder.path());
        let server = Server::start(&folder.path().join("data")).await;
        let recovery = "[recovery]\nmax_skipped_steps = 2\nverify_every = 50\n";
        server.submit(&(config(folder.path(), 9) + recovery)).await;
        let (mut worker, mut training) = FakeWorker::trains(&server, "alpha", 2).await;
        assert!(worker.checkpoint(&server, &training).await);
        for _ in 2..4 {
            worker.step(&mut training).await;
        }
        let v1::Assign { run, generation, .. } = training.assign;
        let (reason, kind) = ("it went wrong".to_owned(), kind.into());
        worker.report(Report::Diverged(v1::Diverged { run, generation, step: 4, reason, kind })).await;
        let again = worker.assigned_at_last().await;
        assert_eq!((again.attempt, again.restore.map(|at| at.step)), (2, step));
        server.stop().await;
    }
}

/// A worker that does two steps, of which it skips so many.
async fn skips(worker: &mut FakeWorker, skipped: u64) -> FakeTraining {
    let mut training = FakeTraining::new(worker.assigned_at_last().await);
    for step in 1..=2 {
        let segments = training.compute();
        let mut report = progress(&training, segments);
        if step <= skipped {
            let key = "train/skipped".to_owned();
            report.metrics.push(v1::Metric { attempt: 0, step, key, value: 1.0, time_ms: 1 });
        }
        worker.report(Report::Progress(report)).await;
    }
    training
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_run_ended_is_told_once_with_the_steps_that_it_skipped() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let file = folder.path().join("run.toml");
    std::fs::write(&file, config(folder.path(), 2)).unwrap();
    let waits = ["submit", file.to_str().unwrap(), "--wait"];
    let server = Server::start(&folder.path().join("data")).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let completing = async {
        let training = skips(&mut worker, 2).await;
        assert!(worker.checkpoint(&server, &training).await);
        worker.finished(&training).await;
    };
    let ((code, out, told), ()) = tokio::join!(server.command(&waits), completing);
    assert_eq!(code, 0, "{told}");
    let end = "is completed at step 2 of 2 (all 2 skipped: nothing was learned)";
    assert!(told.contains(end) && format!("{out}{told}").matches("completed").count() == 1, "{out}{told}");

    let failing = async {
        let training = skips(&mut worker, 1).await;
        let v1::Assign { run, generation, .. } = training.assign;
        let reason = "corpus.jsonl, line 3: no text\n  help: mend the line".to_owned();
        worker.report(Report::RunFailed(v1::RunFailed { run: run.clone(), generation, reason })).await;
        run
    };
    let ((code, out, told), run) = tokio::join!(server.command(&waits), failing);
    assert_eq!(code, 1, "{told}");
    let all = format!("{out}{told}");
    assert_eq!((all.matches("line 3: no text").count(), all.matches("failed").count()), (1, 1), "{all}");
    assert!(told.contains(&format!("run {run} failed at step 2 of 2 (1 step skipped): alpha: corpus.jsonl")), "{told}");
    assert!(told.contains("mend the line") && !all.contains("runs resume"), "it would fail again: {all}");
    let (_, text, _) = server.command(&["runs", "show", &run]).await;
    assert!(text.contains("step        2 of 2 (1 step skipped)"), "{text}");
    let (_, text, _) = server.command(&["runs", "show", &run, "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["skipped_steps"], 1);
    server.stop().await;
}
