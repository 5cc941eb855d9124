//! `cargo xtask sim`: replays seeds of the simulator in tests/sim.

use crate::building::cargo;
use crate::cache;
use anyhow::Result;

#[derive(clap::Args)]
pub struct Arguments {
    /// Replay one seed and print its trace.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Try this many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut sim = cargo();
    sim.args(["run", "--quiet", "--package", "sim", "--bin", "sim", "--"]);
    match arguments.seed {
        Some(seed) => sim.args(["--seed", &seed.to_string()]),
        None => sim.args(["--seeds", &arguments.seeds.to_string()]),
    };
    cache::run(&mut sim)
}
