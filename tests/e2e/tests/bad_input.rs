//! What a person reads when something is wrong: what, where, and what to do; and nothing is lost or half-written.

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use e2e::{Cluster, Output, SLOW, text_parquet};
use parquet::arrow::ArrowWriter;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Submits with overrides that must be refused with exit code 5; nothing may be left behind.
#[track_caller]
fn refused(cluster: &Cluster, overrides: &[&str], says: &[&str]) {
    let config = cluster.config();
    let mut command = cluster.command("coordinator");
    command.arg("submit").arg(config);
    for set in overrides {
        command.args(["--set", set]);
    }
    Output::of(&mut command).expect_code(5).says(says);
    let runs = cluster.coordinator(&["runs", "list", "--json"]).expect_code(0);
    assert_eq!(runs.stdout.trim(), "", "a refused run leaves nothing");
}

fn paths(path: &Path) -> String {
    format!("data.paths=[\"{}\"]", path.display())
}

#[test]
fn a_corpus_that_cannot_be_used_is_refused() {
    let cluster = Cluster::start();
    let missing = cluster.path("missing.parquet");
    refused(&cluster, &[&paths(&missing)], &[missing.to_str().unwrap(), "no such file", "help: check the spelling"]);

    let text = cluster.corpus.text.clone();
    let name = text.to_str().unwrap();
    refused(&cluster, &["data.column=tekst"], &[name, "there is no column `tekst`", "did you mean `text`?"]);

    let numbers = cluster.path("numbers.parquet");
    let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&numbers).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let numbers_name = numbers.to_str().unwrap();
    refused(&cluster, &[&paths(&numbers)], &[numbers_name, "column `text` is of type Float64", "needed is text"]);

    let truncated = cluster.path("truncated.parquet");
    let bytes = std::fs::read(&text).unwrap();
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    let truncated_name = truncated.to_str().unwrap();
    refused(&cluster, &[&paths(&truncated)], &[truncated_name, "truncated or damaged Parquet", "write the file again"]);

    let empty = cluster.path("empty.parquet");
    text_parquet(&empty, &[], 100);
    refused(&cluster, &[&paths(&empty)], &[empty.to_str().unwrap(), "there is not one row"]);

    let nulls = cluster.path("nulls.parquet");
    text_parquet(&nulls, &[None; 50], 20);
    refused(&cluster, &[&paths(&nulls)], &[nulls.to_str().unwrap(), "column `text` is null in all"]);
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    let cluster = Cluster::start();
    refused(
        &cluster,
        &["model.vocabulary=16"],
        &["the vocabulary has 30 tokens, but the model has only 16 rows", "raise it"],
    );
    refused(
        &cluster,
        &["model.max_positions=16"],
        &["`batch.sequence_length`: 32 is more than model.max_positions = 16", "shorten the sequence"],
    );
    refused(
        &cluster,
        &["optimizer.learning_rat=1"],
        &["`optimizer.learning_rat`: no such key", "did you mean `optimizer.learning_rate`?"],
    );
    refused(
        &cluster,
        &["run.min_workers=7"],
        &["`run.min_workers`: 7 workers cannot share 6 slots", "each worker needs at least one slot"],
    );

    let misspelt = cluster.path("misspelt.toml");
    let text = std::fs::read_to_string(cluster.config()).unwrap().replace("micro_batch", "micro_bach");
    let line = text.lines().position(|line| line.contains("micro_bach")).unwrap() + 1;
    std::fs::write(&misspelt, text).unwrap();
    let output = cluster.coordinator(&["submit", misspelt.to_str().unwrap()]);
    let place = format!("misspelt.toml:{line}:1: `batch.micro_bach`: no such key");
    output.expect_code(5).says(&[&place, "did you mean `batch.micro_batch`?"]);
}

#[test]
fn a_port_in_use_is_said() {
    let cluster = Cluster::start();
    let other = tempfile::tempdir().unwrap();
    let folder = other.path().join("data");
    let output = cluster.coordinator(&["start", "--listen", &cluster.endpoint, "--data-dir", folder.to_str().unwrap()]);
    output.expect_code(1).says(&[&cluster.endpoint, "--listen"]);
    assert!(!folder.join("token").exists(), "a coordinator that cannot listen makes no data folder");
}

#[test]
fn a_coordinator_that_is_not_there_is_said() {
    let mut cluster = Cluster::start();
    cluster.kill_coordinator();
    let config = cluster.config();
    let output = cluster.coordinator(&["submit", config.to_str().unwrap()]);
    output.expect_code(75).says(&[&cluster.endpoint, "coordinator start"]);
}

#[test]
fn a_full_disk_holds_up_the_end_and_loses_nothing() {
    let mounted = Mounted::new();
    let Some(mounted) = mounted else {
        assert!(std::env::var_os("CI").is_none(), "a small tmpfs cannot be mounted here");
        eprintln!("skipped: a small tmpfs cannot be mounted here");
        return;
    };
    let (alone, checkpoint_bytes) = {
        let mut cluster = Cluster::start();
        cluster.add_workers(1);
        let run = cluster.submit(&SLOW);
        let weights = cluster.until_completed(&run);
        (weights, cluster.show(&run)["checkpoints"][0]["bytes"].as_u64().unwrap())
    };
    let store = mounted.folder.path().join("store");
    let mut cluster = Cluster::start_with(&["--store", store.to_str().unwrap()]);
    let overrides: Vec<&str> = SLOW.into_iter().chain(["checkpoint.keep_latest=2"]).collect();
    let run = cluster.submit(&overrides);
    // Nobody works on it yet, so this is in time however fast they are: there is room for the first of three
    // checkpoints, and not for another.
    let ballast = mounted.folder.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let filled = file.metadata().unwrap().len();
    file.set_len(filled - checkpoint_bytes * 3 / 2).unwrap();
    cluster.add_workers(2);
    // People are told, and the state of the last step stays where it is: in the workers.
    let waiting = cluster.until("the last checkpoint is refused", |cluster| {
        let shown = cluster.show(&run);
        let refused = |event: &serde_json::Value| {
            let text = event["text"].as_str().unwrap_or_default();
            text.contains("the checkpoint at step 30 could not be stored") && text.contains("no space")
        };
        shown["events"].as_array().unwrap().iter().any(refused).then_some(shown)
    });
    assert_eq!(waiting["status"], "running", "{waiting:#}");
    let stored: Vec<&serde_json::Value> =
        waiting["checkpoints"].as_array().unwrap().iter().map(|checkpoint| &checkpoint["step"]).collect();
    assert_eq!(stored, [10], "{waiting:#}");
    cluster.coordinator(&["checkpoints", "verify", &format!("{run}@10")]).expect_code(0);
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(cluster.until_completed(&run), alone);
    let completed = cluster.show(&run);
    assert_eq!(completed["attempt"], 1, "no step was done twice: {completed:#}");
    cluster.verify_ledger(&run);
}

/// A tmpfs of 160 MiB, where this user may mount one.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=160m", "none"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self { folder })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).output();
    }
}
