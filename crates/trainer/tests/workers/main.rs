//! The trainer as workers use it: several processes, a group of Gloo, kills, pauses, checkpoints. libtorch's random
//! generator belongs to the process, so every trainer here runs in a process of its own: this binary again.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod cluster;
mod data;
mod folder_store;
mod partial;
mod process;
mod recipe;
mod recovery;
mod relatives;
mod stopping;
mod tasks;
mod tuning;
mod unpadded;

use cluster::{Cluster, Plan, undisturbed};
use data::{in_buckets, pretraining};
use process::Verdict;

/// Not a test: what the other tests start as a worker.
#[test]
#[ignore = "the body of the worker processes"]
fn worker_process() {
    let folder = std::env::var(process::FOLDER).expect("started by a test");
    let worker = std::env::var(process::WORKER).expect("started by a test").parse().unwrap();
    process::work(folder.as_ref(), worker);
}

#[test]
fn one_two_and_three_workers_end_with_the_same_bits() {
    let config = pretraining("");
    let (one, alone) = undisturbed(&config, 1);
    for workers in [2, 3] {
        let (digest, cluster) = undisturbed(&config, workers);
        assert_eq!(digest, one, "{workers} workers");
        let logs = [&alone, &cluster].map(Cluster::timeless);
        assert_eq!(logs[0], logs[1], "every number of every step is the same");
    }
    assert!(alone.metric(0, "eval/loss").is_some() && alone.metric(0, "eval/nsp_accuracy").is_some());
    assert!(alone.log(0)[29].metrics.iter().any(|(name, _)| name == "eval/loss"), "the last step is evaluated");
}

#[test]
fn sums_that_travel_in_buckets_during_the_backward_pass_are_those_of_one_worker() {
    // In the first step in the order of their names, then as they become ready.
    let config = in_buckets(3);
    let (one, _) = undisturbed(&config, 1);
    for workers in [2, 3] {
        assert_eq!(undisturbed(&config, workers).0, one, "{workers} workers");
    }
}

#[test]
fn what_takes_long_says_that_it_moves() {
    for mode in ["exact", "fast"] {
        let config = pretraining(&format!("[reduce]\nmode = \"{mode}\"")).replace("steps = 30", "steps = 2");
        let (_, cluster) = undisturbed(&config.replace("every_steps = 15", "every_steps = 2"), 1);
        let moved: Vec<u64> = cluster.log(0).iter().map(|line| line.moved).collect();
        // The samples of six slots; their two micro-batches each; and 24 held-out samples, two in a batch.
        assert!(moved[0] > 12, "the state, too, is sent in pieces: {moved:?}");
        assert_eq!(moved[1], 6 + 12 + 12, "{mode}");
    }
}

#[test]
fn every_sample_is_used_once_in_each_epoch() {
    let (_, cluster) = undisturbed(&pretraining(""), 3);
    let mut next = std::collections::BTreeMap::new();
    for line in cluster.log(1) {
        for segment in line.segments {
            let place = next.entry(segment.slot).or_insert((0, 0));
            assert_eq!((segment.turn, segment.start), *place, "slot {}", segment.slot);
            *place = if segment.end == segment.total { (segment.turn + 1, 0) } else { (segment.turn, segment.end) };
        }
    }
    assert_eq!(next.len(), 6);
}

#[test]
fn fast_mode_comes_close_to_exact_mode() {
    let short = |mode: &str| pretraining(&format!("[reduce]\nmode = \"{mode}\"")).replace("steps = 30", "steps = 10");
    let weights = |config: &str, workers| {
        let (_, cluster) = undisturbed(config, workers);
        let bytes = std::fs::read(cluster.checkpoint(10).join("model.safetensors")).unwrap();
        model::safetensors_io::read(&bytes).unwrap()
    };
    let exact = weights(&short("exact"), 1);
    for workers in [1, 2] {
        let fast = weights(&short("fast"), workers);
        for ((name, exact), (_, fast)) in exact.iter().zip(&fast) {
            let difference = (exact - fast).abs().max().double_value(&[]);
            assert!(difference < 2e-5, "{workers} workers, {name}: {difference}");
        }
    }
}

#[test]
fn a_run_whose_gradients_never_fit_diverges_with_a_reason() {
    let config = pretraining("[reduce]\nfraction_bits = 50");
    let mut cluster = Cluster::new(&config.replace("dropout = 0.1", "dropout = 0.1\ninitializer_range = 3e4"), 2);
    cluster.assign(&[0, 1], &Plan::default());
    for worker in [0, 1] {
        let Verdict::Diverged { step: 9, skipped: true, reason } = cluster.verdict(worker) else {
            panic!("it went on")
        };
        assert!(reason.contains("10 steps in a row, up to step 10") && reason.contains("fraction_bits"), "{reason}");
    }
    assert_eq!(cluster.metric(0, "train/skipped"), Some(1.0));
}

#[test]
fn a_run_that_has_learned_nothing_is_not_completed() {
    let config = pretraining("[reduce]\nfraction_bits = 50").replace("steps = 30", "steps = 3");
    let mut cluster = Cluster::new(&config.replace("dropout = 0.1", "dropout = 0.1\ninitializer_range = 3e4"), 1);
    cluster.assign(&[0], &Plan::default());
    let verdict = cluster.verdict(0);
    let Verdict::Diverged { step: 3, skipped: true, reason } = verdict else { panic!("it was completed") };
    assert!(reason.contains("3 steps in a row, up to step 3"), "{reason}");
}
