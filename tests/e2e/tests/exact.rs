//! Exact mode: the same weights, bit for bit, for every number of workers and every history of failures.

mod endless;

use e2e::{Cluster, SLOW, seeded};
use nix::sys::signal::Signal;
use rand::Rng;

/// The digests of weights and samples after an undisturbed run.
fn undisturbed(workers: usize) -> (String, String) {
    let mut cluster = Cluster::start();
    cluster.add_workers(workers);
    let run = cluster.submit(&[]);
    let weights = cluster.until_completed(&run);
    let generations = cluster.generations(&run);
    assert!(generations.contains(&workers), "{generations:?}");
    let samples = cluster.show(&run)["samples_digest"].as_str().expect("a completed run has one").to_owned();
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
    let mut random = seeded("a_worker_killed_at_a_random_step_changes_nothing");
    let (at, victim) = (random.random_range(1..25), random.random_range(0..3));
    eprintln!("worker {victim} is killed after step {at}");
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = endless::submit(&cluster, &SLOW);
    endless::until_together(&cluster, &run, 3, 0);
    cluster.until_step(&run, at);
    cluster.worker(victim).kill();
    endless::until_together(&cluster, &run, 2, 0);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn a_killed_trainer_is_replaced_and_its_cause_is_told() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 2, 0);
    cluster.worker(0).signal_trainer(Signal::SIGKILL);
    // The new trainer joined again.
    endless::until_together(&cluster, &run, 2, generation);
    let cause = "killed by signal 9 (SIGKILL)";
    assert!(cluster.worker_log(0).contains(cause), "{}", cluster.worker_log(0));
    let events = cluster.show(&run)["events"].to_string();
    assert!(events.contains(cause), "{events}");
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}
