//! Exact mode: the same weights, bit for bit, for every number of workers and every history of failures.

use e2e::{Cluster, seeded};
use rand::Rng;

/// The digests of weights and samples after an undisturbed run.
fn undisturbed(workers: usize) -> (String, String) {
    let mut cluster = Cluster::start();
    cluster.add_workers(workers);
    let run = cluster.submit(&[]);
    let weights = cluster.until_completed(&run);
    let shown = cluster.show(&run);
    assert_eq!(shown["world_size"], workers, "{shown:#}");
    let samples = shown["samples_digest"].as_str().expect("a completed run has one").to_owned();
    cluster.verify_ledger(&run);
    let losses = cluster.metric(&run, "train/loss");
    assert_eq!(losses.iter().map(|(_, step, _)| *step).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
    assert!(losses[29].2 < losses[0].2, "it learns: {losses:?}");
    (weights, samples)
}

#[test]
fn one_two_and_three_workers_make_the_same_weights() {
    let one = undisturbed(1);
    assert_eq!(undisturbed(2), one);
    assert_eq!(undisturbed(3), one);
}

#[test]
fn a_worker_killed_at_a_random_step_changes_nothing() {
    let one = undisturbed(1);
    let mut random = seeded("a_worker_killed_at_a_random_step_changes_nothing");
    let (at, victim) = (random.random_range(1..25), random.random_range(0..3));
    eprintln!("worker {victim} is killed after step {at}");
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = cluster.submit(&[]);
    cluster.until_step(&run, at);
    cluster.worker(victim).kill();
    let weights = cluster.until_completed(&run);
    let shown = cluster.show(&run);
    assert_eq!(shown["world_size"], 2, "the kill came before the end: {shown:#}");
    assert_eq!((weights.as_str(), &shown["samples_digest"]), (one.0.as_str(), &one.1.into()));
    cluster.verify_ledger(&run);
}

#[test]
fn a_killed_trainer_is_replaced_and_its_cause_is_told() {
    let one = undisturbed(1);
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&[]);
    cluster.until_step(&run, 3);
    let trainer = cluster.worker(0).trainer_pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(trainer as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(cluster.until_completed(&run), one.0);
    cluster.verify_ledger(&run);
    assert!(cluster.worker_log(0).contains("killed by signal 9 (SIGKILL)"), "{}", cluster.worker_log(0));
}
