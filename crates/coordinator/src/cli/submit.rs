//! `coordinator submit`

use super::args::{Connection, SubmitArguments};
use super::client::Client;
use super::problem::Problem;
use super::{output, progress};
use proto::v1;
use serde_json::json;
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: SubmitArguments) -> Result<ExitCode, Problem> {
    let SubmitArguments { file, set, wait, json } = arguments;
    // What can be found wrong without the coordinator is told with its line.
    let checked = config::load_checked(&file, &set)?;
    let client = Client::connect(connection).await?;
    if checked.sweep.is_some() {
        return super::sweep::submit(&client, &checked, &file, wait, json).await;
    }
    let request = v1::SubmitRequest { config: config::to_toml(&checked) };
    let v1::SubmitResponse { run, warnings } = client.runs().submit(request).await?.into_inner();
    if json {
        output::json(&json!({ "run": run, "warnings": warnings }))?;
    } else {
        warn(&warnings);
        output::line(&run)?;
    }
    if wait {
        return progress::follow(&client, &run, json).await;
    }
    if !json {
        output::message(&format!("queued; `coordinator runs watch {run}` follows it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is odd about what was submitted but may be meant.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        output::message(&format!("warning: {warning}"));
    }
}
