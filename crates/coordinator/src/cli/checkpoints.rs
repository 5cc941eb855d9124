//! `coordinator checkpoints`

use super::args::{CheckpointArguments, CheckpointsArguments, CheckpointsCommand, Connection, RunArguments};
use super::client::Client;
use super::problem::Problem;
use super::{export, output, run_view};
use proto::v1;
use serde_json::json;
use std::process::ExitCode;

/// `RUN[@STEP]`. The coordinator takes step 0 for the newest one.
pub fn reference(text: &str) -> Result<v1::CheckpointRef, Problem> {
    let (run, step) = match text.split_once('@') {
        None => (text, 0),
        Some((run, step)) => {
            let step = step.parse().ok().filter(|step| *step > 0);
            let step = step.ok_or_else(|| {
                Problem::usage(format!("`{text}`: after `@` comes a step")).help("for example `quickstart@1200`")
            })?;
            (run, step)
        }
    };
    Ok(v1::CheckpointRef { run: run.to_owned(), generation: 0, step })
}

/// The checkpoints of the run that is meant; says so where another one may have been.
async fn list(client: &Client, run: &str) -> Result<v1::ListCheckpointsResponse, Problem> {
    let request = v1::ListCheckpointsRequest { run: run.to_owned() };
    let listed = client.checkpoints().list(request).await?.into_inner();
    if !listed.note.is_empty() {
        output::message(&format!("`{run}`: {}", listed.note));
    }
    Ok(listed)
}

/// A reference with the run's id in place of what a person wrote.
pub async fn resolve(client: &Client, text: &str) -> Result<v1::CheckpointRef, Problem> {
    let written = reference(text)?;
    let run = list(client, &written.run).await?.run;
    // A coordinator of before says nothing.
    Ok(if run.is_empty() { written } else { v1::CheckpointRef { run, ..written } })
}

pub async fn run(connection: &Connection, arguments: CheckpointsArguments) -> Result<ExitCode, Problem> {
    match arguments.command {
        CheckpointsCommand::List(RunArguments { run, json }) => {
            let client = Client::connect(connection).await?;
            let checkpoints = list(&client, &run).await?.checkpoints;
            if json {
                for checkpoint in &checkpoints {
                    output::json(&run_view::checkpoint(checkpoint))?;
                }
            } else {
                table(&checkpoints)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CheckpointsCommand::Verify(CheckpointArguments { checkpoint, json }) => {
            let client = Client::connect(connection).await?;
            let answer = client.checkpoints().verify(resolve(&client, &checkpoint).await?).await?.into_inner();
            if json {
                output::json(&json!({ "ok": answer.ok, "problems": answer.problems }))?;
            }
            if answer.ok {
                output::message(&format!("{checkpoint}: every byte is as it was written"));
                return Ok(ExitCode::SUCCESS);
            }
            Err(Problem::failure(format!("{checkpoint} is damaged:\n  {}", answer.problems.join("\n  ")))
                .help("resuming passes it over and takes the newest good one"))
        }
        CheckpointsCommand::Export(arguments) => export::run(connection, arguments).await,
    }
}

fn table(checkpoints: &[v1::Checkpoint]) -> std::io::Result<()> {
    let metric = checkpoints.first().map_or("", |checkpoint| checkpoint.metric.as_str());
    let rows: Vec<Vec<String>> = checkpoints
        .iter()
        .map(|checkpoint| {
            let reference = checkpoint.checkpoint.clone().unwrap_or_default();
            vec![
                reference.step.to_string(),
                reference.generation.to_string(),
                output::bytes(checkpoint.bytes),
                match (checkpoint.verified, checkpoint.damaged) {
                    (_, true) => "damaged",
                    (true, _) => "yes",
                    _ => "no",
                }
                .to_owned(),
                checkpoint.eval_loss.map_or_else(|| "-".to_owned(), |loss| output::metric(loss, Some(4))),
                match (checkpoint.best, checkpoint.score) {
                    (false, None) => "-".to_owned(),
                    (false, Some(_)) if metric == "loss" => "-".to_owned(),
                    (false, Some(score)) => output::metric(score, Some(4)),
                    (true, Some(score)) if metric != "loss" => format!("{}, the best", output::metric(score, Some(4))),
                    (true, _) => "the best".to_owned(),
                },
                run_view::ago(checkpoint.created_ms),
                checkpoint.path.clone(),
            ]
        })
        .collect();
    let by = if metric.is_empty() || metric == "loss" { "BEST".to_owned() } else { metric.to_uppercase() };
    output::table(&["STEP", "GENERATION", "SIZE", "VERIFIED", "EVAL LOSS", &by, "WRITTEN", "PATH"], &rows)
}
