//! Commands as scripts and people use them: exit codes, what is on which stream, and what is in it.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{FakeTraining, FakeWorker, Server, config, output, write_corpus};

/// Without a coordinator.
async fn coordinator(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(arguments).current_dir(folder).env("XDG_DATA_HOME", folder);
    command.env_remove("TRIREME_COORDINATOR").env_remove("TRIREME_TOKEN");
    output(command).await
}

/// A folder with a corpus and a run of six steps in run.toml.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    std::fs::write(folder.path().join("run.toml"), config(folder.path(), 6)).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_validated_and_its_schema_printed() {
    let folder = folder();
    let (code, toml, told) = coordinator(folder.path(), &["config", "validate", "run.toml"]).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("run.toml is a valid config"), "{told}");
    // Defaults are written out, and the result is a config again.
    assert!(toml.contains("[schedule]") && toml.contains("seed = 42"), "{toml}");
    std::fs::write(folder.path().join("resolved.toml"), &toml).unwrap();
    let (code, again, _) = coordinator(folder.path(), &["config", "validate", "resolved.toml"]).await;
    assert_eq!((code, again), (0, toml));

    let set = ["config", "validate", "run.toml", "--json", "--set", "run.steps=9"];
    let (code, resolved, told) = coordinator(folder.path(), &set).await;
    assert_eq!((code, told.as_str()), (0, ""));
    let resolved: Value = serde_json::from_str(&resolved).unwrap();
    assert_eq!((&resolved["run"]["steps"], &resolved["run"]["seed"]), (&json!(9), &json!(42)));

    let line = 1 + config(folder.path(), 6).lines().position(|line| line.contains("micro_batch")).unwrap();
    let text = config(folder.path(), 6).replace("micro_batch = 2", "micro_batch = 0");
    std::fs::write(folder.path().join("wrong.toml"), text).unwrap();
    let (code, out, told) = coordinator(folder.path(), &["config", "validate", "wrong.toml", "--json"]).await;
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(told.contains(&format!("wrong.toml:{line}:9: `batch.micro_batch`: is 0")), "{told}");
    let set = ["config", "validate", "run.toml", "--set", "run.steps=many"];
    let (code, _, told) = coordinator(folder.path(), &set).await;
    assert_eq!(code, 5);
    assert!(told.contains("--set run.steps=\"many\": `run.steps`: ") && !told.contains("run.toml:"), "{told}");

    let (code, schema, _) = coordinator(folder.path(), &["config", "schema"]).await;
    assert_eq!((code, serde_json::from_str::<Value>(&schema).unwrap()), (0, ::config::json_schema()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_is_suggested() {
    let folder = folder();
    let suggest = ["recipe", "suggest", "--minutes", "10", "--workers", "3", "--threads", "2"];
    let (code, toml, told) = coordinator(folder.path(), &suggest).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("is an estimate"), "{told}");
    std::fs::write(folder.path().join("suggested.toml"), &toml).unwrap();
    let (code, _, told) = coordinator(folder.path(), &["config", "validate", "suggested.toml"]).await;
    assert_eq!(code, 0, "{told}");

    // Paths are as the shell sees them, wherever the file lies.
    std::fs::create_dir(folder.path().join("runs")).unwrap();
    let mut with_data = suggest.to_vec();
    with_data.extend(["--data", "corpus.parquet", "--model-size", "mini", "--tokens-per-second", "9000"]);
    with_data.retain(|argument| !["--threads", "2"].contains(argument));
    with_data.extend(["--out", "runs/mini.toml", "--json"]);
    let (code, out, told) = coordinator(folder.path(), &with_data).await;
    assert_eq!(code, 0, "{told}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&out["size"], &out["estimated"]), (&json!("mini"), &json!(false)));
    let file = folder.path().join("runs/mini.toml");
    let written = ::config::load(&file, &[]).unwrap();
    let corpus = folder.path().canonicalize().unwrap().join("corpus.parquet");
    assert_eq!(Path::new(&written.data.paths[0]).parent().unwrap().canonicalize().unwrap(), corpus.parent().unwrap());
    assert_eq!(json!(written.run.steps), out["steps"]);

    // A file that is there stays, and numbers that cannot be are named.
    let before = std::fs::read_to_string(&file).unwrap();
    let (code, out, told) = coordinator(folder.path(), &with_data).await;
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(told.contains("runs/mini.toml is there already"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let (code, _, told) = coordinator(folder.path(), &["recipe", "suggest", "--minutes", "0"]).await;
    assert_eq!(code, 5);
    assert!(told.contains("the minutes must be above 0"), "{told}");
    let (code, _, told) =
        coordinator(folder.path(), &["recipe", "suggest", "--minutes", "1", "--model-size", "large"]).await;
    assert_eq!(code, 2);
    assert!(told.contains("tiny, mini, small, base"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corpus_is_inspected_and_its_plan_shown() {
    let folder = folder();
    let (code, table, told) = coordinator(folder.path(), &["data", "inspect", "corpus.jsonl"]).await;
    assert_eq!((code, told.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["FILE", "SIZE", "ROW", "GROUPS", "ROWS", "USE"]);
    assert_eq!(lines.len(), 2);
    assert!(lines[1][0].ends_with("corpus.jsonl") && lines[1].ends_with(&["240", "training"]), "{table}");

    let (code, plan, told) = coordinator(folder.path(), &["data", "plan", "run.toml", "--json"]).await;
    assert_eq!(code, 0, "{told}");
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let (units, held_out) = (plan["units"].as_u64().unwrap(), plan["held_out_units"].as_u64().unwrap());
    assert_eq!((units + held_out, &plan["slots"], &plan["samples_per_step"]), (15, &json!(2), &json!(4)));
    assert_eq!(plan["rows"], 16 * units);
    assert_eq!(plan["deal"].as_array().unwrap().len() as u64, units);
    let estimate = |key: &str| plan[key].as_u64().unwrap();
    assert!(estimate("samples_estimate") > 0);
    assert_eq!(estimate("tokens_estimate"), 16 * estimate("samples_estimate"), "packed blocks are full: {plan}");
    let (code, text, _) = coordinator(folder.path(), &["data", "plan", "run.toml"]).await;
    assert_eq!(code, 0);
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (units, held_out) = (counted(units, "unit"), counted(held_out, "unit"));
    let first = format!("1 file, {} rows in {units} for training, {held_out} held out, 2 slots", plan["rows"]);
    assert_eq!(text.lines().next(), Some(first.as_str()), "{text}");
    let samples = format!("about {} samples and {} tokens an epoch", plan["samples_estimate"], plan["tokens_estimate"]);
    assert!(text.contains(&samples) && text.contains("SLOT  TURN  FILE"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_of_empty_rows_does_not_hide_the_others() {
    let folder = folder();
    let text = std::fs::read_to_string(folder.path().join("corpus.jsonl")).unwrap();
    // Every second unit of 16 rows.
    let lines = text.lines().enumerate().map(|(row, line)| if row / 16 % 2 == 1 { "{\"text\": \"\"}" } else { line });
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path().join("corpus.jsonl"), lines).unwrap();
    let mut began_empty = false;
    for seed in 1..7 {
        let seed = format!("run.seed={seed}");
        let set = ["data", "plan", "run.toml", "--json", "--set", &seed, "--set", "data.eval_fraction=0"];
        let (code, plan, told) = coordinator(folder.path(), &set).await;
        assert_eq!(code, 0, "{told}");
        let plan: Value = serde_json::from_str(&plan).unwrap();
        assert!(plan["samples_estimate"].as_u64() > Some(0) && plan["tokens_estimate"].as_u64() > Some(0), "{plan}");
        began_empty |= plan["deal"][0]["first_row"].as_u64().unwrap() / 16 % 2 == 1;
    }
    assert!(began_empty, "no seed tries what this is about");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vocabulary_is_trained_that_a_run_can_use() {
    let folder = folder();
    let train = ["tokenizer", "train", "--data", "corpus.jsonl", "--vocabulary", "40", "--lowercase", "--out", "made"];
    let (code, path, told) = coordinator(folder.path(), &train).await;
    assert_eq!(code, 0, "{told}");
    assert_eq!(path.trim(), "made/tokenizer.json");
    assert!(told.contains("tokens; use it with `tokenizer.path`"), "{told}");
    let words = std::fs::read_to_string(folder.path().join("made/vocab.txt")).unwrap();
    assert!(words.starts_with("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n") && words.lines().count() <= 40, "{words}");
    // Another one is not mixed with it: its files go away where they are not written anew, and nothing else does.
    let (code, out, told) = coordinator(folder.path(), &train).await;
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(told.contains("made: the folder is not empty") && told.contains("--overwrite"), "{told}");
    std::fs::write(folder.path().join("made/merges.txt"), "old").unwrap();
    std::fs::write(folder.path().join("made/notes.txt"), "mine").unwrap();
    let (code, made, told) = coordinator(folder.path(), &[&train[..], &["--overwrite", "--json"]].concat()).await;
    assert_eq!(code, 0, "{told}");
    let is_there = |name: &str| folder.path().join("made").join(name).exists();
    assert_eq!(["vocab.txt", "merges.txt", "notes.txt"].map(is_there), [true, false, true]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["removed"], told.as_str()), (&json!(["merges.txt", "tokenizer.json", "vocab.txt"]), ""));
    assert_eq!((&made["path"], &made["vocabulary"]), (&json!("made/tokenizer.json"), &json!(words.lines().count())));
    let set = ["data", "plan", "run.toml", "--set", "tokenizer.path=made/tokenizer.json"];
    let (code, _, told) = coordinator(folder.path(), &set).await;
    assert_eq!(code, 0, "{told}");

    // The other way round: vocab.txt goes, and vocab.json comes.
    let byte_level = ["tokenizer", "train", "--data", "corpus.jsonl", "--model", "byte-level-bpe"];
    let byte_level = [&byte_level[..], &["--vocabulary", "300", "--out", "made", "--overwrite"]].concat();
    let (code, _, told) = coordinator(folder.path(), &byte_level).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("removed of what was there: tokenizer.json, vocab.txt\n"), "{told}");
    let names = ["vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "notes.txt"];
    assert_eq!(names.map(is_there), [false, true, true, true, true]);
    let (code, _, told) = coordinator(folder.path(), &[&byte_level[..], &["--lowercase"]].concat()).await;
    assert_eq!(code, 2, "arguments that do not go together: {told}");
    assert!(told.contains("--lowercase is for --model word-piece"), "{told}");
    let (code, _, told) = coordinator(folder.path(), &["runs", "list", "--coordinator", "notanaddress"]).await;
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("`notanaddress` is no address"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_get_their_completions() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, told) = coordinator(folder.path(), &["completions", shell]).await;
        assert_eq!((code, told.as_str()), (0, ""));
        assert!(script.contains("coordinator") && script.contains("checkpoints"), "{shell}: {script}");
    }
    assert_eq!(coordinator(folder.path(), &["completions", "tcsh"]).await.0, 2);
}

/// `submit run.toml --wait`, and what a worker does once the run is there.
async fn waits(server: &Server, more: &[&str]) -> tokio::task::JoinHandle<(i32, String, String)> {
    let file = server.folder.parent().unwrap().join("run.toml").display().to_string();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(["submit", &file, "--wait"]).args(more);
    command.env("TRIREME_COORDINATOR", &server.address).env("TRIREME_TOKEN", &server.token);
    tokio::spawn(output(command))
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_run_ends_with_0_only_if_it_completed() {
    let folder = folder();
    let server = Server::start(&folder.path().join("data")).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let waiting = waits(&server, &["--json"]).await;
    let mut training = FakeTraining::new(worker.assigned().await);
    for _ in 0..6 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    worker.finished(&training).await;
    let (code, out, told) = waiting.await.unwrap();
    assert_eq!(code, 0, "{told}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert_eq!(lines[0], json!({"run": training.assign.run, "warnings": []}));
    let metrics = ["metrics", &training.assign.run, "--json", "--key", "loss", "--key", "los"];
    let (code, rows, told) = server.command(&metrics).await;
    assert!(code == 0 && rows.contains("\"loss\""), "{rows}{told}");
    assert!(told.contains("has no value of los;"), "a key that is mistyped is told of: {told}");
    let shown = server.command(&["runs", "show", &training.assign.run, "--json"]).await.1;
    let mut shown: Value = serde_json::from_str(&shown).unwrap();
    for key in ["id", "status", "step", "weights_digest", "checkpoints"] {
        assert_eq!(lines[1][key], shown[key].take(), "{key}");
    }
    assert_eq!((&lines[1]["status"], &lines[1]["step"]), (&json!("completed"), &json!(6)));

    let (code, listed, _) = server.command(&["checkpoints", "list", "small", "--json"]).await;
    assert_eq!(code, 0);
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["step"], &listed[0]["eval_loss"]), (&json!(6), &json!(2.5)));
    for key in ["generation", "path", "bytes", "verified"] {
        assert!(listed[0].get(key).is_some(), "{key}: {listed:?}");
    }
    let (_, table, _) = server.command(&["checkpoints", "list", "small"]).await;
    assert!(table.starts_with("STEP  GENERATION  SIZE"), "{table}");

    // One that is cancelled before anybody trains it. For people: the id, lines of progress, and why.
    let waiting = waits(&server, &["--set", "run.min_workers=2"]).await;
    let queued = loop {
        let runs = server.command(&["runs", "list", "--json"]).await.1;
        let mut runs = runs.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(run) = runs.find(|run| run["status"] == "queued") {
            break run["id"].as_str().unwrap().to_owned();
        }
    };
    let (code, _, told) = server.command(&["runs", "cancel", &queued]).await;
    assert_eq!(code, 0, "{told}");
    let (code, out, told) = waiting.await.unwrap();
    assert_eq!(code, 1, "{out}{told}");
    assert_eq!(out.lines().next(), Some(queued.as_str()));
    assert!(told.contains(&format!("run {queued} was cancelled at step 0")), "{told}");
    assert!(told.contains(&format!("`coordinator runs resume {queued}` starts it again")), "{told}");
    assert_eq!(format!("{out}{told}").matches("cancelled").count(), 1, "{out}{told}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slip_would_cost_is_refused() {
    let folder = folder();
    std::fs::write(folder.path().join("a.txt"), "a text").unwrap();
    for (out, told) in [("a.txt", "what is written is Parquet"), ("./a", "what is written is Parquet")] {
        let (code, _, complaint) = coordinator(folder.path(), &["data", "import", "a.txt", "--out", out]).await;
        assert_eq!(code, 5, "{complaint}");
        assert!(complaint.contains(told) && complaint.contains("ends in .parquet"), "{complaint}");
    }
    let (code, _, complaint) = coordinator(folder.path(), &["data", "import", "a.txt", "--out", "no/a.parquet"]).await;
    assert!(
        code == 1 && complaint.contains("no/a.parquet"),
        "what cannot be written is no bad input: {code}: {complaint}"
    );
    std::fs::rename(folder.path().join("a.txt"), folder.path().join("a.parquet")).unwrap();
    let import = ["data", "import", "a.parquet", "--out", "./a.parquet"];
    let (code, _, complaint) = coordinator(folder.path(), &import).await;
    assert!(code == 5 && complaint.contains("it is one of the files to be read"), "{code}: {complaint}");
    assert_eq!(std::fs::read_to_string(folder.path().join("a.parquet")).unwrap(), "a text");

    for name in ["rows.jsonl", "squad.json", "rows.CSV", "rows.tsv", "tags.conll", "rows.parquet"] {
        std::fs::write(folder.path().join(name), "a text").unwrap();
        let import = ["data", "import", name, "--out", "corpus.parquet"];
        let (code, _, complaint) = coordinator(folder.path(), &import).await;
        assert_eq!(code, 5, "{complaint}");
        assert!(complaint.contains(&format!("{name} is no plain text by its ending")), "{complaint}");
        assert!(complaint.contains("`data.paths`"), "{complaint}");
    }
    assert!(!folder.path().join("corpus.parquet").exists());

    let vary = ["sweep", "submit", "run.toml", "--vary", "run.seed=1,"];
    let (code, _, complaint) = coordinator(folder.path(), &vary).await;
    assert!(code == 2 && complaint.contains("one of the values of `run.seed` is empty"), "{code}: {complaint}");
    let vary = ["sweep", "submit", "run.toml", "--vary", "run.seed=1", "--vary", "run.seed=2,3"];
    let (code, _, complaint) = coordinator(folder.path(), &vary).await;
    assert!(code == 2 && complaint.contains("--vary run.seed is given twice"), "{code}: {complaint}");
    assert!(complaint.contains("--vary run.seed=VALUE,VALUE"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_refused_where_the_run_would_be() {
    let folder = folder();
    let row = |label: &str| format!("{{\"text\": \"ship oar sea\", \"label\": {label}}}\n");
    std::fs::write(folder.path().join("l.jsonl"), [row("\"a\""), row("\"b\"")].concat().repeat(40)).unwrap();
    std::fs::write(folder.path().join("m.jsonl"), row("null")).unwrap();
    let labelled = config(folder.path(), 6)
        .replace("\"pretrain\"", "\"finetune\"")
        .replace("corpus.jsonl", "l.jsonl")
        .replace("unit_rows = 16", "label_column = \"label\"")
        .replace("\"mlm\"", "\"classify\"");
    std::fs::write(folder.path().join("run.toml"), labelled).unwrap();
    let (code, _, complaint) = coordinator(folder.path(), &["data", "plan", "run.toml"]).await;
    assert_eq!(code, 0, "{complaint}");
    let unmeasured = ["data", "plan", "run.toml", "--set", "data.eval_paths=[\"m.jsonl\"]"];
    let (code, _, complaint) = coordinator(folder.path(), &unmeasured).await;
    assert!(code == 5 && complaint.contains("all others of `data.eval_paths` (1)"), "{code}: {complaint}");
}
