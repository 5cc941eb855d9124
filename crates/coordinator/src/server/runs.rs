//! Runs, as people see them.

use super::corpora::{Corpora, stored_config};
use super::coverage;
use super::driver::{Command, Question};
use super::on_thread::OnThread;
use super::proof;
use super::refusals::Refusals;
use super::stuck::Stuck;
use super::submit;
use super::wire::{self, RunParts};
use super::{checkpoints::Repository, request};
use control::{Refusal, RunStatus};
use proto::{Failure, FailureKind, v1};
use std::sync::Arc;
use std::time::Duration;
use store::{CommitRow, Reader, RunRow};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use types::{Digest, RunId, Step};

/// Events shown with a run.
const EVENTS: usize = 200;
/// Who watches a run gets no more than so many snapshots a second.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(200);
/// The driver answers a question at once, unless it waits for the disk.
const ANSWER: Duration = Duration::from_secs(2);
/// Words of progress that wait for a slow reader.
const PROGRESS: usize = 4;
/// What trainers report of a step that changed nothing.
const SKIPPED: &str = "train/skipped";

/// Serves `trireme.v1.Runs`.
#[derive(Debug)]
pub struct RunsService {
    /// What people are shown.
    pub shown: Shown,
    /// For `init.from = "run:…"`.
    pub repository: Arc<Repository>,
    /// Counts the driver's batches.
    pub changed: watch::Receiver<u64>,
    /// Ends the streams.
    pub shutdown: CancellationToken,
}

/// The run that is meant, see [`request::find_run`].
pub async fn find(reader: &OnThread<Reader>, wanted: &str) -> Result<RunRow, Failure> {
    let wanted = wanted.to_owned();
    let found = reader.call(move |reader| -> Result<Result<RunRow, Failure>, store::DatabaseError> {
        let mut rows = reader.runs()?;
        let names: Vec<(RunId, String)> = rows.iter().map(|row| (row.id.clone(), row.name.clone())).collect();
        Ok(request::find_run(&wanted, &names).map(|id| {
            let index = rows.iter().position(|row| row.id == *id).expect("an id from these rows");
            rows.swap_remove(index)
        }))
    });
    found.await.map_err(wire::database_failure)?
}

/// The run whose checkpoints are meant, and what people should know of that choice. A name is the newest run of that name
/// that has a checkpoint: one that failed before its first must not hide an earlier one.
pub async fn find_with_checkpoint(
    reader: &OnThread<Reader>,
    wanted: &str,
) -> Result<(RunRow, Option<String>), Failure> {
    let newest = find(reader, wanted).await?;
    if newest.name != wanted {
        return Ok((newest, None));
    }
    let name = wanted.to_owned();
    let found = reader.call(move |reader| reader.newest_with_checkpoint(&name)).await;
    Ok(match found.map_err(wire::database_failure)? {
        Some(row) if row.id != newest.id => {
            let note = format!(
                "run {} is taken; a newer run of the name `{wanted}`, {}, is {} and has no checkpoint to take",
                row.id, newest.id, newest.status
            );
            (row, Some(note))
        }
        _ => (newest, None),
    })
}

/// What a run is shown from.
#[derive(Clone, Debug)]
pub struct Shown {
    /// To the driver.
    pub commands: mpsc::Sender<Command>,
    /// What is committed.
    pub reader: OnThread<Reader>,
    /// Corpora of runs, opened when needed.
    pub corpora: Arc<Corpora>,
    /// What came too late.
    pub refusals: Arc<Refusals>,
    /// Why nothing is recorded, if so.
    pub stuck: Arc<Stuck>,
}

impl Shown {
    /// The run with all that belongs to it.
    async fn run(&self, row: RunRow) -> Result<v1::Run, Failure> {
        let id = row.id.clone();
        let read = move |reader: &mut Reader| -> Result<_, store::DatabaseError> {
            // First the run itself: what is read after it is of that state or of a later one.
            let row = reader.run(&id)?.unwrap_or(row);
            let last = match row.step.0.checked_sub(1) {
                Some(before) => reader.commits(&id, Step(before), 1)?.into_iter().next(),
                None => None,
            };
            let parts = RunParts {
                metrics: reader.latest_metrics(&id)?,
                checkpoints: reader.checkpoints(&id)?,
                events: reader.events(&id, EVENTS)?,
                sweep: reader.sweep_of(&id)?,
                skipped_steps: reader.metric_count(&id, SKIPPED)?,
                samples_digest: row.samples_digest.or(last.as_ref().map(|commit| commit.samples_digest)),
                ..RunParts::default()
            };
            Ok((row, parts, last))
        };
        let (row, mut parts, last) = self.reader.call(read).await.map_err(wire::database_failure)?;
        parts.refused = self.refusals.of(&row.id);
        parts.coverage = Some(self.coverage(&row, last.as_ref(), parts.samples_digest));
        let waits = matches!(row.status.as_str(), "queued" | "interrupted");
        if waits || row.status == "running" {
            parts.waiting_for = self.stuck.reason();
        }
        // A driver that cannot write does not answer either.
        if waits && parts.waiting_for.is_none() {
            let (answer, waiting_for) = oneshot::channel();
            let id = row.id.clone();
            let question = Question(Box::new(move |control| drop(answer.send(control.waiting_for(&id)))));
            self.commands.send(Command::Ask(question)).await.map_err(|_| ending())?;
            if let Ok(answer) = tokio::time::timeout(ANSWER, waiting_for).await {
                parts.waiting_for = answer.map_err(|_| ending())?;
            }
        }
        Ok(wire::run(row, parts))
    }

