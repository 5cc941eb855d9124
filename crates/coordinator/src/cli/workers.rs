//! `coordinator workers`

use super::args::{Connection, WorkerArguments, WorkersArguments, WorkersCommand};
use super::client::Client;
use super::output;
use super::problem::Problem;
use proto::v1;
use serde_json::{Value, json};
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: WorkersArguments) -> Result<ExitCode, Problem> {
    let client = Client::connect(connection).await?;
    match arguments.command {
        WorkersCommand::List(flag) => {
            let workers = client.workers().list(v1::ListWorkersRequest {}).await?.into_inner().workers;
            if flag.json {
                for shown in &workers {
                    output::json(&worker(shown))?;
                }
            } else {
                table(workers)?;
            }
        }
        WorkersCommand::Drain(WorkerArguments { worker: name, json }) => {
            let shown = client.workers().drain(v1::WorkerRequest { worker: name }).await?.into_inner();
            if json {
                output::json(&worker(&shown))?;
            } else {
                output::message(&format!("worker {} finishes its step, hands over and ends", shown.name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn worker(worker: &v1::Worker) -> Value {
    json!({
        "name": worker.name,
        "state": worker.state,
        "run": worker.run,
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "threads": worker.threads,
        "version": worker.version,
    })
}

fn table(workers: Vec<v1::Worker>) -> std::io::Result<()> {
    let row = |worker: v1::Worker| {
        vec![worker.name, worker.state, worker.run, worker.host, worker.device, worker.threads.to_string()]
    };
    let rows: Vec<Vec<String>> = workers.into_iter().map(row).collect();
    output::table(&["WORKER", "STATE", "RUN", "HOST", "DEVICE", "THREADS"], &rows)
}
