//! Two workers of one thread each beside one worker of two threads, and beside one of one: the real binaries, `exact`.
//! And beside two processes of PyTorch's DistributedDataParallel over Gloo ([`crate::step`] says what each does).
//!
//! The batch is the same in all three, so two workers of one thread share the slots. Each block is a run of its own in
//! a cluster of its own, the three in turns. What the machine itself gives is measured in the same turns: large matrix
//! products and copies in memory, on one thread, on libtorch's two threads, and on two threads that know nothing of
//! each other, as two workers do not. No pair of workers can do better than that beside one.

use crate::peer::Group;
use crate::report::{Line, median};
use crate::step::{Mode, Spec};
use crate::{roofline, runs, samples, stats};
use anyhow::{Result, ensure};
use config::{ModelConfig, ModelSize};
use e2e::Cluster;
use std::path::Path;

/// Workers, and threads of each.
const ARRANGEMENTS: [(usize, u32); 3] = [(2, 1), (1, 2), (1, 1)];
const SEQUENCE_LENGTH: usize = 128;
const GOAL_BESIDE_THREADS: f64 = 0.97;
const GOAL_BESIDE_ONE: f64 = 1.9;

struct Case {
    name: &'static str,
    size: ModelSize,
    /// As the config spells it.
    size_name: &'static str,
    slots: u32,
    micro_batch: usize,
    rounds: usize,
    steps: usize,
    quick: Option<(usize, usize)>,
}

const CASES: [Case; 2] = [
    Case {
        name: "BERT-mini, 128",
        size: ModelSize::Mini,
        size_name: "mini",
        slots: 4,
        micro_batch: 8,
        rounds: 6,
        steps: 12,
        quick: Some((1, 5)),
    },
    Case {
        name: "BERT-base, 128",
        size: ModelSize::Base,
        size_name: "base",
        slots: 2,
        micro_batch: 8,
        rounds: 4,
        steps: 3,
        quick: None,
    },
];

/// Of the machine: one thread, two of libtorch's, two on their own.
#[derive(Default)]
struct Ceiling {
    one: Vec<f64>,
    two: Vec<f64>,
    apart: Vec<f64>,
}

impl Ceiling {
    fn measure(&mut self, work: fn() -> f64) -> Result<()> {
        tch::set_num_threads(1);
        self.one.push(work());
        self.apart.push(roofline::together(2, work)?);
        tch::set_num_threads(2);
        self.two.push(work());
        Ok(())
    }

    fn show(&self, what: &str, unit: &'static str, size: f64, show: &mut impl FnMut(&Line)) {
        for (name, found) in [("two threads of one process", &self.two), ("two independent threads", &self.apart)] {
            let case = format!("the machine: {what}, {name}, beside one thread");
            let line = Line::figure("scaling", case, median(found.clone()) / size, unit);
            show(&line.beside(median(self.one.clone()) / size).spread(stats::widest(&[found, &self.one])));
        }
    }
}

pub fn measure(python: &Path, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    let (mut products, mut copies) = (Ceiling::default(), Ceiling::default());
    for case in &CASES {
        let (rounds, steps) = match (quick, case.quick) {
            (false, _) => (case.rounds, case.steps),
            (true, Some(few)) => few,
            (true, None) => continue,
        };
        let mut found = ARRANGEMENTS.map(|_| Vec::new());
        let mut peers = Vec::new();
        for round in 0..rounds {
            // Ours are new processes in every round too.
            let mut group = Group::start(python, "step", &case.spec(), 2, 1)?;
            group.block(runs::WARM_UP)?;
            peers.extend(group.block(steps)?);
            drop(group);
            // A machine that grows slower all the time must not favour any.
            for place in 0..ARRANGEMENTS.len() {
                let place = (place + round) % ARRANGEMENTS.len();
                let (workers, threads) = ARRANGEMENTS[place];
                found[place].extend(case.block(folder.path(), workers, threads, steps)?);
            }
            products.measure(roofline::products)?;
            copies.measure(roofline::copies)?;
        }
        let tokens = f64::from(case.slots) * (case.micro_batch * SEQUENCE_LENGTH) as f64;
        let [together, threads, alone] = found;
        let line = |beside: &str, other: &[f64]| {
            let name = format!("{}, two workers of one thread, beside {beside}", case.name);
            let line = Line::figure("scaling", name, tokens / median(together.clone()), "tokens/s");
            line.beside(tokens / median(other.to_vec())).spread(stats::widest(&[&together, other]))
        };
        show(&line("one worker of two threads", &threads).at_least(GOAL_BESIDE_THREADS));
        show(&line("one worker of one thread", &alone).at_least(GOAL_BESIDE_ONE));
        show(&line("two processes of DDP over Gloo", &peers));
    }
    products.show("matrix products of 2,048 × 2,048", "GFLOP/s", 1e9, &mut show);
    copies.show("copies in memory", "GB/s", 1e9, &mut show);
    Ok(())
}

impl Case {
    /// Of each of two processes.
    fn spec(&self) -> Spec {
        let shape = ModelConfig { size: self.size, vocabulary: Some(30_522), ..ModelConfig::default() };
        let shape = shape.shape(30_522, SEQUENCE_LENGTH as i64);
        let batch = u64::from(self.slots) * self.micro_batch as u64 / 2;
        Spec::new(&shape, Mode::Eager, batch, SEQUENCE_LENGTH, 0.15, 1)
    }

    /// The seconds of each step.
    fn block(&self, folder: &Path, workers: usize, threads: u32, steps: usize) -> Result<Vec<f64>> {
        let mut cluster = Cluster::start();
        cluster.add_workers_of(workers, threads);
        let overrides = [
            format!("model.size={}", self.size_name),
            "model.vocabulary=30522".to_owned(),
            format!("batch.slots={}", self.slots),
            format!("batch.micro_batch={}", self.micro_batch),
            format!("run.min_workers={workers}"),
        ];
        let run = runs::submit(&cluster, folder, &overrides)?;
        runs::wait_for_step(&cluster, &run, runs::WARM_UP + steps)?;
        ensure!(cluster.generations(&run) == [workers], "a worker was lost meanwhile: {:#}", cluster.show(&run));
        runs::step_seconds(&runs::step_times(&cluster, &run)?, runs::WARM_UP, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_told_beside_one_thread() {
        let mut lines = Vec::new();
        let ceiling = Ceiling { one: vec![10.0; 4], two: vec![19.0; 4], apart: vec![18.0; 4] };
        ceiling.show("copies", "GB/s", 1.0, &mut |line: &Line| lines.push((line.ratio, line.goal, line.spread)));
        assert_eq!(lines, [(Some(1.9), None, Some(0.0)), (Some(1.8), None, Some(0.0))]);
    }
}
