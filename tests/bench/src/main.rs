//! Our speed beside the peers', measured in turns on one machine within one run.
//!
//! Absolute figures of two runs differ by a fifth and more, so only ratios are reported against a goal: medians of
//! steps that were taken alternately, a block of ours, a block of theirs, with the same number of threads.

#![allow(clippy::print_stdout, reason = "the results are this program's output")]

mod ours;
mod peer;
mod report;
mod samples;
mod step;

use clap::Parser;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Measures Trireme's training step beside a plain PyTorch loop")]
struct Arguments {
    /// What to measure.
    #[arg(long, default_value = "step")]
    suite: Suite,
    /// The Python that has torch and transformers.
    #[arg(long)]
    python: PathBuf,
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
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let show = |line: &report::Line| {
        if arguments.json {
            println!("{}", line.json());
        } else {
            println!("{line}");
        }
    };
    match arguments.suite {
        Suite::Step => step::measure(&arguments.python, arguments.quick, show),
    }
}
