//! Exact mode: the same weights, bit for bit, for every number of workers and every history of failures.

use e2e::{Cluster, SLOW, seeded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;

/// The digests of weights and samples after an undisturbed run.
fn undisturbed(workers: usize, overrides: &[&str]) -> (String, String) {
    let mut cluster = Cluster::start();
    cluster.add_workers(workers);
    let run = cluster.submit(overrides);
    let weights = cluster.until_completed(&run);
    assert_eq!(cluster.generations(&run), [workers]);
    let samples = cluster.show(&run)["samples_digest"].as_str().expect("a completed run has one").to_owned();
    cluster.verify_ledger(&run);
    let losses = cluster.metric(&run, "train/loss");
    assert_eq!(losses.iter().map(|(_, step, _)| *step).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
    assert!(losses[29].2 < losses[0].2, "it learns: {losses:?}");
    (weights, samples)
}

#[test]
fn one_two_and_three_workers_make_the_same_weights() {
    let one = undisturbed(1, &[]);
    assert_eq!(undisturbed(2, &[]), one);
    assert_eq!(undisturbed(3, &[]), one);
}

#[test]
fn a_worker_killed_at_a_random_step_changes_nothing() {
    let one = undisturbed(1, &SLOW);
    let mut random = seeded("a_worker_killed_at_a_random_step_changes_nothing");
    let (at, victim) = (random.random_range(1..25), random.random_range(0..3));
    eprintln!("worker {victim} is killed after step {at}");
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, at);
    cluster.worker(victim).kill();
    let weights = cluster.until_completed(&run);
    assert_eq!(cluster.generations(&run), [3, 2], "the kill came in the middle");
    assert_eq!((weights.as_str(), &cluster.show(&run)["samples_digest"]), (one.0.as_str(), &one.1.into()));
    cluster.verify_ledger(&run);
}

#[test]
fn a_killed_trainer_is_replaced_and_its_cause_is_told() {
    let one = undisturbed(1, &SLOW);
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, 3);
    let trainer = cluster.worker(0).trainer_pid();
    kill(Pid::from_raw(trainer as i32), Signal::SIGKILL).unwrap();
    assert_eq!(cluster.until_completed(&run), one.0);
    assert_eq!(cluster.generations(&run).first(), Some(&2));
    assert_eq!(cluster.generations(&run).last(), Some(&2), "the new trainer joined again");
    cluster.verify_ledger(&run);
    let cause = "killed by signal 9 (SIGKILL)";
    assert!(cluster.worker_log(0).contains(cause), "{}", cluster.worker_log(0));
    let events = cluster.show(&run)["events"].to_string();
    assert!(events.contains(cause), "{events}");
}
