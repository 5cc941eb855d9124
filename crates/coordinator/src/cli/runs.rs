//! `coordinator runs`

use super::args::{Connection, RunArguments, RunsArguments, RunsCommand};
use super::client::Client;
use super::problem::Problem;
use super::{output, progress, run_view};
use proto::v1;
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: RunsArguments) -> Result<ExitCode, Problem> {
    let client = Client::connect(connection).await?;
    let request = |run: &str| v1::RunRequest { run: run.to_owned() };
    match arguments.command {
        RunsCommand::List(flag) => {
            let runs = client.runs().list(v1::ListRunsRequest {}).await?.into_inner().runs;
            if flag.json {
                for run in &runs {
                    output::json(&run_view::listed(run))?;
                }
            } else {
                run_view::table(&runs)?;
            }
        }
        RunsCommand::Show(RunArguments { run, json }) => {
            let shown = client.runs().show(request(&run)).await?.into_inner();
            show(&shown, json)?;
        }
        RunsCommand::Watch(RunArguments { run, json }) => {
            // The name may come to mean another run meanwhile; the id does not.
            let id = client.runs().show(request(&run)).await?.into_inner().id;
            return progress::follow(&client, &id, json).await;
        }
        RunsCommand::Cancel(RunArguments { run, json }) => {
            let shown = client.runs().cancel(request(&run)).await?.into_inner();
            if json {
                output::json(&run_view::run(&shown))?;
            } else if shown.status == "cancelled" {
                output::message(&format!("run {} is cancelled", shown.id));
            } else {
                output::message(&format!("run {} stops after a last checkpoint", shown.id));
            }
        }
        RunsCommand::Resume(RunArguments { run, json }) => {
            let shown = client.runs().resume(request(&run)).await?.into_inner();
            if json {
                output::json(&run_view::run(&shown))?;
            } else {
                output::message(&format!(
                    "run {} is {}; it goes on as soon as there are workers",
                    shown.id, shown.status
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(run: &v1::Run, json: bool) -> std::io::Result<()> {
    if json { output::json(&run_view::run(run)) } else { run_view::print(run) }
}
