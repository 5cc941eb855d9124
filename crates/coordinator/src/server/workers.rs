//! Workers, as people see them.

use super::driver::{Command, Question};
use super::request;
use control::{Control, Worker};
use proto::{Failure, FailureKind, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use types::WorkerId;

/// Serves `trireme.v1.Workers`.
#[derive(Debug)]
pub struct WorkersService {
    commands: mpsc::Sender<Command>,
}

fn ending() -> Failure {
    Failure::new(FailureKind::Unavailable, "the coordinator is shutting down; try again when it is back")
}

fn state(worker: &Worker) -> &'static str {
    match worker {
        Worker { session: None, .. } => "away",
        Worker { leaving: true, .. } => "leaving",
        Worker { run: Some(_), .. } => "working",
        Worker { ready: false, .. } => "starting",
        _ => "idle",
    }
}

fn message(name: &WorkerId, worker: &Worker) -> v1::Worker {
    let mut shown = v1::Worker {
        name: name.to_string(),
        state: state(worker).to_owned(),
        run: worker.run.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..v1::Worker::default()
    };
    if let Some(facts) = &worker.facts {
        shown.host.clone_from(&facts.host);
        shown.device.clone_from(&facts.device);
        shown.version.clone_from(&facts.version);
        (shown.pid, shown.threads) = (facts.pid, facts.threads);
    }
    shown
}

impl WorkersService {
    /// Asks and tells through `commands`.
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    async fn all(&self) -> Result<Vec<v1::Worker>, Failure> {
        let (answer, all) = oneshot::channel();
        let question = move |control: &Control| {
            // Who asked may have gone.
            let _ = answer.send(control.workers().map(|(name, worker)| message(name, worker)).collect());
        };
        self.commands.send(Command::Ask(Question(Box::new(question)))).await.map_err(|_| ending())?;
        all.await.map_err(|_| ending())
    }
}

#[tonic::async_trait]
impl v1::workers_server::Workers for WorkersService {
    async fn list(&self, _: Request<v1::ListWorkersRequest>) -> Result<Response<v1::ListWorkersResponse>, Status> {
        Ok(Response::new(v1::ListWorkersResponse { workers: self.all().await? }))
    }

    async fn drain(&self, request: Request<v1::WorkerRequest>) -> Result<Response<v1::Worker>, Status> {
        let worker = request::worker_id(&request.into_inner().worker)?;
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::Drain { worker: worker.clone(), done }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())??;
        let told = self.all().await?.into_iter().find(|shown| shown.name == worker.as_str());
        // It may have gone already.
        Ok(Response::new(told.unwrap_or_else(|| v1::Worker { name: worker.into(), ..v1::Worker::default() })))
    }
}
