//! Workers that come and go while a run is under way, and a coordinator that dies.

mod endless;

use e2e::{Cluster, Output, SLOW};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

#[test]
fn a_worker_joins_in_the_middle_and_another_drains() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    endless::until_together(&cluster, &run, 2, 0);
    cluster.add_workers(1);
    endless::until_together(&cluster, &run, 3, 0);
    let name = cluster.worker(0).name.clone();
    cluster.coordinator(&["workers", "drain", &name]).expect_code(0);
    let status = cluster.worker(0).wait();
    assert_eq!(status.code(), Some(0), "{}", cluster.worker_log(0));
    assert!(cluster.worker_log(0).contains("released"), "{}", cluster.worker_log(0));
    endless::until_together(&cluster, &run, 2, 0);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn a_signalled_worker_hands_over_and_ends_with_0() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 2, 0);
    cluster.worker(0).signal(Signal::SIGTERM);
    let status = cluster.worker(0).wait();
    assert_eq!(status.code(), Some(0), "{}", cluster.worker_log(0));
    assert!(cluster.worker_log(0).contains("released"), "{}", cluster.worker_log(0));
    endless::until_together(&cluster, &run, 1, generation);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn training_goes_on_while_the_coordinator_is_dead() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    endless::until_together(&cluster, &run, 2, 0);
    let before = endless::show(&cluster, &run);
    cluster.kill_coordinator();
    std::thread::sleep(Duration::from_secs(1));
    cluster.restart_coordinator();
    let after = cluster.until_step(&run, before["step"].as_u64().unwrap() + 1);
    assert_eq!(after["generation"], before["generation"], "the generation outlived the coordinator: {after:#}");
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn a_worker_that_works_on_nothing_leaves_at_once() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    for (index, signal) in [(0, Signal::SIGINT), (1, Signal::SIGUSR1)] {
        cluster.worker(index).signal(signal);
        assert_eq!(cluster.worker(index).wait().code(), Some(0), "{}", cluster.worker_log(index));
    }
}

#[test]
fn a_signal_to_every_process_of_a_worker_is_the_agents_to_answer() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, 2);
    let trainer = Pid::from_raw(cluster.worker(0).trainer_pid() as i32);
    // Many: a handler would be called in the middle of all that a step computes, and some of it does not bear that.
    for _ in 0..100 {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
            kill(trainer, signal).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.until_completed(&run);
    assert_eq!(cluster.generations(&run), [1], "{}", cluster.worker_log(0));
}

#[test]
fn a_second_signal_ends_a_worker_at_once_and_its_trainer_with_it() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, 2);
    let trainer = cluster.worker(0).trainer_pid();
    cluster.kill_coordinator();
    cluster.worker(0).signal(Signal::SIGTERM);
    cluster.until("the worker says that it leaves", |cluster| cluster.worker_log(0).contains("leaving").then_some(()));
    cluster.worker(0).signal(Signal::SIGTERM);
    assert_eq!(cluster.worker(0).wait().code(), Some(75), "{}", cluster.worker_log(0));
    cluster.until("the trainer process ends", |_| {
        let state = std::fs::read_to_string(format!("/proc/{trainer}/status")).unwrap_or_default();
        (state.is_empty() || state.contains("(zombie)")).then_some(())
    });
}

#[test]
fn a_name_is_given_once() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let output =
        Output::of(cluster.command("worker").args(["join", "--device", "cpu", "--threads", "1", "--name", "worker-1"]));
    output.expect_code(1).says(&["worker-1", "choose another with `--name`"]);
}

#[test]
fn the_wrong_token_is_refused() {
    let cluster = Cluster::start();
    let output = Output::of(cluster.command("worker").args(["join", "--name", "thief"]).env("TRIREME_TOKEN", "wrong"));
    output.expect_code(4).says(&["does not accept this worker's token", "<data-dir>/token"]);
    let output = Output::of(cluster.command("coordinator").args(["runs", "list"]).env("TRIREME_TOKEN", "wrong"));
    output.expect_code(4);
}

#[test]
fn a_worker_without_coordinator_says_so() {
    let mut cluster = Cluster::start();
    cluster.kill_coordinator();
    let output = Output::of(cluster.command("worker").args(["join", "--patience", "1"]));
    let endpoint = cluster.endpoint.clone();
    output.expect_code(1).says(&[&format!("no coordinator answers at {endpoint}"), "coordinator start"]);
}
