//! Our speed beside the peers', measured in turns on one machine within one run.
//!
//! Absolute figures of two runs differ by a fifth and more, so only ratios are reported against a goal: medians of
//! steps that were taken alternately, a block of ours, a block of theirs, with the same number of threads.

#![allow(clippy::print_stdout, reason = "the results are this program's output")]

mod balance;
mod ours;
mod peer;
mod recovery;
mod reduce;
mod report;
mod runs;
mod samples;
mod step;
mod throttle;

use anyhow::Context;
use clap::Parser;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Measures Trireme's training step beside a plain PyTorch loop, and what its promises cost")]
struct Arguments {
    /// What to measure.
    #[arg(long, default_value = "step")]
    suite: Suite,
    /// The Python that has torch and transformers; for `step`.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line: {suite, case, ours, peer, unit, ratio, goal, met}.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Suite {
    /// Whole training steps of one worker: samples, forward, backward, reduction, optimizer.
    Step,
    /// How long training stands still after a worker or the coordinator is killed or frozen.
    Recovery,
    /// What exact mode costs beside fast mode.
    Reduce,
    /// How much of a slow worker's speed a run gets.
    Balance,
}

fn main() -> anyhow::Result<()> {
    let Arguments { suite, python, quick, json } = Arguments::parse();
    match suite {
        Suite::Step => step::measure(&python.context("give --python")?, quick, |line| show(line, json)),
        Suite::Recovery => recovery::measure(quick, |line| show(line, json)),
        Suite::Reduce => reduce::measure(quick, |line| show(line, json)),
        Suite::Balance => balance::measure(quick, |line| show(line, json)),
    }
}

fn show(line: &(impl serde::Serialize + std::fmt::Display), json: bool) {
    if json {
        println!("{}", serde_json::to_string(line).expect("numbers and text are JSON"));
    } else {
        println!("{line}");
    }
}
