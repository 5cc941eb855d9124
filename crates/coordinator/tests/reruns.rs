//! Runs of one name: which of them a reference to a checkpoint means.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use proto::v1;
use support::{FakeTraining, FakeWorker, config, small_run};

/// What another run can start from.
fn model(training: &FakeTraining) -> [(&'static str, Vec<u8>); 3] {
    let config = ::config::parse("assigned", &training.assign.config).unwrap();
    let tokenizer = corpus::Tokenizer::open(&config.tokenizer).unwrap();
    let shape = br#"{"model_type": "modernbert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}"#;
    [
        ("model.safetensors", b"weights".to_vec()),
        ("config.json", shape.to_vec()),
        ("tokenizer.json", tokenizer.bytes().to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_without_a_checkpoint_does_not_hide_the_run_before() {
    let (folder, server, good) = small_run(9).await;
    let (worker, training) = FakeWorker::trains(&server, "alpha", 3).await;
    server.wait_until(&good, "step 3", |run| run.step == 3).await;
    assert!(worker.save(&server, &training, &model(&training)).await);
    let rerun = server.submit(&config(folder.path(), 9)).await;
    let (code, _, complaint) = server.command(&["runs", "cancel", &rerun]).await;
    assert_eq!(code, 0, "{complaint}");
    assert_eq!(server.show("small").await.id, rerun, "where no checkpoint is wanted the newest is meant");

    let mut checkpoints = server.checkpoints().await;
    let request = v1::ListCheckpointsRequest { run: "small".to_owned() };
    let listed = checkpoints.list(request).await.unwrap().into_inner();
    assert_eq!((&listed.run, listed.checkpoints.len()), (&good, 1));
    let note = format!(
        "run {good} is taken; a newer run of the name `small`, {rerun}, is cancelled and has no checkpoint to take"
    );
    assert_eq!(listed.note, note);
    let reference = v1::CheckpointRef { run: "small".to_owned(), generation: 0, step: 3 };
    let manifest = checkpoints.manifest(reference).await.unwrap().into_inner();
    assert_eq!(manifest.checkpoint.unwrap().run, good);
    // By its id it is meant, and nothing else.
    let request = v1::ListCheckpointsRequest { run: rerun.clone() };
    let listed = checkpoints.list(request).await.unwrap().into_inner();
    assert_eq!((listed.run, listed.checkpoints.len(), listed.note), (rerun.clone(), 0, String::new()));

    let starts_from = |run: &str| {
        let text = config(folder.path(), 9).replace("\"small\"", "\"tuned\"");
        format!("{text}\n[init]\nfrom = \"run:{run}\"\n")
    };
    for (named, warnings) in [("small", vec![format!("`init.from` = `run:small`: {note}")]), (good.as_str(), vec![])] {
        let request = v1::SubmitRequest { config: starts_from(named) };
        let answer = server.runs().await.submit(request).await.unwrap().into_inner();
        assert_eq!(answer.warnings, warnings);
        assert_eq!(server.show(&answer.run).await.parent.map(|parent| parent.run), Some(good.clone()));
    }
    // Whoever names the rerun itself is told.
    let request = v1::SubmitRequest { config: starts_from(&rerun) };
    let refused = server.runs().await.submit(request).await.unwrap_err();
    let told = format!("run {rerun} has no good checkpoint: it was cancelled at step 0\n");
    assert!(refused.message().contains(&told), "{}", refused.message());
    let waits = server.submit(&config(folder.path(), 9)).await;
    let request = v1::SubmitRequest { config: starts_from(&waits) };
    let refused = server.runs().await.submit(request).await.unwrap_err();
    assert!(refused.message().contains(&format!("run {waits} has no good checkpoint yet")), "{}", refused.message());
    server.stop().await;
}
