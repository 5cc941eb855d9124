//! `cargo xtask chaos`: a run of real processes under a seeded schedule of faults; see tests/e2e/src/chaos.rs.

use crate::building::{binary, workspace};
use crate::libtorch;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// What the schedule of faults follows from. Default: a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// For how long there are faults; the undisturbed run comes after. Default: 3, unless --faults is given.
    #[arg(long)]
    minutes: Option<f64>,
    /// So many faults at most.
    #[arg(long)]
    faults: Option<u64>,
    /// Workers of the run, 3 to 32.
    #[arg(long, default_value_t = 3)]
    workers: u16,
    /// Stay on loopback, also where network namespaces are allowed.
    #[arg(long)]
    loopback: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    libtorch::set_up()?;
    workspace()?;
    let path = binary("chaos")?;
    let mut chaos = Command::new(&path);
    chaos.args(["--workers", &arguments.workers.to_string()]);
    let values = [
        ("--seed", arguments.seed.map(|seed| seed.to_string())),
        ("--minutes", arguments.minutes.map(|minutes| minutes.to_string())),
        ("--faults", arguments.faults.map(|faults| faults.to_string())),
    ];
    for (flag, value) in values {
        if let Some(value) = value {
            chaos.args([flag, &value]);
        }
    }
    for (given, flag) in [(arguments.loopback, "--loopback"), (arguments.json, "--json")] {
        if given {
            chaos.arg(flag);
        }
    }
    // In our place: it ends its processes itself when it is interrupted, and its exit code is ours.
    Err(chaos.exec()).with_context(|| format!("cannot start {}", path.display()))
}
