//! `cargo xtask sim`: replays seeds of the simulator in tests/sim.

use crate::building::{binary, workspace};
use crate::{cache, libtorch};
use anyhow::Result;
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Replay one seed and print its trace.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Try this many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    libtorch::set_up()?;
    workspace()?;
    let mut sim = Command::new(binary("sim")?);
    match arguments.seed {
        Some(seed) => sim.args(["--seed", &seed.to_string()]),
        None => sim.args(["--from", &arguments.from.to_string(), "--seeds", &arguments.seeds.to_string()]),
    };
    cache::run(&mut sim)
}
