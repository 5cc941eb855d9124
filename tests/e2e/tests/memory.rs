//! What a trainer process keeps from step to step, and gives back when its run is over (docs/adr/008).

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

use e2e::{Cluster, SLOW};
use std::fs;

/// How often a process got a page from the system.
fn faults(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the name, which ends with a parenthesis, from the state on.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// What it has of its own, in KiB.
fn held(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A run of one worker after some steps, and how often its trainer process got a page from the system in each of those that
/// followed.
fn steps(cluster: &mut Cluster) -> (String, u64) {
    cluster.until_joined(0);
    let trainer = cluster.worker(0).trainer_pid();
    let own = ["run.steps=24", "checkpoint.every_steps=1000", "eval.every_steps=1000"];
    let run = cluster.submit(&[&SLOW[..], &own].concat());
    let step = |shown: serde_json::Value| shown["step"].as_u64().unwrap();
    let first = step(cluster.until_step(&run, 8));
    let before = faults(trainer);
    let last = step(cluster.until_step(&run, 20));
    (run, (faults(trainer) - before) / (last - first))
}

#[test]
fn a_trainer_keeps_what_its_steps_leave_until_its_run_is_over() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let trainer = cluster.worker(0).trainer_pid();
    let idle = held(trainer);
    let (run, a_step) = steps(&mut cluster);
    assert!(a_step < 500, "{a_step} pages a step came from the system");
    let most = held(trainer);
    cluster.until_completed(&run);
    cluster
        .until("the trainer gives back what its run had", |_| (held(trainer) + (most - idle) / 4 < most).then_some(()));
}

#[test]
fn who_has_set_mallocs_thresholds_is_obeyed() {
    let mut cluster = Cluster::start();
    cluster.spawn_worker_with(|worker| _ = worker.env("MALLOC_TRIM_THRESHOLD_", "131072"));
    let (_, a_step) = steps(&mut cluster);
    assert!(a_step > 1000, "only {a_step} pages a step came from the system");
}
