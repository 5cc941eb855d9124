//! What goes wrong with one worker while a run is under way: it freezes, loses its link, is upgraded on disk. The run
//! goes on without it and takes it back, and comes to the weights of the undisturbed run.

mod endless;
mod memory_group;

use e2e::{Cluster, Proxy, SLOW, program};
use memory_group::MemoryGroup;
use nix::sys::signal::Signal;

/// How many calls of generations that were over were refused.
fn refused(cluster: &Cluster, run: &str) -> u64 {
    let shown = cluster.show(run);
    let counts = shown["refused"].as_object().expect("counts by kind");
    counts.values().map(|count| count.as_u64().expect("a number")).sum()
}

#[test]
fn a_frozen_worker_is_replaced_and_a_zombie_is_fenced() {
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = endless::submit(&cluster, &SLOW);
    endless::until_together(&cluster, &run, 3, 0);
    // It still believes that it is a member: it ends its step, or tells that the step failed, if it is not told better
    // before it has said so. Nobody takes its word.
    let is_refused = (0..5).any(|_| {
        cluster.worker(1).signal_all(Signal::SIGSTOP);
        endless::until_together(&cluster, &run, 2, 0);
        // What the others still had to say of the generation in which it froze came before the step that they did since.
        let before = refused(&cluster, &run);
        cluster.worker(1).signal_all(Signal::SIGCONT);
        endless::until_together(&cluster, &run, 3, 0);
        refused(&cluster, &run) > before
    });
    assert!(is_refused, "a zombie was believed five times: {:#}", cluster.show(&run));
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn a_worker_whose_link_to_the_coordinator_is_down_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start();
    let link = Proxy::start(&cluster.endpoint);
    cluster.add_workers(2);
    let far = cluster.spawn_worker_with(|command| _ = command.env("TRIREME_COORDINATOR", link.address()));
    cluster.until_joined(far);
    let run = endless::submit(&cluster, &SLOW);
    endless::until_together(&cluster, &run, 3, 0);
    link.cut();
    endless::until_together(&cluster, &run, 2, 0);
    link.mend();
    endless::until_together(&cluster, &run, 3, 0);
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
}

#[test]
fn a_trainer_that_the_kernel_kills_for_its_memory_is_replaced() {
    let Some(group) = MemoryGroup::new(32 << 20) else { return };
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 2, 0);
    group.exhaust(cluster.worker(0).trainer_pid());
    assert!(group.kills() > 0, "the kernel kills in a group that is full");
    endless::until_together(&cluster, &run, 2, generation);
    let cause = "killed by signal 9 (SIGKILL); out of memory?";
    assert!(cluster.worker_log(0).contains(cause), "{}", cluster.worker_log(0));
    let events = cluster.show(&run)["events"].to_string();
    assert!(events.contains(cause), "{events}");
    assert_eq!(endless::assert_undisturbed(&cluster, &run, &SLOW), 1, "nothing was read back from a checkpoint");
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
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 1, 0);
    cluster.worker(index).signal_trainer(Signal::SIGKILL);
    endless::until_together(&cluster, &run, 1, generation);
    assert!(cluster.worker_log(index).contains("killed by signal 9"), "{}", cluster.worker_log(index));
    let (stopped, _) = endless::stop(&cluster, &run);
    endless::whole_history(&cluster, &run, stopped["step"].as_u64().unwrap());
}

#[test]
fn slots_that_cannot_be_dealt_evenly_change_nothing() {
    let run_with = |workers| {
        let mut cluster = Cluster::start();
        cluster.add_workers(workers);
        let run = cluster.submit(&["batch.slots=8"]);
        let weights = cluster.until_completed(&run);
        let generations = cluster.generations(&run);
        assert!(generations.contains(&workers), "{generations:?}");
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
    assert!(reason.contains("before, and was tried again"), "{reason}");
    // The workers are free for the next run.
    let next = cluster.submit(&[]);
    cluster.until_completed(&next);
}
