//! Runs that are as long as a test needs, so that no test races the end of its run. Such a run is stopped by
//! `runs cancel`, which saves the last step, and is then made again, of just as many steps, by one worker that nothing
//! happens to.

#![allow(dead_code, reason = "each test file has a copy of its own, and not all need all of it")]

use e2e::Cluster;
use serde_json::Value;

/// A learning rate that does not depend on the number of steps.
const CONSTANT: [&str; 2] = ["schedule.decay=constant", "schedule.warmup=0"];

/// Submits a run that ends only when it is told to.
#[track_caller]
pub fn submit(cluster: &Cluster, overrides: &[&str]) -> String {
    // More steps than anybody waits for.
    cluster.submit(&[overrides, &CONSTANT, &["run.steps=10000000"]].concat())
}

/// `runs show` of a run that is still under way.
#[track_caller]
pub fn show(cluster: &Cluster, run: &str) -> Value {
    let shown = cluster.show(run);
    let status = shown["status"].as_str().unwrap_or_default();
    assert!(["queued", "running", "interrupted"].contains(&status), "{shown:#}");
    shown
}

/// Waits for a generation after this one, of so many workers, and for a step that they did together; its number.
/// How many generations there were is nobody's business: a busy machine may starve a worker until it is left out.
#[track_caller]
pub fn until_together(cluster: &Cluster, run: &str, workers: u64, after: u64) -> u64 {
    let generation = |shown: &Value| shown["generation"].as_u64().expect("a number");
    cluster.until(&format!("a step of a generation of {workers} after {after}"), |cluster| {
        let formed = show(cluster, run);
        if generation(&formed) <= after || formed["world_size"] != workers {
            return None;
        }
        let next = cluster.until("a step or another generation", |cluster| {
            let shown = show(cluster, run);
            (shown["generation"] != formed["generation"] || shown["step"] != formed["step"]).then_some(shown)
        });
        (next["generation"] == formed["generation"]).then(|| generation(&formed))
    })
}

/// Cancels a run; `runs show` of it then, and the digest of its weights.
#[track_caller]
pub fn stop(cluster: &Cluster, run: &str) -> (Value, String) {
    cluster.coordinator(&["runs", "cancel", run]).expect_code(0);
    let stopped = cluster.until_status(run, "cancelled");
    let checkpoints = stopped["checkpoints"].as_array().expect("a list of checkpoints");
    let last = checkpoints.last().unwrap_or_else(|| panic!("no checkpoint: {stopped:#}"));
    assert_eq!(last["step"], stopped["step"], "cancelling saves the last step: {stopped:#}");
    let manifest = cluster.store().join(last["path"].as_str().expect("a path")).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let manifest: Value = serde_json::from_str(&text).expect("a manifest is JSON");
    let weights = manifest["weights_digest"].as_str().expect("the digest of the weights").to_owned();
    (stopped, weights)
}

/// The losses of all steps: each step is there once, in order; later attempts only go on.
#[track_caller]
pub fn whole_history(cluster: &Cluster, run: &str, steps: u64) -> Vec<f64> {
    let losses = cluster.metric(run, "train/loss");
    let of_steps: Vec<u64> = losses.iter().map(|(_, step, _)| *step).collect();
    assert_eq!(of_steps, (1..=steps).collect::<Vec<_>>(), "{losses:?}");
    assert!(losses.windows(2).all(|pair| pair[0].0 <= pair[1].0), "attempts only grow: {losses:?}");
    cluster.verify_ledger(run);
    losses.into_iter().map(|(_, _, loss)| loss).collect()
}

/// The same run of so many steps, by so many workers that nothing happens to.
#[track_caller]
pub fn undisturbed(overrides: &[&str], steps: u64, workers: usize) -> (Cluster, String) {
    let mut cluster = Cluster::start();
    cluster.add_workers(workers);
    let run = cluster.submit(&[overrides, &CONSTANT, &[&format!("run.steps={steps}")]].concat());
    let mut step = Some(0);
    loop {
        let shown = cluster.until("the next step of the undisturbed run", |cluster| {
            let shown = cluster.show(&run);
            (shown["status"] == "completed" || shown["step"].as_u64() > step).then_some(shown)
        });
        if shown["status"] == "completed" {
            return (cluster, run);
        }
        step = shown["step"].as_u64();
    }
}

/// Stops the run. Whatever happened to it, it lost no step and no sample, and came to weights and samples of the
/// undisturbed run. Its attempt.
#[track_caller]
pub fn assert_undisturbed(cluster: &Cluster, run: &str, overrides: &[&str]) -> u64 {
    let (stopped, weights) = stop(cluster, run);
    let steps = stopped["step"].as_u64().expect("a number");
    whole_history(cluster, run, steps);
    let (alone, same) = undisturbed(overrides, steps, 1);
    let shown = alone.show(&same);
    assert_eq!(
        (weights.as_str(), stopped["samples_digest"].as_str()),
        (shown["weights_digest"].as_str().expect("a completed run has one"), shown["samples_digest"].as_str()),
        "{steps} steps"
    );
    stopped["attempt"].as_u64().expect("a number")
}
