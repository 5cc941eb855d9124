//! `cargo xtask bench`: our speed beside the peers', as ratios of medians inside one run, and what our promises cost.

use crate::building::{binary, workspace};
use crate::{cache, libtorch, python};
use anyhow::Result;
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Which measurements: step, recovery, reduce, balance.
    #[arg(long, default_value = "step")]
    suite: String,
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line; `suite`, `case` and `met` are in each.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    libtorch::set_up()?;
    workspace()?;
    let mut bench = Command::new(binary("bench")?);
    bench.args(["--suite", &arguments.suite]);
    if arguments.suite == "step" {
        bench.arg("--python").arg(python::interpreter()?);
    }
    for (given, flag) in [(arguments.quick, "--quick"), (arguments.json, "--json")] {
        if given {
            bench.arg(flag);
        }
    }
    cache::run(&mut bench)
}
