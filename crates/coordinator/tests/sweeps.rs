//! Sweeps: all of their runs are queued or none, and what completed is compared.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use proto::v1;
use proto::v1::worker_message::Kind as Report;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use support::{FakeTraining, FakeWorker, Server, config, progress, write_corpus};

/// Two learning rates, each with two seeds, of three steps.
fn sweep_config(folder: &Path, steps: u64) -> String {
    format!(
        "{}\n[sweep]\nseeds = 2\nmetric = \"eval/accuracy\"\n[sweep.vary]\noptimizer.learning_rate = [1e-3, 1e-4]\n",
        config(folder, steps)
    )
}

async fn sweeps(server: &Server) -> v1::sweeps_client::SweepsClient<support::Authenticated> {
    v1::sweeps_client::SweepsClient::new(server.channel(Some(&server.token)).await)
}

/// Trains the next run to its end; the last step has this held-out accuracy.
async fn complete(server: &Server, worker: &mut FakeWorker, accuracy: f64) -> String {
    let mut training = FakeTraining::new(worker.assigned_at_last().await);
    let run = training.assign.run.clone();
    for step in 1..=3 {
        let segments = training.compute();
        let mut report = progress(&training, segments);
        if step == 3 {
            let key = "eval/accuracy".to_owned();
            report.metrics.push(v1::Metric { attempt: 0, step, key, value: accuracy, time_ms: 1 });
        }
        worker.report(Report::Progress(report)).await;
    }
    assert!(worker.checkpoint(server, &training).await);
    worker.finished(&training).await;
    server.wait_until(&run, "completion", |run| run.status == "completed").await;
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn what_completed_is_compared_and_what_failed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let file = folder.path().join("sweep.toml");
    std::fs::write(&file, sweep_config(folder.path(), 3)).unwrap();
    let file = file.to_str().unwrap();
    let (code, told, complaint) = server.command(&["sweep", "submit", file, "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["sweep"], &told["known"]), (&"small".into(), &false.into()));
    let runs: Vec<String> =
        told["runs"].as_array().unwrap().iter().map(|run| run.as_str().unwrap().to_owned()).collect();
    assert_eq!(runs.len(), 4);
    let names: Vec<String> = server
        .runs()
        .await
        .list(v1::ListRunsRequest {})
        .await
        .unwrap()
        .into_inner()
        .runs
        .into_iter()
        .map(|run| run.name)
        .collect();
    assert_eq!(names, ["small-c0-s42", "small-c0-s43", "small-c1-s42", "small-c1-s43"]);
    let lineage = server.show(&runs[2]).await;
    assert_eq!(lineage.sweep, "small");
    assert!(
        lineage.config.contains("learning_rate = 0.0001") && !lineage.config.contains("[sweep]"),
        "{}",
        lineage.config
    );

    // The same again changes nothing, `coordinator submit` knows a sweep too, and another config needs another name.
    for command in [&["sweep", "submit", file, "--json"][..], &["submit", file, "--json"]] {
        let (code, again, complaint) = server.command(command).await;
        assert_eq!(code, 0, "{complaint}");
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!((&again["known"], &again["runs"]), (&true.into(), &told["runs"]));
    }
    let (code, _, complaint) = server.command(&["sweep", "submit", file, "--seeds", "3"]).await;
    assert_eq!(code, 1, "{complaint}");
    assert!(complaint.contains("sweep `small` with another config") && complaint.contains("run.name"), "{complaint}");
    let (code, _, complaint) =
        server.command(&["sweep", "submit", file, "--set", "run.name=other", "--vary", "run.steps=1,0"]).await;
    assert_eq!(code, 5, "{complaint}");
    assert!(complaint.contains("run.steps = 0: `run.steps`: is 0"), "{complaint}");
    // As a single run it is refused, whoever sends it.
    let request = v1::SubmitRequest { config: sweep_config(folder.path(), 3) };
    let refused = server.runs().await.submit(request).await.unwrap_err();
    assert!(refused.message().contains("sweep submit"), "{}", refused.message());

    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    assert_eq!(complete(&server, &mut worker, 0.5).await, runs[0]);
    assert_eq!(complete(&server, &mut worker, 0.7).await, runs[1]);
    let shown = sweeps(&server).await.show(v1::SweepRequest { name: "small".into() }).await.unwrap().into_inner();
    assert_eq!(shown.best, Some(0), "of those that completed");
    assert_eq!(complete(&server, &mut worker, 0.9).await, runs[2]);
    let assign = worker.assigned_at_last().await;
    assert_eq!(assign.run, runs[3]);
    let failed = v1::RunFailed {
        run: assign.run.clone(),
        generation: assign.generation,
        reason: "corpus.jsonl, row 3: no text".to_owned(),
    };
    worker.report(Report::RunFailed(failed)).await;
    server.wait_until(&runs[3], "the failure", |run| run.status == "failed").await;

    let (code, shown, complaint) = server.command(&["sweep", "status", "small", "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["best"], &shown["metric"]), (&1.into(), &"eval/accuracy".into()));
    let first = &shown["combinations"][0];
    assert_eq!((&first["settings"]["optimizer.learning_rate"], &first["completed"]), (&"0.001".into(), &2.into()));
    let accuracy = &first["metrics"]["eval/accuracy"];
    assert_eq!(accuracy["n"], 2);
    assert!((accuracy["mean"].as_f64().unwrap() - 0.6).abs() < 1e-12);
    assert!((accuracy["deviation"].as_f64().unwrap() - 0.02_f64.sqrt()).abs() < 1e-12, "{accuracy}");
    let second = &shown["combinations"][1];
    assert_eq!((&second["runs"], &second["completed"], &second["best"]), (&2.into(), &1.into(), &true.into()));
    assert_eq!(second["metrics"]["eval/accuracy"]["deviation"], Value::Null);
    assert_eq!((&shown["runs"][3]["status"], &shown["runs"][3]["seed"]), (&"failed".into(), &43.into()));
    let (_, text, _) = server.command(&["sweep", "show", "small"]).await;
    assert!(text.contains("small-c1-s43 failed and is not counted: ") && text.contains("row 3: no text"), "{text}");
    assert!(text.contains("0.6000  ± 0.1414") && text.contains("best"), "{text}");
    let (_, listed, _) = server.command(&["sweep", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["statuses"], serde_json::json!({"completed": 3, "failed": 1}));
    let (code, _, complaint) = server.command(&["sweep", "show", "none"]).await;
    assert!(code == 1 && complaint.contains("there is no sweep `none`"), "{code} {complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_cancel_a_sweep_cancels_its_runs() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let data = folder.path().join("data");
    let server = Server::start(&data).await;
    let single = server.submit(&config(folder.path(), 3)).await;
    let request = v1::SubmitSweepRequest { config: sweep_config(folder.path(), 3) };
    let runs = sweeps(&server).await.submit(request).await.unwrap().into_inner().runs;
    let (code, _, told) = server.command(&["runs", "cancel", &runs[0].run]).await;
    assert_eq!(code, 0, "{told}");
    let (code, _, told) = server.command(&["sweep", "cancel", "small"]).await;
    assert_eq!((code, told.trim()), (0, "cancelled 3 of the 4 runs of sweep small"));
    // Whoever waits for it hears how it ended, also who is not the first to submit it.
    let file = folder.path().join("sweep.toml");
    std::fs::write(&file, sweep_config(folder.path(), 3)).unwrap();
    let (code, out, told) = server.command(&["sweep", "submit", file.to_str().unwrap(), "--wait"]).await;
    assert!(code == 1 && out.contains("COMBINATION"), "{code} {out}{told}");
    for said in [
        "was there already, with 4 runs\n",
        "sweep small: 4 of 4 runs done (4 cancelled)\n",
        "sweep small: 4 of 4 runs did not complete (4 cancelled)\n",
    ] {
        assert_eq!(told.matches(said).count(), 1, "{told}");
    }
    // As of a run that has ended.
    let (code, out, told) = server.command(&["sweep", "cancel", "small", "--json"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(told.contains("sweep `small` has already ended") && told.contains("sweep show small"), "{told}");
    server.stop().await;
    // Durable, and nothing else was touched.
    let server = Server::start(&data).await;
    let shown = sweeps(&server).await.show(v1::SweepRequest { name: "small".into() }).await.unwrap().into_inner();
    let statuses: Vec<&str> = shown.runs.iter().map(|run| run.status.as_str()).collect();
    assert_eq!(statuses, ["cancelled"; 4]);
    assert_eq!((shown.best, server.show(&single).await.status.as_str()), (None, "queued"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_about_the_data_is_told_once_for_all_runs() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let row = |row: usize| format!("{{\"text\": \"ship oar sea\", \"label\": \"{}\"}}\n", ["sea", "land"][row % 2]);
    std::fs::write(folder.path().join("labelled.jsonl"), (0..240).map(row).collect::<String>()).unwrap();
    let text = sweep_config(folder.path(), 3)
        .replace("\"pretrain\"", "\"finetune\"")
        .replace("corpus.jsonl", "labelled.jsonl")
        .replace("unit_rows = 16", "unit_rows = 16\nlabel_column = \"label\"")
        .replace("\"mlm\"", "\"classify\"\nlabels = [\"sea\", \"land\", \"spare\"]");
    let file = folder.path().join("sweep.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let (code, told, complaint) = server.command(&["sweep", "submit", file, "--json"]).await;
    assert_eq!(code, 0, "{complaint}");
    let warning = "no row of the training data has the label `spare`, so it cannot be learned";
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["warnings"], serde_json::json!([warning]));
    let (code, told, complaint) = server.command(&["sweep", "submit", file, "--set", "run.name=again"]).await;
    assert_eq!((code, told.trim()), (0, "again"), "{complaint}");
    assert_eq!(complaint.matches(&format!("warning: {warning}")).count(), 1, "{complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_device_has_checked_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let file = folder.path().join("run.toml");
    std::fs::write(&file, config(folder.path(), 3)).unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let warning = "warning: `run.cuda_graphs` has been checked on no device";
    let (code, _, complaint) = server.command(&["submit", file]).await;
    assert!(code == 0 && !complaint.contains("warning"), "{code}: {complaint}");
    let (code, _, complaint) = server.command(&["submit", file, "--set", "run.cuda_graphs=true"]).await;
    assert!(code == 0 && complaint.contains(warning), "{code}: {complaint}");
    let sweep = ["sweep", "submit", file, "--seeds", "2", "--set", "run.cuda_graphs=true"];
    let (code, _, complaint) = server.command(&sweep).await;
    assert_eq!((code, complaint.matches(warning).count()), (0, 1), "{complaint}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_show_the_model_that_they_inherit() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let shape =
        r#"{"model_type": "distilbert", "n_layers": 2, "dim": 24, "n_heads": 3, "hidden_dim": 40, "vocab_size": 16}"#;
    std::fs::write(other.join("config.json"), shape).unwrap();
    std::fs::write(other.join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let mut text = config(folder.path(), 3);
    for chosen in ["[model]", "architecture = \"modern\"", "layers = 1", "hidden = 16", "heads = 2"] {
        text = text.replace(chosen, "");
    }
    text += &format!("\n[init]\nfrom = \"hf:{}\"\n", other.display());
    let file = folder.path().join("run.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let (code, _, complaint) = server.command(&["submit", file]).await;
    assert_eq!(code, 0, "{complaint}");
    let (code, _, complaint) = server.command(&["sweep", "submit", file, "--seeds", "2"]).await;
    assert_eq!(code, 0, "{complaint}");
    // The second seed is not looked at again.
    for run in ["small", "small-s42", "small-s43"] {
        let (_, shown, _) = server.command(&["runs", "show", run, "--json"]).await;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let told = ::config::parse(run, shown["config"].as_str().unwrap()).unwrap().check(run).unwrap();
        assert_eq!(told.model.architecture, ::config::Architecture::Distilbert, "{run}");
        let shape = told.model.shape(8, 8);
        let sizes =
            [shape.layers, shape.hidden, shape.heads, shape.intermediate, shape.vocabulary, shape.max_positions];
        assert_eq!(sizes, [2, 24, 3, 40, 16, 512], "{run}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_the_whole_sweep_or_none_of_it() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let data = folder.path().join("data");
    let mut known: Vec<String> = Vec::new();
    for round in 0..10_u64 {
        let server = Server::spawn(&data, &[], &[]).await;
        let text = sweep_config(folder.path(), 3).replace("\"small\"", &format!("\"sweep-{round}\""));
        let mut client = sweeps(&server).await;
        let request = v1::SubmitSweepRequest { config: text.clone() };
        let answer = tokio::spawn(async move { client.submit(request).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(8 * round)).await;
        server.stop().await;
        if answer.await.unwrap() {
            known.push(format!("sweep-{round}"));
        }

        let server = Server::spawn(&data, &[], &[]).await;
        let listed = sweeps(&server).await.list(v1::ListSweepsRequest {}).await.unwrap().into_inner().sweeps;
        for name in &known {
            assert!(listed.iter().any(|sweep| sweep.name == *name), "round {round}: {name} was acknowledged");
        }
        assert!(listed.iter().all(|sweep| sweep.runs.len() == 4), "round {round}: {listed:#?}");
        let runs = server.runs().await.list(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
        assert_eq!(runs.len(), 4 * listed.len(), "round {round}: no run without its sweep");
        // Whoever heard no answer sends it again: there is one such sweep in the end.
        let request = v1::SubmitSweepRequest { config: text };
        let again = sweeps(&server).await.submit(request).await.unwrap().into_inner();
        assert_eq!((again.runs.len(), again.known), (4, listed.iter().any(|sweep| sweep.name == again.name)));
        known.push(again.name);
        server.stop().await;
    }
}
