//! The command line: a client of a running coordinator, and `start`, which runs one.
//!
//! stdout carries data, stderr carries messages. Nothing here takes a decision about a run.

mod args;
mod checkpoints;
mod client;
mod complete;
mod config;
mod data;
mod export;
mod ledger;
mod metrics;
mod output;
mod problem;
mod progress;
mod recipe;
#[cfg(test)]
mod reference;
mod run_view;
mod runs;
mod start;
mod submit;
mod sweep;
mod sweep_view;
mod tokenizer;
mod workers;

use args::{Arguments, Command};
use clap::Parser;
use problem::Problem;
use std::process::ExitCode;

/// Reads the arguments, does what they say, and tells the exit code: 0 ok, 1 failure, 2 usage, 4 no access,
/// 5 bad input, 75 worth another try.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return problem::report(Problem::failure(format!("cannot start threads: {error}"))),
    };
    let result = runtime.block_on(run(arguments));
    // Reading from a terminal or a blocking download must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(code) => code,
        Err(problem) => problem::report(problem),
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Problem> {
    let Arguments { connection, command } = arguments;
    match command {
        Command::Start(arguments) => start::run(arguments).await,
        Command::Submit(arguments) => submit::run(&connection, arguments).await,
        Command::Sweep(arguments) => sweep::run(&connection, arguments).await,
        Command::Runs(arguments) => runs::run(&connection, arguments).await,
        Command::Workers(arguments) => workers::run(&connection, arguments).await,
        Command::Metrics(arguments) => metrics::run(&connection, arguments).await,
        Command::Checkpoints(arguments) => checkpoints::run(&connection, arguments).await,
        Command::Ledger(arguments) => ledger::run(&connection, arguments).await,
        Command::Config(arguments) => config::run(arguments),
        Command::Recipe(arguments) => recipe::run(arguments),
        Command::Tokenizer(arguments) => tokenizer::run(arguments).await,
        Command::Data(arguments) => data::run(arguments).await,
        Command::Completions(arguments) => complete::run(&arguments),
    }
}

/// Log lines with fields to stderr; `TRIREME_LOG` chooses which, e.g. `debug` or `coordinator=debug`.
fn start_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("TRIREME_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