    /// How many samples a step uses is in the config; where the slots stand is in the last commit.
    fn coverage(&self, row: &RunRow, last: Option<&CommitRow>, chain: Option<Digest>) -> v1::Coverage {
        let samples = stored_config(&row.id, &row.config)
            .map_or(0, |config| config.batch.samples_until(row.step.0, config.run.steps));
        let epochs = last.map_or(Some(0), |commit| {
            let opened = self.corpora.at_hand(&row.id)?;
            coverage::epochs(opened.corpus.plan(), &commit.segments)
        });
        let chain = chain.map(|chain| chain.to_string()).unwrap_or_default();
        v1::Coverage { samples, epochs, chain }
    }
}

pub(super) fn ending() -> Failure {
    Failure::new(FailureKind::Unavailable, "the coordinator is shutting down; try again when it is back")
}

impl RunsService {
    async fn ask(
        &self,
        wanted: &str,
        command: impl FnOnce(RunId, oneshot::Sender<Result<(), Refusal>>) -> Command,
    ) -> Result<v1::Run, Failure> {
        let row = find(&self.shown.reader, wanted).await?;
        let (done, answer) = oneshot::channel();
        self.shown.commands.send(command(row.id.clone(), done)).await.map_err(|_| ending())?;
        let answer = answer.await.map_err(|_| ending())?;
        answer.map_err(|refusal| {
            let kind = match refusal {
                Refusal::NoSuchRun(_) => FailureKind::NotFound,
                _ => FailureKind::Conflict,
            };
            Failure::new(kind, refusal.to_string())
        })?;
        self.shown.run(row).await
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let text = request.into_inner().config;
        let submission = submit::check(&text, &self.shown.reader, &self.repository, &self.shown.corpora).await?;
        let run = submission.run.clone();
        let (done, answer) = oneshot::channel();
        let submit::Submission { run: id, spec, details, parent, warnings, .. } = submission;
        self.shown.commands.send(Command::Submit { run: id, spec, details, done }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?;
        drop(parent);
        tracing::info!(run = %run, "run submitted");
        Ok(Response::new(v1::SubmitResponse { run: run.into(), warnings }))
    }

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let rows = self.shown.reader.call(|reader| reader.runs()).await.map_err(wire::database_failure)?;
        let runs = rows.into_iter().map(|row| wire::run(row, RunParts::default())).collect();
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    async fn show(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::Run>, Status> {
        let row = find(&self.shown.reader, &request.into_inner().run).await?;
        Ok(Response::new(self.shown.run(row).await?))
    }

    async fn cancel(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::Run>, Status> {
        let wanted = request.into_inner().run;
        Ok(Response::new(self.ask(&wanted, |run, done| Command::Cancel { run, done }).await?))
    }

    async fn resume(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::Run>, Status> {
        let wanted = request.into_inner().run;
        Ok(Response::new(self.ask(&wanted, |run, done| Command::Resume { run, done }).await?))
    }

    type WatchStream = ReceiverStream<Result<v1::Run, Status>>;

    async fn watch(&self, request: Request<v1::RunRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let row = find(&self.shown.reader, &request.into_inner().run).await?;
        let (snapshots, stream) = mpsc::channel(4);
        let (shown, shutdown, mut changed) = (self.shown.clone(), self.shutdown.clone(), self.changed.clone());
        tokio::spawn(async move {
            let mut last: Option<v1::Run> = None;
            loop {
                changed.borrow_and_update();
                let snapshot = shown.run(row.clone()).await;
                let ended = snapshot
                    .as_ref()
                    .map_or(true, |run| RunStatus::parse(&run.status).is_some_and(RunStatus::has_ended));
                if last.as_ref() != snapshot.as_ref().ok() {
                    last = snapshot.as_ref().ok().cloned();
                    if snapshots.send(snapshot.map_err(Status::from)).await.is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
                let next = async {
                    tokio::time::sleep(SNAPSHOT_EVERY).await;
                    changed.changed().await
                };
                tokio::select! {
                    () = snapshots.closed() => return,
                    () = shutdown.cancelled() => {
                        let _ = snapshots.send(Err(ending().into())).await;
                        return;
                    }
                    next = next => if next.is_err() { return },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn verify_ledger(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::LedgerReport>, Status> {
        Ok(Response::new(proof::prove(&self.shown, &request.into_inner().run, None).await?))
    }

    type VerifyLedgerDeepStream = ReceiverStream<Result<v1::LedgerProgress, Status>>;

    async fn verify_ledger_deep(
        &self,
        request: Request<v1::RunRequest>,
    ) -> Result<Response<Self::VerifyLedgerDeepStream>, Status> {
        let wanted = request.into_inner().run;
        let (progress, stream) = mpsc::channel(PROGRESS);
        let (shown, shutdown) = (self.shown.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            let proved = tokio::select! {
                proved = proof::prove(&shown, &wanted, Some(&progress)) => proved,
                () = shutdown.cancelled() => Err(ending()),
            };
            let last = proved.map(|report| v1::LedgerProgress {
                steps: report.steps,
                total_steps: report.steps,
                report: Some(report),
            });
            // Who asked may have gone.
            let _ = progress.send(last.map_err(Status::from)).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
