//! Replays seeds: `sim --seed 7` prints that history line by line, `sim --seeds 1000` runs many and prints the failing.
#![allow(clippy::print_stdout, reason = "it is a command-line tool")]

use clap::Parser;
use sim::simulate;
use std::process::ExitCode;

/// The seeded simulator of the coordinator's decisions.
#[derive(Parser)]
struct Arguments {
    /// Run this one seed and print its trace.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let trace = arguments.seed.is_some();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.from..arguments.from + arguments.seeds,
    };
    let (mut failed, mut commits, mut generations, mut rewinds, mut events) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let outcome = simulate(seed, trace);
        for line in &outcome.trace {
            println!("{line}");
        }
        if let Some(violation) = outcome.violation {
            println!("seed {seed}: {violation}\n  replay: cargo xtask sim --seed {seed}");
            failed += 1;
        }
        commits += outcome.commits;
        generations += outcome.generations;
        rewinds += outcome.rewinds;
        events += outcome.events;
    }
    println!("{failed} failed; {commits} commits, {generations} generations, {rewinds} rewinds, {events} events");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
