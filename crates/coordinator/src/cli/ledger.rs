//! `coordinator ledger`

use super::args::{Connection, LedgerArguments, LedgerCommand, VerifyLedgerArguments};
use super::client::Client;
use super::output;
use super::problem::Problem;
use indicatif::{ProgressBar, ProgressDrawTarget};
use proto::v1;
use serde_json::json;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two lines about the progress, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub async fn run(connection: &Connection, arguments: LedgerArguments) -> Result<ExitCode, Problem> {
    let LedgerCommand::Verify(VerifyLedgerArguments { run, deep, json }) = arguments.command;
    let client = Client::connect(connection).await?;
    let report = if deep {
        follow(&client, &run).await?
    } else {
        client.runs().verify_ledger(v1::RunRequest { run: run.clone() }).await?.into_inner()
    };
    if json {
        output::json(&json!({
            "ok": report.ok,
            "deep": report.deep,
            "epochs": report.epochs,
            "samples": report.samples,
            "duplicates": report.duplicates,
            "missing": report.missing,
            "chain": report.chain,
            "steps": report.steps,
            "problems": report.problems,
        }))?;
    } else {
        let trust = if report.deep {
            "every unit was made again and counted"
        } else {
            "how many samples a unit has is as the workers reported it; --deep makes the units again and counts them"
        };
        output::line(&format!(
            "{} steps, {} samples, {} whole epochs; {} samples used twice, {} left out\nchain {}\n{trust}",
            report.steps, report.samples, report.epochs, report.duplicates, report.missing, report.chain
        ))?;
    }
    if report.ok {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Problem::failure(format!("the ledger of run {run} does not hold:\n  {}", report.problems.join("\n  ")))
        .help("the run's data order cannot be trusted; resume it from a checkpoint before the first problem"))
}

/// The report of a deep proof; its progress goes to stderr.
async fn follow(client: &Client, run: &str) -> Result<v1::LedgerReport, Problem> {
    let mut stream = client.runs().verify_ledger_deep(v1::RunRequest { run: run.to_owned() }).await?.into_inner();
    let bar =
        std::io::stderr().is_terminal().then(|| ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()));
    let mut told = Instant::now();
    while let Some(v1::LedgerProgress { steps, total_steps, report }) = stream.message().await? {
        if let Some(report) = report {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return Ok(report);
        }
        if let Some(bar) = &bar {
            bar.set_length(total_steps);
            bar.set_position(steps);
        } else if told.elapsed() >= LINE_EVERY {
            told = Instant::now();
            output::message(&format!("the units of {steps} of {total_steps} steps are made again"));
        }
    }
    Err(Problem::retry("the coordinator ended before it had read the whole ledger"))
}
