//! Every worker is told to leave at once, as when a batch system takes its nodes back.

mod endless;

use e2e::{Cluster, SLOW};
use nix::sys::signal::Signal;
use std::time::Instant;

#[test]
fn when_everyone_leaves_the_last_step_is_saved_and_the_run_goes_on_later() {
    let mut cluster = Cluster::start();
    cluster.add_workers(3);
    let run = endless::submit(&cluster, &SLOW);
    let generation = endless::until_together(&cluster, &run, 3, 0);
    let told = Instant::now();
    for (index, signal) in [(0, Signal::SIGTERM), (1, Signal::SIGUSR1), (2, Signal::SIGTERM)] {
        cluster.worker(index).signal(signal);
    }
    // A batch system warns first, and means it then.
    cluster.worker(1).signal(Signal::SIGTERM);
    for index in 0..3 {
        let status = cluster.worker(index).wait();
        assert_eq!(status.code(), Some(75), "{}", cluster.worker_log(index));
    }
    eprintln!("from the signal to the end of the last worker: {:.2} s", told.elapsed().as_secs_f64());
    let shown = cluster.until_status(&run, "interrupted");
    let saved = shown["checkpoints"].as_array().unwrap().last().cloned().unwrap_or_default();
    assert_eq!(saved["step"], shown["step"], "the last step is saved: {shown:#}");

    cluster.add_workers(2);
    endless::until_together(&cluster, &run, 2, generation);
    endless::assert_undisturbed(&cluster, &run, &SLOW);
}
