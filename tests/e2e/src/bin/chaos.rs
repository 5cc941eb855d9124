//! Faults on real processes from one seed; see the `chaos` module.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command-line tool")]

use clap::Parser;
use e2e::chaos::{self, Kind, Options};
use e2e::{Network, interruption};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

/// Disturbs a run of real processes and says what it cost. The schedule goes to standard error as it happens.
#[derive(Parser)]
struct Arguments {
    /// What the schedule of faults follows from. Default: a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// For how long there are faults; the undisturbed run comes after. Default: 3, unless --faults is given.
    #[arg(long, value_parser = positive_minutes)]
    minutes: Option<f64>,
    /// So many faults at most.
    #[arg(long)]
    faults: Option<usize>,
    /// Workers of the run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=32))]
    workers: u16,
    /// Stay on loopback, also where network namespaces are allowed.
    #[arg(long)]
    loopback: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

fn positive_minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if minutes > 0.0 && minutes <= 10_080.0 { Ok(minutes) } else { Err("more than 0, a week at most".to_owned()) }
}

fn main() -> ExitCode {
    let Arguments { seed, minutes, faults, workers, loopback, json } = Arguments::parse();
    if let Err(error) = interruption::listen() {
        eprintln!("chaos: cannot listen for signals: {error}");
        return ExitCode::FAILURE;
    }
    let minutes = if minutes.is_none() && faults.is_none() { Some(3.0) } else { minutes };
    let options = Options {
        seed: seed.unwrap_or_else(rand::random),
        workers: workers.into(),
        kinds: Kind::all(),
        faults,
        time: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        tell: true,
    };
    eprintln!("seed {}", options.seed);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let network = if loopback { Err("--loopback was given".to_owned()) } else { Network::create() };
        if let Err(why) = &network {
            eprintln!("no network namespaces: {why}");
        }
        chaos::run(&options, network.ok())
    }));
    let Ok(report) = done else {
        if interruption::asked() {
            eprintln!("interrupted; everything that was started has ended");
            return ExitCode::from(130);
        }
        // The panic said why.
        if json {
            println!("{}", serde_json::json!({"ok": false, "seed": options.seed}));
        }
        return ExitCode::FAILURE;
    };
    if json {
        println!("{}", serde_json::to_string(&report).expect("numbers and text are JSON"));
    } else {
        println!("{report}");
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
