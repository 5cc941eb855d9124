//! `coordinator ledger`

use super::args::{Connection, LedgerArguments, LedgerCommand, RunArguments};
use super::client::Client;
use super::output;
use super::problem::Problem;
use proto::v1;
use serde_json::json;
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: LedgerArguments) -> Result<ExitCode, Problem> {
    let LedgerCommand::Verify(RunArguments { run, json }) = arguments.command;
    let client = Client::connect(connection).await?;
    let report = client.runs().verify_ledger(v1::RunRequest { run: run.clone() }).await?.into_inner();
    if json {
        output::json(&json!({
            "ok": report.ok,
            "epochs": report.epochs,
            "samples": report.samples,
            "duplicates": report.duplicates,
            "missing": report.missing,
            "chain": report.chain,
            "steps": report.steps,
            "problems": report.problems,
        }))?;
    } else {
        output::line(&format!(
            "{} steps, {} samples, {} whole epochs; {} samples used twice, {} left out\nchain {}",
            report.steps, report.samples, report.epochs, report.duplicates, report.missing, report.chain
        ))?;
    }
    if report.ok {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Problem::failure(format!("the ledger of run {run} does not hold:\n  {}", report.problems.join("\n  ")))
        .help("the run's data order cannot be trusted; resume it from a checkpoint before the first problem"))
}
