//! `cargo xtask`: set-up, the quickstart, all tests, tidiness and measurements. See `cargo xtask --help`.

mod artefacts;
mod bench;
mod building;
mod cache;
mod chaos;
mod cluster;
mod corpora;
mod demo;
mod libtorch;
mod python;
mod quantize;
mod quickstart;
mod sim;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, quickstart, tests and measurements of Trireme", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch libtorch (checked by SHA-256, cached outside the clone) and link it as .libtorch.
    Setup(libtorch::Arguments),
    /// Set up, then pretrain, kill a worker, stop, resume, fine-tune and export on real data.
    Quickstart(quickstart::Arguments),
    /// What pretraining is worth on a real task: pretrain, fine-tune at several sizes, compare with scratch and baselines.
    Demo(demo::Arguments),
    /// Set up whatever is missing, then tidy and all tests; the totals come last.
    Test(test::Arguments),
    /// Formatting, lints, the arrows between crates, file sizes, fresh schema and docs.
    Tidy(tidy::Arguments),
    /// Measure side by side with Hugging Face, as ratios inside one run.
    Bench(bench::Arguments),
    /// What int8 costs and gains: size, speed and accuracy beside float32 on a real task.
    Quantize(quantize::Arguments),
    /// Run the seeded simulator of the coordinator's decisions; one seed prints its trace.
    Sim(sim::Arguments),
    /// Disturb a run of real processes by a seeded schedule of faults, and tell what it cost and whether it lost anything.
    Chaos(chaos::Arguments),
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        // Not by the standard library's way, which adds a backtrace where RUST_BACKTRACE is set: nobody is helped by ours.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Setup(arguments) => libtorch::run(&arguments)?,
        Command::Quickstart(arguments) => quickstart::run(&arguments)?,
        Command::Demo(arguments) => demo::run(&arguments)?,
        Command::Test(arguments) => return test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments)?,
        Command::Bench(arguments) => bench::run(&arguments)?,
        Command::Quantize(arguments) => quantize::run(&arguments)?,
        Command::Sim(arguments) => sim::run(&arguments)?,
        Command::Chaos(arguments) => chaos::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
