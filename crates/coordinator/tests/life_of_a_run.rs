//! Runs through the real wire, with workers that compute nothing.

mod support;

use proto::v1;
use proto::v1::coordinator_message::Kind as Directive;
use proto::v1::worker_message::Kind as Report;
use serde_json::{Value, json};
use support::{FakeTraining, FakeWorker, Server, config, progress, small_run, write_corpus};

#[tokio::test(flavor = "multi_thread")]
async fn from_submission_to_completion() {
    let (folder, server, run) = small_run(6).await;
    let queued = server.show(&run).await;
    assert_eq!((queued.status.as_str(), queued.step, queued.total_steps), ("queued", 0, 6));
    assert!(queued.reason.contains("needs 1 worker"), "{}", queued.reason);

    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let assign = worker.assigned().await;
    assert_eq!((assign.run.as_str(), assign.generation, assign.attempt), (run.as_str(), 1, 1));
    assert_eq!((assign.rank, assign.world, assign.slots.as_slice()), (0, 1, &[0, 1][..]));
    let mut training = FakeTraining::new(assign);
    for step in 1..=6 {
        worker.step(&mut training).await;
        if step % 3 == 0 {
            assert!(worker.checkpoint(&server, &training).await);
        }
    }
    worker.finished(&training).await;
    let done = server.wait_until(&run, "completion", |run| run.status == "completed").await;
    assert_eq!((done.step, done.world_size, done.slots), (6, 0, 2));
    assert_eq!(done.weights_digest, "07".repeat(32));
    assert_eq!(done.samples_digest, training.digest.to_string());
    assert_eq!(done.checkpoints.len(), 2);

    let metrics = server.metrics("small", false).await;
    let rows: Vec<(u32, u64, f64)> = metrics.iter().map(|row| (row.attempt, row.step, row.value)).collect();
    assert_eq!(rows, (1..=6).map(|step| (1, step, 10.0 / step as f64)).collect::<Vec<_>>());

    // What scripts see.
    let (code, shown, _) = server.command(&["runs", "show", "latest", "--json"]).await;
    assert_eq!(code, 0);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for field in [
        "id",
        "name",
        "kind",
        "status",
        "reason",
        "step",
        "total_steps",
        "attempt",
        "generation",
        "world_size",
        "slots",
        "weights_digest",
        "samples_digest",
        "metrics",
        "checkpoints",
        "parent",
    ] {
        assert!(shown.get(field).is_some(), "{field} is missing in {shown}");
    }
    assert_eq!(shown["kind"], "pretrain");
    assert!((shown["metrics"]["loss"].as_f64().unwrap() - 10.0 / 6.0).abs() < 1e-12);
    for field in ["step", "generation", "path", "bytes", "verified"] {
        assert!(shown["checkpoints"][0].get(field).is_some(), "{field}");
    }
    let (code, lines, _) = server.command(&["metrics", "small", "--key", "loss", "--json"]).await;
    assert_eq!((code, lines.lines().count()), (0, 6));
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first, serde_json::json!({"attempt": 1, "step": 1, "key": "loss", "value": 10.0, "time": 1}));
    let (code, ledger, complaint) = server.command(&["ledger", "verify", &run, "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!((&ledger["ok"], &ledger["samples"]), (&Value::Bool(true), &serde_json::json!(24)));
    assert_eq!((&ledger["duplicates"], &ledger["missing"]), (&serde_json::json!(0), &serde_json::json!(0)));
    assert_eq!(ledger["chain"], done.samples_digest.as_str());
    // What is shown without a proof is what the proof gives.
    for field in ["samples", "epochs", "chain"] {
        assert_eq!(shown["coverage"][field], ledger[field], "{field}");
    }
    assert_eq!(ledger["deep"], false);
    let (code, deep, complaint) = server.command(&["ledger", "verify", &run, "--deep", "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let deep: Value = serde_json::from_str(&deep).unwrap();
    assert_eq!(deep["deep"], true);
    for field in ["ok", "samples", "epochs", "chain", "steps", "missing", "duplicates"] {
        assert_eq!(deep[field], ledger[field], "{field}");
    }
    let (code, verified, _) = server.command(&["checkpoints", "verify", "small@3", "--json"]).await;
    assert_eq!((code, verified.trim()), (0, r#"{"ok":true,"problems":[]}"#));
    let out = folder.path().join("export");
    let out_text = out.display().to_string();
    let export = ["checkpoints", "export", "--format", "hf", "small", "--out", &out_text, "--json"];
    let (code, exported, complaint) = server.command(&export).await;
    assert_eq!(code, 0, "{complaint}");
    assert_eq!(serde_json::from_str::<Value>(&exported).unwrap()["step"], 6);
    assert_eq!(std::fs::read_to_string(out.join("model.safetensors")).unwrap(), "weights after step 6");
    for file in ["README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert!(out.join(file).exists(), "{file}");
    }
    let config = std::fs::read_to_string(out.join("tokenizer_config.json")).unwrap();
    assert_eq!(config, r#"{"unk_token": "<unk>"}"#, "the checkpoint's own, whatever its special tokens are");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 6, "and no partial file");
    // Another model's files are not mixed with these: they go away, and nothing else does.
    for name in ["model.onnx", "merges.txt", "notes.txt"] {
        std::fs::write(out.join(name), "before").unwrap();
    }
    std::fs::write(out.join("model.safetensors"), "before").unwrap();
    let (code, _, complaint) = server.command(&export).await;
    assert_eq!(code, 5);
    assert!(complaint.contains(&out_text) && complaint.contains("--overwrite"), "{complaint}");
    assert_eq!(std::fs::read_to_string(out.join("model.safetensors")).unwrap(), "before");
    let (code, exported, complaint) = server.command(&[&export[..], &["--overwrite"]].concat()).await;
    assert_eq!(code, 0, "{complaint}");
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let mut removed = vec!["config.json", "README.md", "merges.txt", "model.onnx", "model.safetensors"];
    removed.extend(["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(exported["removed"], json!(removed));
    assert_eq!(std::fs::read_to_string(out.join("model.safetensors")).unwrap(), "weights after step 6");
    let is_there = |name: &str| out.join(name).exists();
    assert_eq!(["model.onnx", "merges.txt", "notes.txt"].map(is_there), [false, false, true]);
    // A text of somebody's is not written over.
    std::fs::write(out.join("README.md"), "my own notes").unwrap();
    let (code, _, complaint) = server.command(&[&export[..], &["--overwrite"]].concat()).await;
    assert_eq!(code, 5);
    assert!(complaint.contains("README.md is no card of a model"), "{complaint}");
    assert_eq!(std::fs::read_to_string(out.join("README.md")).unwrap(), "my own notes");
    let (code, watched, _) = server.command(&["runs", "watch", &run, "--json"]).await;
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&watched).unwrap()["status"], "completed");

    // A byte of a checkpoint changes: it is named.
    let path = done.checkpoints[0].path.clone() + "/model.safetensors";
    std::fs::write(&path, "weights after stop 3").unwrap();
    let (code, verified, complaint) = server.command(&["checkpoints", "verify", "small@3", "--json"]).await;
    assert_eq!(code, 1);
    assert!(verified.contains("model.safetensors") && complaint.contains("altered"), "{verified}{complaint}");
    server.wait_until(&run, "the mark of it", |run| !run.checkpoints[0].verified).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_grows_is_proved_and_counted_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let grows = "micro_batch = 2\naccumulate = 3\nramp_from = 1\nramp_share = 1.0";
    let run = server.submit(&config(folder.path(), 6).replace("micro_batch = 2", grows)).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    for step in 1..=6 {
        worker.step(&mut training).await;
        if step % 3 == 0 {
            assert!(worker.checkpoint(&server, &training).await);
        }
    }
    worker.finished(&training).await;
    server.wait_until(&run, "completion", |run| run.status == "completed").await;
    let (code, ledger, complaint) = server.command(&["ledger", "verify", &run, "--deep", "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    // Three steps of one micro-batch and three of two; two slots, two samples in each.
    assert_eq!((&ledger["ok"], &ledger["samples"]), (&Value::Bool(true), &serde_json::json!(36)));
    let (_, shown, _) = server.command(&["runs", "show", &run, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["coverage"]["samples"], ledger["samples"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_resumed() {
    let (_folder, server, run) = small_run(8).await;
    let (mut worker, mut training) = FakeWorker::trains(&server, "alpha", 4).await;
    server.wait_until(&run, "step 4", |run| run.step == 4).await;
    let (code, _, message) = server.command(&["runs", "cancel", &run]).await;
    assert_eq!(code, 0, "{message}");
    match worker.next().await {
        Some(Directive::Request(request)) => assert!(request.checkpoint && request.pause),
        other => panic!("{other:?}"),
    }
    // The members agree on the next boundary.
    worker.step(&mut training).await;
    assert!(worker.checkpoint(&server, &training).await);
    let v1::Assign { run: id, generation, .. } = training.assign.clone();
    worker.report(Report::Paused(v1::Paused { run: id, generation, step: 5 })).await;
    assert!(matches!(worker.next().await, Some(Directive::Release(_))));
    let cancelled = server.wait_until(&run, "the end", |run| run.status == "cancelled").await;
    assert_eq!(cancelled.step, 5);
    let (code, _, message) = server.command(&["runs", "cancel", &run]).await;
    assert_eq!(code, 1);
    assert!(message.contains("already ended"), "{message}");

    let (code, _, message) = server.command(&["runs", "resume", &run]).await;
    assert_eq!(code, 0, "{message}");
    let assign = worker.assigned().await;
    assert!(assign.generation > generation);
    assert_eq!(assign.attempt, 2);
    assert_eq!(assign.restore.as_ref().map(|at| (at.step, at.generation)), Some((5, generation)));
    let mut training = FakeTraining::restored(assign, 5);
    for _ in 5..8 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    worker.finished(&training).await;
    let done = server.wait_until(&run, "completion", |run| run.status == "completed").await;
    let attempts: Vec<u32> = server.metrics(&run, false).await.iter().map(|metric| metric.attempt).collect();
    assert_eq!(attempts, [1, 1, 1, 1, 1, 2, 2, 2]);
    let report = server.runs().await.verify_ledger(v1::RunRequest { run }).await.unwrap().into_inner();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.steps, report.chain), (8, done.samples_digest));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_coordinator_keeps_everything() {
    let (folder, server, run) = small_run(6).await;
    let data = folder.path().join("data");
    let (mut worker, mut training) = FakeWorker::trains(&server, "alpha", 3).await;
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    server.stop().await;
    assert_eq!(worker.next().await, None, "the session ends with the coordinator");

    // While it is away training goes on.
    let fourth = training.compute();
    let server = Server::start(&data).await;
    let taken_over = server.show(&run).await;
    assert_eq!((taken_over.status.as_str(), taken_over.step, taken_over.generation), ("running", 3, 1));
    assert_eq!(server.metrics(&run, false).await.len(), 3);
    let holding = v1::Holding { run: run.clone(), generation: 1, step: 4 };
    let mut worker = FakeWorker::join(&server, "alpha", Some(holding)).await;
    worker.progress(&training, fourth).await;
    let caught_up = server.wait_until(&run, "step 4", |run| run.step == 4).await;
    assert_eq!(caught_up.generation, 1, "no new generation was needed");
    for _ in 4..6 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    worker.finished(&training).await;
    server.wait_until(&run, "completion", |run| run.status == "completed").await;
    assert!(matches!(worker.next().await, None | Some(Directive::Release(_))));
    let report = server.runs().await.verify_ledger(v1::RunRequest { run }).await.unwrap().into_inner();
    assert!(report.ok, "{report:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicated_segment_does_not_pass_the_ledger() {
    let (_folder, server, run) = small_run(6).await;
    let (worker, mut training) = FakeWorker::trains(&server, "alpha", 1).await;
    let segments = training.compute();
    worker.progress(&training, segments.clone()).await;
    // The third step uses the samples of the second, and says so in its digest.
    training.step = 3;
    training.digest = training.digest.chain_samples(types::Step(3), &segments);
    worker.progress(&training, segments).await;
    server.wait_until(&run, "step 3", |run| run.step == 3).await;
    let (code, report, complaint) = server.command(&["ledger", "verify", &run, "--json"]).await;
    assert_eq!(code, 1);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["ok"], &report["duplicates"]), (&Value::Bool(false), &serde_json::json!(4)));
    assert!(complaint.contains("again"), "{complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_reported_shorter_than_they_are_pass_the_ledger_until_they_are_counted() {
    let (_folder, server, run) = small_run(2).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    let mut segments = training.compute();
    // All is as it should be, but that the units are said to be shorter by one.
    for segment in &mut segments {
        segment.total -= 1;
    }
    training.digest = types::Digest::default().chain_samples(types::Step(1), &segments);
    worker.progress(&training, segments).await;
    server.wait_until(&run, "step 1", |run| run.step == 1).await;
    let (code, text, complaint) = server.command(&["ledger", "verify", &run]).await;
    assert_eq!(code, 0, "{complaint}");
    assert!(text.contains("as the workers reported it") && text.contains("--deep"), "{text}");
    let (code, text, complaint) = server.command(&["ledger", "verify", &run, "--deep"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(complaint.contains("but its unit makes"), "{complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_a_run_at_work_holds() {
    const STEPS: u64 = 400;
    let (_folder, server, run) = small_run(STEPS).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    let (looked, may_end) = tokio::sync::oneshot::channel();
    let mut looked = Some(looked);
    let at_work = tokio::spawn(async move {
        for _ in 1..STEPS {
            worker.step(&mut training).await;
        }
        // However fast it was: somebody looks before it has done the last one.
        may_end.await.unwrap();
        worker.step(&mut training).await;
        worker
    });
    let mut verified = Vec::new();
    while verified.last() != Some(&STEPS) {
        let request = v1::RunRequest { run: run.clone() };
        let report = server.runs().await.verify_ledger(request).await.unwrap().into_inner();
        assert!(report.ok, "{report:?}");
        verified.push(report.steps);
        if report.steps > 0
            && let Some(looked) = looked.take()
        {
            looked.send(()).unwrap();
        }
    }
    assert!(verified.iter().any(|steps| (1..STEPS).contains(steps)), "it was looked at while at work: {verified:?}");
    at_work.await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_after_the_commit_is_kept() {
    let (_folder, server, run) = small_run(6).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    let segments = training.compute();
    let first = progress(&training, segments);
    worker.report(Report::Progress(first.clone())).await;
    server.wait_until(&run, "step 1", |run| run.step == 1).await;
    // The evaluation of that step had failed in a collective: it is done again, and the step is reported with it.
    let metric = |key: &str, value| v1::Metric { key: key.into(), value, step: 1, ..Default::default() };
    let again = v1::Progress { metrics: vec![metric("eval/loss", 2.25), metric("loss", 77.0)], ..first };
    worker.report(Report::Progress(again)).await;
    worker.step(&mut training).await;
    server.wait_until(&run, "step 2", |run| run.step == 2).await;
    let metrics = server.metrics(&run, false).await;
    let rows: Vec<(u32, u64, &str, f64)> =
        metrics.iter().map(|row| (row.attempt, row.step, row.key.as_str(), row.value)).collect();
    assert_eq!(rows, [(1, 1, "eval/loss", 2.25), (1, 1, "loss", 10.0), (1, 2, "loss", 5.0)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_superseded_state_measured_is_not_kept() {
    let (_folder, server, run) = small_run(6).await;
    let (alpha, training) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(alpha.checkpoint(&server, &training).await);
    drop(alpha);
    server.wait_until(&run, "the loss of its worker", |run| run.status == "interrupted").await;

    let mut beta = FakeWorker::join(&server, "beta", None).await;
    let assign = beta.assigned().await;
    assert_eq!((assign.attempt, assign.restore.as_ref().map(|at| at.step)), (2, Some(3)));
    let mut training = FakeTraining::restored(assign, 3);
    let segments = training.compute();
    let mut late = progress(&training, segments.clone());
    (late.generation, late.metrics[0].value) = (1, 99.0);
    beta.report(Report::Progress(late)).await;
    beta.progress(&training, segments).await;
    server.wait_until(&run, "step 4", |run| run.step == 4).await;
    let metrics = server.metrics(&run, false).await;
    assert_eq!(metrics.last().map(|row| (row.attempt, row.step, row.value)), Some((2, 4, 2.5)), "{metrics:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_read_is_not_an_empty_one() {
    let (_folder, server, run) = small_run(6).await;
    let (worker, training) = FakeWorker::trains(&server, "alpha", 3).await;
    assert!(worker.checkpoint(&server, &training).await);
    let saved = server.wait_until(&run, "the checkpoint", |run| !run.checkpoints.is_empty()).await;
    // Opening the manifest fails, which is another thing than that it is not there.
    let manifest = std::path::Path::new(&saved.checkpoints[0].path).join("manifest.json");
    let aside = manifest.with_extension("aside");
    std::fs::rename(&manifest, &aside).unwrap();
    std::os::unix::fs::symlink(&manifest, &manifest).unwrap();
    drop(worker);
    server.wait_until(&run, "the loss of its worker", |run| run.status == "interrupted").await;
    let mut worker = FakeWorker::join(&server, "beta", None).await;
    let told = |run: &v1::Run| run.events.iter().any(|event| event.text.contains("trying again"));
    let waiting = server.wait_until(&run, "the note of it", told).await;
    assert_eq!((waiting.status.as_str(), waiting.step, waiting.attempt), ("interrupted", 3, 1));

    std::fs::rename(&aside, &manifest).unwrap();
    let assign = worker.assigned().await;
    assert_eq!((assign.attempt, assign.restore.as_ref().map(|at| at.step)), (2, Some(3)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_says_what_the_slots_used_and_all_hear_when_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let pair = config(folder.path(), 6).replace("[run]", "[run]\nmin_workers = 2");
    let run = server.submit(&pair).await;
    let mut alpha = FakeWorker::join(&server, "alpha", None).await;
    let mut beta = FakeWorker::join(&server, "beta", None).await;
    let (mut training, assigned) = (FakeTraining::new(alpha.assigned().await), beta.assigned().await);
    let segments = training.compute();
    let whole = progress(&training, segments);
    let evaluation = v1::Metric { key: "eval/loss".to_owned(), ..whole.metrics[0].clone() };
    let first = v1::Progress { segments: Vec::new(), metrics: vec![evaluation], ..whole.clone() };
    assert_eq!(first.generation, assigned.generation);
    beta.report(Report::Progress(first)).await;
    alpha.report(Report::Progress(whole)).await;
    for worker in [&mut alpha, &mut beta] {
        match worker.news().await {
            Some(Directive::Committed(told)) => assert_eq!((told.run, told.attempt, told.step), (run.clone(), 1, 1)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.show(&run).await.step, 1, "durable before anybody was told");
    let mut keys: Vec<String> = server.metrics(&run, false).await.into_iter().map(|row| row.key).collect();
    keys.sort();
    assert!(keys.contains(&"eval/loss".to_owned()) && keys.len() >= 2, "both members' metrics count: {keys:?}");
    server.stop().await;
}
