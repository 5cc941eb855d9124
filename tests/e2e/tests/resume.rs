//! A run that was stopped and goes on is the run that was never stopped.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod endless;

use e2e::{Cluster, SLOW};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;

/// Checkpoints come soon.
const OFTEN: [&str; 6] = [SLOW[0], SLOW[1], SLOW[2], SLOW[3], SLOW[4], "checkpoint.every_steps=3"];

#[test]
fn a_cancelled_run_resumes_with_another_number_of_workers() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 2, 0);
    endless::stop(&cluster, &run);
    cluster.kill_workers();
    cluster.add_workers(3);
    cluster.coordinator(&["runs", "resume", &run]).expect_code(0);
    endless::until_together(&cluster, &run, 3, generation);
    endless::assert_undisturbed(&cluster, &run, &SLOW);
}

#[test]
fn a_run_that_lost_all_workers_goes_on_from_its_checkpoint() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &OFTEN);
    let until_checkpoint = |cluster: &Cluster, steps: u64| {
        cluster.until("a checkpoint", |cluster| {
            let shown = endless::show(cluster, &run);
            let newest = shown["checkpoints"].as_array().unwrap().last().and_then(|last| last["step"].as_u64());
            newest.filter(|newest| *newest >= steps)
        })
    };
    let step = until_checkpoint(&cluster, 1);
    // Steps that are in no checkpoint.
    cluster.until_step(&run, step + 2);
    cluster.kill_workers();
    cluster.until("the run is interrupted", |cluster| (cluster.show(&run)["status"] == "interrupted").then_some(()));
    cluster.add_workers(1);
    until_checkpoint(&cluster, step + 1);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &OFTEN), 2);
}

#[test]
fn a_damaged_checkpoint_is_found_and_the_one_before_it_is_used() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &OFTEN);
    cluster.until("two checkpoints", |cluster| {
        let shown = endless::show(cluster, &run);
        (shown["checkpoints"].as_array().unwrap().len() >= 2).then_some(())
    });
    cluster.kill_workers();
    let shown = cluster.until("the run is interrupted", |cluster| {
        Some(cluster.show(&run)).filter(|shown| shown["status"] == "interrupted")
    });
    let newest = shown["checkpoints"].as_array().unwrap().last().unwrap().clone();
    let step = newest["step"].as_u64().unwrap();
    damage(&newest);

    let verified = cluster.coordinator(&["checkpoints", "verify", &format!("{run}@{step}"), "--json"]);
    assert_ne!(verified.code, Some(0), "{verified:?}");
    let report = verified.json();
    assert_eq!(report["ok"], false);
    assert!(report["problems"].to_string().contains("model.safetensors"), "{report:#}");

    cluster.add_workers(2);
    endless::until_together(&cluster, &run, 2, shown["generation"].as_u64().unwrap());
    let events = cluster.show(&run)["events"].to_string();
    assert!(events.contains("damaged"), "it says what it passed over: {events}");
    endless::assert_undisturbed(&cluster, &run, &OFTEN);
}

#[test]
fn a_checkpoint_damaged_after_it_was_chosen_is_passed_over() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let run = endless::submit(&cluster, &OFTEN);
    cluster.until("a checkpoint", |cluster| {
        let shown = endless::show(cluster, &run);
        (!shown["checkpoints"].as_array().unwrap().is_empty()).then_some(())
    });
    // And one more, of another step.
    cluster.until_step(&run, endless::show(&cluster, &run)["step"].as_u64().unwrap() + 4);
    let (stopped, _) = endless::stop(&cluster, &run);
    let checkpoints = stopped["checkpoints"].as_array().unwrap();
    let [.., before, newest] = checkpoints.as_slice() else { panic!("{stopped:#}") };
    // Who is to read it can do nothing until it is damaged.
    cluster.worker(0).signal_trainer(Signal::SIGSTOP);
    cluster.coordinator(&["runs", "resume", &run]).expect_code(0);
    let until_told = |cluster: &Cluster, what: String| {
        cluster.until(&what, |cluster| says(&endless::show(cluster, &run), &what).then_some(()));
    };
    until_told(&cluster, format!("attempt 2 goes on from the checkpoint at step {}", newest["step"]));
    damage(newest);
    cluster.worker(0).signal_trainer(Signal::SIGCONT);
    until_told(&cluster, format!("attempt 3 goes on from the checkpoint at step {}", before["step"]));
    let shown = endless::show(&cluster, &run);
    assert!(says(&shown, &format!("the checkpoint at step {} is damaged", newest["step"])), "{shown:#}");
    let found = cluster.show(&run)["checkpoints"].as_array().unwrap().clone();
    let found = found.iter().find(|checkpoint| checkpoint["path"] == newest["path"]).unwrap();
    assert_eq!(found["verified"], false, "{found:#}");
    endless::until_together(&cluster, &run, 1, 0);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &OFTEN), 3);
}

/// Whether one of the run's events says so.
fn says(shown: &Value, what: &str) -> bool {
    let events = shown["events"].as_array().expect("a list of events");
    events.iter().any(|event| event["text"].as_str().is_some_and(|text| text.contains(what)))
}

/// One bit of a checkpoint's weights is another one.
fn damage(checkpoint: &Value) {
    let file = format!("{}/model.safetensors", checkpoint["path"].as_str().unwrap());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
}

/// Without the exact sums nothing is the same bit for bit; all else holds, and the losses are those of the undisturbed
/// run but for rounding.
#[test]
fn in_fast_mode_a_run_outlives_a_killed_worker_and_a_stop() {
    let fast: Vec<&str> = SLOW.into_iter().chain(["reduce.mode=fast"]).collect();
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &fast);
    endless::until_together(&cluster, &run, 2, 0);
    cluster.worker(0).kill();
    let generation = endless::until_together(&cluster, &run, 1, 0);
    let (stopped, _) = endless::stop(&cluster, &run);
    assert_eq!(stopped["attempt"], 1, "nothing was read back from a checkpoint: {stopped:#}");
    cluster.add_workers(1);
    cluster.coordinator(&["runs", "resume", &run]).expect_code(0);
    endless::until_together(&cluster, &run, 2, generation);
    let (stopped, _) = endless::stop(&cluster, &run);
    assert_eq!(stopped["attempt"], 2, "{stopped:#}");
    let steps = stopped["step"].as_u64().unwrap();
    let losses = endless::whole_history(&cluster, &run, steps);
    let (alone, same) = endless::undisturbed(&fast, steps, 2);
    assert_eq!(stopped["samples_digest"], alone.show(&same)["samples_digest"]);
    let same = endless::whole_history(&alone, &same, steps);
    // Rounding grows with the steps, of which there are more on a faster machine.
    let pairs = losses.iter().zip(&same).take(50);
    let apart = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    eprintln!("{apart:e} nats apart in {steps} steps");
    assert!(apart < 0.02, "{losses:?} {same:?}");
}
