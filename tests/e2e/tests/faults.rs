//! What goes wrong with one worker while a run is under way: it freezes, loses its link, is upgraded on disk. The run
//! goes on without it and takes it back, and comes to the weights of the undisturbed run.

use e2e::{Cluster, Proxy, SLOW, program};
use nix::sys::signal::Signal;

fn undisturbed(overrides: &[&str]) -> String {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(overrides);
    cluster.until_completed(&run)
}

#[track_caller]
fn until_world(cluster: &Cluster, run: &str, world: usize) {
    cluster.until(&format!("{world} workers"), |cluster| {
        let shown = cluster.show(run);
        assert_ne!(shown["status"], "failed", "{shown:#}");
        assert_ne!(shown["status"], "completed", "the run was too short: {shown:#}");
        (cluster.generations(run).last() == Some(&world)).then_some(())
    });
}

/// Longer than what a test does to it takes.
const LONG: [&str; 6] = [SLOW[0], SLOW[1], SLOW[2], SLOW[3], SLOW[4], "run.steps=60"];

#[test]
fn a_frozen_worker_is_replaced_and_a_zombie_is_fenced() {
    let alone = undisturbed(&LONG);
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = cluster.submit(&LONG);
    cluster.until_step(&run, 3);
    cluster.worker(1).signal_all(Signal::SIGSTOP);
    until_world(&cluster, &run, 2);
    let shown = cluster.show(&run);
    cluster.until_step(&run, shown["step"].as_u64().unwrap() + 2);
    // It still believes that it is a member of the generation in which it froze.
    cluster.worker(1).signal_all(Signal::SIGCONT);
    until_world(&cluster, &run, 3);
    assert_eq!(cluster.until_completed(&run), alone);
    assert_eq!(cluster.generations(&run), [3, 2, 3]);
    assert_eq!(cluster.show(&run)["attempt"], 1, "nothing was read back from a checkpoint");
    cluster.verify_ledger(&run);
}

#[test]
fn a_worker_whose_link_to_the_coordinator_is_down_is_replaced_and_comes_back() {
    let alone = undisturbed(&LONG);
    let mut cluster = Cluster::start();
    let link = Proxy::start(&cluster.endpoint);
    cluster.add_workers(2);
    let far = cluster.spawn_worker_with(|command| _ = command.env("TRIREME_COORDINATOR", link.address()));
    cluster.until_joined(far);
    let run = cluster.submit(&LONG);
    cluster.until_step(&run, 3);
    link.cut();
    until_world(&cluster, &run, 2);
    let shown = cluster.show(&run);
    cluster.until_step(&run, shown["step"].as_u64().unwrap() + 2);
    link.mend();
    until_world(&cluster, &run, 3);
    assert_eq!(cluster.until_completed(&run), alone);
    assert_eq!(cluster.show(&run)["attempt"], 1, "nothing was read back from a checkpoint");
    cluster.verify_ledger(&run);
}

#[test]
fn a_trainer_process_is_of_its_agents_version_after_an_upgrade_on_disk() {
    let mut cluster = Cluster::start();
    let old = cluster.path("worker");
    std::fs::copy(program("worker"), &old).unwrap();
    let index = cluster.spawn_worker_of(&old, |_| {});
    cluster.until_joined(index);
    // An installer puts the new file in the place of the old one.
    std::fs::remove_file(&old).unwrap();
    std::fs::write(&old, "another version").unwrap();
    let run = cluster.submit(&SLOW);
    cluster.until_step(&run, 2);
    cluster.worker(index).signal_trainer(Signal::SIGKILL);
    cluster.until_completed(&run);
    assert!(cluster.worker_log(index).contains("killed by signal 9"), "{}", cluster.worker_log(index));
    cluster.verify_ledger(&run);
}

#[test]
fn slots_that_cannot_be_dealt_evenly_change_nothing() {
    let run_with = |workers| {
        let mut cluster = Cluster::start();
        cluster.add_workers(workers);
        let run = cluster.submit(&["batch.slots=8"]);
        let weights = cluster.until_completed(&run);
        assert_eq!(cluster.generations(&run), [workers]);
        cluster.verify_ledger(&run);
        weights
    };
    assert_eq!(run_with(3), run_with(1));
}

#[test]
fn a_run_that_diverges_goes_back_once_and_then_fails_with_the_reason() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = cluster.submit(&["reduce.fraction_bits=50", "model.initializer_range=3e4"]);
    let shown = cluster.until_status(&run, "failed");
    let events = shown["events"].to_string();
    assert!(events.contains("back to a checkpoint"), "{events}");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("10 steps in a row") && reason.contains("fraction_bits"), "{reason}");
    assert!(reason.contains("it had gone back to a checkpoint"), "{reason}");
    // The workers are free for the next run.
    let next = cluster.submit(&[]);
    cluster.until_completed(&next);
}
