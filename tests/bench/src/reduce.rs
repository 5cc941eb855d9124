//! What bit-identical weights cost: `exact` beside `fast`, two workers of one thread each, the real binaries.
//!
//! Everything but `reduce.mode` is the same. Each block is a run of its own in a cluster of its own, exact and fast in
//! turns; the workers stamp their steps. They talk over loopback, and in the last case over cables of 1 Gbit/s between network
//! namespaces: in exact mode a member sends 12 bytes a parameter (times what others have of it), in fast mode 8.

use crate::report::{Line, median};
use crate::{runs, samples};
use anyhow::{Result, ensure};
use e2e::{Cluster, Network};
use std::path::Path;

const WORKERS: usize = 2;
/// An exact step may take so many times as long.
const GOAL: f64 = 1.05;

struct Case {
    name: &'static str,
    size: &'static str,
    /// Pairs of blocks, and measured steps in one: the slower, the fewer.
    rounds: usize,
    steps: usize,
    quick: (usize, usize),
    /// Mbit/s of each worker's cable; none: loopback.
    cable: Option<u32>,
}

/// The batch of the shipped config for the small one: 32 sequences of 128. BERT-base's own batch is eight times larger
/// and would take minutes a step on two cores; since the reduction does not grow with the batch, this is the hard case.
const CASES: [Case; 3] = [
    Case {
        name: "4 layers × 256, vocabulary 30,522, 4 slots of 8 rows",
        size: "mini",
        rounds: 6,
        steps: 16,
        quick: (1, 6),
        cable: None,
    },
    Case { name: "BERT-base", size: "base", rounds: 3, steps: 4, quick: (1, 2), cable: None },
    Case {
        name: "BERT-base over cables of 1 Gbit/s",
        size: "base",
        rounds: 3,
        steps: 4,
        quick: (1, 2),
        cable: Some(1000),
    },
];

pub fn measure(only: &str, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    for case in CASES.iter().filter(|case| case.name.contains(only)) {
        let (rounds, steps) = if quick { case.quick } else { (case.rounds, case.steps) };
        let name = format!("step of exact mode beside fast mode, {}, {WORKERS} workers", case.name);
        if let Some(Err(reason)) = case.cable.map(|_| Network::create().and_then(|network| network.can_be_slow())) {
            show(&Line::missing("reduce", name, reason));
            continue;
        }
        let (mut exact, mut fast) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // A machine that grows slower all the time must not favour either.
            for is_exact in if round % 2 == 0 { [true, false] } else { [false, true] } {
                let (mode, found) = if is_exact { ("exact", &mut exact) } else { ("fast", &mut fast) };
                found.extend(case.block(folder.path(), mode, steps)?);
            }
        }
        let milliseconds = |found: Vec<f64>| 1000.0 * median(found);
        let (exact, fast) = (milliseconds(exact), milliseconds(fast));
        show(&match case.cable {
            None => Line::at_most("reduce", name, exact, fast, "ms", GOAL),
            Some(_) => Line::figure("reduce", name, exact, "ms").beside(fast),
        });
    }
    Ok(())
}

impl Case {
    /// The seconds of each step.
    fn block(&self, folder: &Path, mode: &str, steps: usize) -> Result<Vec<f64>> {
        let mut cluster = match self.cable {
            Some(_) => Cluster::start_in(Network::create().map_err(anyhow::Error::msg)?),
            None => Cluster::start(),
        };
        cluster.add_workers(WORKERS);
        if let Some(megabits) = self.cable {
            for worker in cluster.workers() {
                worker.host().expect("each is a host of the network").slow_down(megabits);
            }
        }
        let run = runs::submit(
            &cluster,
            folder,
            &[
                format!("model.size={}", self.size),
                "model.vocabulary=30522".to_owned(),
                format!("reduce.mode={mode}"),
                format!("run.min_workers={WORKERS}"),
            ],
        )?;
        runs::wait_for_step(&cluster, &run, runs::WARM_UP + steps)?;
        ensure!(cluster.generations(&run) == [WORKERS], "a worker was lost meanwhile: {:#}", cluster.show(&run));
        runs::step_seconds(&runs::step_times(&cluster, &run)?, runs::WARM_UP, steps)
    }
}
