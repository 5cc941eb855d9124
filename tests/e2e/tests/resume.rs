//! A run that was stopped and goes on is the run that was never stopped.

use e2e::{Cluster, SLOW};
use std::fs;

fn uninterrupted() -> String {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let run = cluster.submit(&SLOW);
    cluster.until_completed(&run)
}

/// Every step once, in order; later attempts only go on.
#[track_caller]
fn assert_history_is_whole(cluster: &Cluster, run: &str) {
    let losses = cluster.metric(run, "train/loss");
    let steps: Vec<u64> = losses.iter().map(|(_, step, _)| *step).collect();
    assert_eq!(steps, (1..=30).collect::<Vec<_>>(), "{losses:?}");
    assert!(losses.windows(2).all(|pair| pair[0].0 <= pair[1].0), "attempts only grow: {losses:?}");
    cluster.verify_ledger(run);
}

#[test]
fn a_cancelled_run_resumes_with_another_number_of_workers() {
    let whole = uninterrupted();
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, 5);
    cluster.coordinator(&["runs", "cancel", &run]).expect_code(0);
    let stopped = cluster.until_status(&run, "cancelled");
    let step = stopped["step"].as_u64().unwrap();
    assert!((5..30).contains(&step), "{stopped:#}");
    let checkpoints = stopped["checkpoints"].as_array().unwrap();
    assert_eq!(checkpoints.last().unwrap()["step"], step, "cancelling saves the last step: {stopped:#}");
    cluster.kill_workers();
    cluster.add_workers(3);
    cluster.coordinator(&["runs", "resume", &run]).expect_code(0);
    assert_eq!(cluster.until_completed(&run), whole);
    assert_eq!(cluster.generations(&run).last(), Some(&3));
    assert_history_is_whole(&cluster, &run);
}

#[test]
fn a_run_that_lost_all_workers_goes_on_from_its_checkpoint() {
    let whole = uninterrupted();
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&SLOW);
    // Past a checkpoint, and past its upload most likely; if not, the run starts anew, which must come to the same.
    cluster.until_step(&run, 14);
    cluster.kill_workers();
    cluster.until("the run is interrupted", |cluster| (cluster.show(&run)["status"] == "interrupted").then_some(()));
    cluster.add_workers(1);
    assert_eq!(cluster.until_completed(&run), whole);
    assert_history_is_whole(&cluster, &run);
    assert_eq!(cluster.show(&run)["attempt"], 2);
}

#[test]
fn a_damaged_checkpoint_is_found_and_the_one_before_it_is_used() {
    let whole = uninterrupted();
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&SLOW);
    cluster.until("two checkpoints", |cluster| {
        let shown = cluster.show(&run);
        (shown["checkpoints"].as_array().unwrap().len() >= 2).then_some(())
    });
    cluster.kill_workers();
    let shown = cluster.until("the run is interrupted", |cluster| {
        Some(cluster.show(&run)).filter(|shown| shown["status"] == "interrupted")
    });
    let newest = shown["checkpoints"].as_array().unwrap().last().unwrap().clone();
    let (step, path) = (newest["step"].as_u64().unwrap(), newest["path"].as_str().unwrap());
    let file = format!("{path}/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();

    let verified = cluster.coordinator(&["checkpoints", "verify", &format!("{run}@{step}"), "--json"]);
    assert_ne!(verified.code, Some(0), "{verified:?}");
    let report = verified.json();
    assert_eq!(report["ok"], false);
    assert!(report["problems"].to_string().contains("model.safetensors"), "{report:#}");

    cluster.add_workers(2);
    assert_eq!(cluster.until_completed(&run), whole);
    assert_history_is_whole(&cluster, &run);
    let events = cluster.show(&run)["events"].to_string();
    assert!(events.contains("damaged"), "it says what it passed over: {events}");
}
