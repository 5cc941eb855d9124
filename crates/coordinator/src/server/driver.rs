//! The one task that owns [`Control`]: what happens goes in, what it decides is carried out, in order.
//!
//! Everything that is waiting is handled first, then all that has to be durable is written in one transaction, and only
//! then anything is sent: so no worker ever acts on a decision that a crash could undo. No decision is taken here.

mod batch;
mod sessions;
mod sweeps;

pub use batch::{RunDetails, run_record};
pub use sessions::{QUEUE as SESSION_QUEUE, SessionHandle, Sessions};
pub use sweeps::{KnownSweeps, SweepCommand, conflict};

use super::checkpoints::{Pin, Repository};
use super::clock::Clock;
use super::on_thread::OnThread;
use super::refusals::{Claim, Refusals};
use super::rendezvous::Rendezvous;
use super::stuck::Stuck;
use batch::Batch;
use control::{CheckpointAt, Control, Directive, Effect, Event, Holding, Record, Refusal, RunSpec, WorkerFacts};
use proto::{Failure, FailureKind, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, CheckpointRow, Database, DatabaseError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use types::{RunId, Step, WorkerId};

/// Commands that wait; who sends more waits too.
pub const QUEUE: usize = 4096;
/// So many commands share one transaction at most.
const BATCH_MAX: usize = 1024;
// Workers send again what may not have arrived.
const _: () = assert!(QUEUE + BATCH_MAX < proto::QUEUED_MAX);
/// Between two tries to write to a database that cannot be written, e.g. on a full disk, or to look into a checkpoint
/// store that cannot be read.
const RETRY: Duration = Duration::from_secs(1);

/// What the services ask of the driver.
#[derive(Debug)]
pub enum Command {
    /// A worker registered.
    Connect {
        /// Its name.
        worker: WorkerId,
        /// The session's number.
        session: u64,
        /// What it says of itself.
        facts: WorkerFacts,
        /// What its trainer has in memory.
        holding: Option<Holding>,
        /// It has a trainer.
        ready: bool,
        /// How to reach it.
        handle: SessionHandle,
    },
    /// A session said something.
    Worker {
        /// Which session; one that was replaced is not listened to.
        session: u64,
        /// What it said.
        event: Event,
        /// With a Progress: the step's metrics.
        metrics: Vec<v1::Metric>,
    },
    /// A session ended.
    Disconnect {
        /// Whose.
        worker: WorkerId,
        /// Which.
        session: u64,
    },
    /// A new run whose config and data were found good. Answered when it is durable.
    Submit {
        /// Its id.
        run: RunId,
        /// What the core needs of it.
        spec: RunSpec,
        /// What only the shell needs.
        details: RunDetails,
        /// The answer.
        done: oneshot::Sender<()>,
    },
    /// Cancel a run. Answered when the wish is durable.
    Cancel {
        /// Which.
        run: RunId,
        /// The answer.
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Resume a run. Answered when the wish is durable.
    Resume {
        /// Which.
        run: RunId,
        /// The answer.
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A manifest was written. Answered when the row is durable.
    CheckpointCommitted {
        /// The checkpoint.
        row: CheckpointRow,
        /// The answer.
        done: oneshot::Sender<()>,
    },
    /// A sweep, or all runs of one.
    Sweep(SweepCommand),
    /// Rows that concern no decision.
    Write {
        /// The rows.
        changes: Vec<Change>,
    },
    /// Something that concerns a decision and comes from no worker.
    Happened {
        /// What.
        event: Event,
    },
    /// The answer to [`Effect::FindRestore`], with what is to be noted about it.
    RestoreFound {
        /// For which run.
        run: RunId,
        /// The checkpoint, kept until the run's row names it.
        found: Option<Pin>,
        /// What people should know, e.g. that a damaged one was passed over.
        notes: Vec<String>,
    },
    /// Tell a worker to go. Answered when it has been told, or cannot be.
    Drain {
        /// Which.
        worker: WorkerId,
        /// Whether there is such a worker, and it is connected.
        done: oneshot::Sender<Result<(), Failure>>,
    },
    /// A question about the present state.
    Ask(Question),
}

/// Looks at the state; must not block.
pub struct Question(pub Box<dyn FnOnce(&Control) + Send>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question")
    }
}

/// Answers a caller once the batch is durable; one who has gone needs none.
type Answer = Box<dyn FnOnce() + Send>;

/// The driver's own state.
pub struct Driver {
    /// Restored already.
    pub control: Control,
    /// The queue's end.
    pub commands: mpsc::Receiver<Command>,
    /// The queue's beginning, for the answers of work that the driver itself starts.
    pub sender: mpsc::Sender<Command>,
    /// The writing connection.
    pub database: OnThread<Database>,
    /// Of every run in `control`.
    pub details: BTreeMap<RunId, RunDetails>,
    /// Who is connected; nobody at first.
    pub sessions: Sessions,
    /// To open and close generations in.
    pub rendezvous: Arc<Rendezvous>,
    /// To look for checkpoints in.
    pub repository: Arc<Repository>,
    /// To count in.
    pub refusals: Arc<Refusals>,
    /// Tells people why nothing goes on.
    pub stuck: Arc<Stuck>,
    /// Counts batches, for those who watch.
    pub changed: watch::Sender<u64>,
    /// The same that `control` was restored by.
    pub clock: Clock,
    /// Rows of what happened before the first command: one transaction with what `control` made of it.
    pub taken_over: Vec<Change>,
    /// Names and digests of all sweeps.
    pub sweeps: KnownSweeps,
    /// Metrics of steps that are not committed yet.
    pub early_metrics: BTreeMap<(RunId, Step), Vec<v1::Metric>>,
}

impl Driver {
    /// Until `shutdown`: then what is waiting is still handled and written. An error means that the database refused a
    /// change for good; nothing that depends on it was sent.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), DatabaseError> {
        // What restoring decided.
        let taken_over = Batch { changes: std::mem::take(&mut self.taken_over), ..Batch::default() };
        self.finish(taken_over, Vec::new(), &shutdown).await?;
        loop {
            let due = self.control.poll_timeout().map(|at| self.clock.instant(at));
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = timer => None,
            };
            let mut batch = Batch::default();
            let mut answers = Vec::new();
            if let Some(command) = first {
                self.handle(command, &mut batch, &mut answers);
                while batch.commands < BATCH_MAX {
                    let Ok(command) = self.commands.try_recv() else { break };
                    self.handle(command, &mut batch, &mut answers);
                }
            }
            let now = self.clock.now();
            if self.control.poll_timeout().is_some_and(|at| at <= now) {
                self.control.handle_timeout(now);
            }
            self.finish(batch, answers, &shutdown).await?;
        }
        self.commands.close();
        let mut batch = Batch::default();
        let mut answers = Vec::new();
        while let Ok(command) = self.commands.try_recv() {
            // Sessions end because we do: nobody was lost.
            if !matches!(command, Command::Disconnect { .. }) {
                self.handle(command, &mut batch, &mut answers);
            }
        }
        self.finish(batch, answers, &shutdown).await
    }

    fn handle(&mut self, command: Command, batch: &mut Batch, answers: &mut Vec<Answer>) {
        batch.commands += 1;
        let now = self.clock.now();
        match command {
            Command::Connect { worker, session, facts, holding, ready, handle } => {
                self.sessions.offer(session, handle);
                let event = Event::WorkerConnected { worker: worker.clone(), session, facts, holding, ready };
                self.control.handle(now, event);
                let refused = self.collect(batch);
                if !refused.contains(&session) {
                    self.sessions.accept(&worker, session);
                }
            }
            Command::Worker { session, event, metrics } => {
                let claim = Claim::of(&event, &metrics);
                if !self.sessions.is_present(session) {
                    // One that came back on a new session says again there what was under way on the old one.
                    return self.refusals.count_report(claim.filter(|claim| !claim.is_current(&self.control)));
                }
                let step = match &event {
                    Event::Progress { run, step, .. } => Some((run.clone(), *step)),
                    _ => None,
                };
                let refused = self.control.refused();
                let before = step.as_ref().and_then(|(run, _)| self.control.run(run));
                let before = before.map(|record| (record.step, record.attempt));
                self.control.handle(now, event);
                // What a superseded state measured must not stand beside what the present one does.
                if self.control.refused() > refused {
                    self.refusals.count_report(claim);
                } else if let (Some((run, step)), Some((committed, attempt))) = (step, before) {
                    if step > committed {
                        self.keep_metrics(run, step, metrics);
                    } else {
                        // An evaluation that broke off is done again when its step is committed long since.
                        let late = metrics.into_iter().filter(is_of_evaluation).collect();
                        batch.changes.extend(batch::metric_rows(&run, attempt, late));
                    }
                }
            }
            Command::Disconnect { worker, session } => {
                self.sessions.remove(&worker, session);
                self.control.handle(now, Event::WorkerDisconnected { worker, session });
            }
            Command::Submit { run, spec, details, done } => {
                self.refusals.know(&run);
                self.details.insert(run.clone(), details);
                self.control.handle(now, Event::Submit { run, spec });
                answers.push(Box::new(move || _ = done.send(())));
            }
            Command::Cancel { run, done } => {
                let answer = self.control.check_cancel(&run);
                if answer.is_ok() {
                    self.control.handle(now, Event::Cancel { run });
                }
                answers.push(Box::new(move || _ = done.send(answer)));
            }
            Command::Resume { run, done } => {
                let answer = self.control.check_resume(&run);
                if answer.is_ok() {
                    self.control.handle(now, Event::Resume { run });
                }
                answers.push(Box::new(move || _ = done.send(answer)));
            }
            Command::CheckpointCommitted { row, done } => {
                let at = CheckpointAt { generation: row.id.generation, step: row.id.step };
                let run = row.id.run.clone();
                batch.changes.push(Change::Checkpoint(row));
                self.control.handle(now, Event::CheckpointCommitted { run, at });
                answers.push(Box::new(move || _ = done.send(())));
            }
            Command::Sweep(command) => self.handle_sweep(command, batch, answers),
            Command::Write { changes } => batch.changes.extend(changes),
            Command::Happened { event } => self.control.handle(now, event),
            Command::RestoreFound { run, found, notes } => {
                batch.changes.extend(notes.into_iter().map(|text| self.note(&run, text)));
                let at =
                    found.as_ref().map(|pin| CheckpointAt { generation: pin.id().generation, step: pin.id().step });
                self.control.handle(now, Event::RestoreFound { run, at });
                answers.push(Box::new(move || drop(found)));
            }
            Command::Drain { worker, done } => {
                // Who asked may have gone.
                let _ = done.send(self.drain(&worker));
            }
            Command::Ask(question) => (question.0)(&self.control),
        }
        self.collect(batch);
    }

    fn drain(&mut self, worker: &WorkerId) -> Result<(), Failure> {
        let known = self.control.workers().find(|(name, _)| *name == worker).map(|(_, known)| known);
        match known {
            None => {
                let message = format!("there is no worker `{worker}`; `coordinator workers list` shows all");
                Err(Failure::new(FailureKind::NotFound, message))
            }
            Some(known) if known.session.is_none() => {
                let message = format!("worker `{worker}` is not connected now; try again when it is back");
                Err(Failure::new(FailureKind::Conflict, message))
            }
            Some(_) => {
                let drain = v1::coordinator_message::Kind::Drain(v1::Drain {});
                self.sessions.send(worker, v1::CoordinatorMessage { kind: Some(drain) });
                Ok(())
            }
        }
    }

    fn note(&self, run: &RunId, text: String) -> Change {
        tracing::info!(run = %run, event = %text, "run event");
        Change::Event(store::EventRow { run: run.clone(), time_ms: Clock::wall_ms(), text })
    }

    /// Metrics become rows with the commit of their step, whoever's report it is that commits it.
    fn keep_metrics(&mut self, run: RunId, step: Step, metrics: Vec<v1::Metric>) {
        if metrics.is_empty() {
            return;
        }
        let kept = self.early_metrics.entry((run, step)).or_default();
        // Of two reports of a step the first counts, but only one of them may have its evaluation, or only that.
        for metric in metrics {
            if kept.iter().all(|known| known.key != metric.key) {
                kept.push(metric);
            }
        }
    }

    /// Takes over what control decided. Answers the sessions that it refused.
    fn collect(&mut self, batch: &mut Batch) -> Vec<u64> {
        let mut refused = Vec::new();
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                Effect::Persist(Record::Run(record)) => {
                    if record.status.has_ended() {
                        self.early_metrics.retain(|(of, _), _| *of != record.id);
                    }
                    let details = self.details.get(&record.id).expect("every run came with its details");
                    batch.changes.push(Change::Run(batch::run_row(&record, details)));
                    batch.touched.insert(record.id.clone());
                }
                Effect::Persist(Record::Note { run, text }) => batch.changes.push(self.note(&run, text)),
                Effect::Persist(Record::Attempt { run, attempt, from_step }) => {
                    // Steps after it are done again, and so are their metrics.
                    self.early_metrics.retain(|(of, step), _| *of != run || *step <= from_step);
                    batch.changes.push(Change::Attempt(store::AttemptRow { run, attempt, from_step }));
                }
                Effect::Persist(Record::Commit { run, attempt, generation, step, segments, samples_digest }) => {
                    let metrics = self.early_metrics.remove(&(run.clone(), step)).unwrap_or_default();
                    self.early_metrics.retain(|(of, at), _| *of != run || *at > step);
                    tracing::debug!(run = %run, generation = generation.0, step = step.0, "commit");
                    batch.changes.extend(batch::metric_rows(&run, attempt, metrics));
                    let time_ms = Clock::wall_ms();
                    let row = store::CommitRow { run, attempt, step, generation, samples_digest, segments, time_ms };
                    batch.changes.push(Change::Commit(row));
                }
                Effect::Refuse { session, .. } => {
                    refused.push(session);
                    batch.effects.push(effect);
                }
                Effect::Send { .. } | Effect::SendMembers { .. } | Effect::FindRestore { .. } => {
                    batch.effects.push(effect);
                }
            }
        }
        refused
    }

    /// Writes, then sends, then answers.
    async fn finish(
        &mut self,
        mut batch: Batch,
        answers: Vec<Answer>,
        shutdown: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        self.collect(&mut batch);
        let changes = std::mem::take(&mut batch.changes);
        if !changes.is_empty() {
            self.write(changes, shutdown).await?;
        }
        // Before anybody is told of a generation its keys can be set; after it has ended they no longer can.
        for run in &batch.touched {
            if let Some(record) = self.control.run(run) {
                if record.status == control::RunStatus::Running {
                    self.rendezvous.open(run, record.generation);
                } else {
                    self.rendezvous.close(run);
                }
            }
        }
        // Many steps may be in one batch; of each run the last says it all.
        let mut news = BTreeMap::new();
        for effect in batch.effects {
            match effect {
                Effect::SendMembers { run, directive } => _ = news.insert(run, directive),
                Effect::Send { worker, directive } => {
                    if let Some(message) = self.message(directive) {
                        self.sessions.send(&worker, message);
                    }
                }
                Effect::Refuse { worker, session, reason } => self.sessions.refuse(&worker, session, &reason),
                Effect::FindRestore { run, at_most } => self.find_restore(run, at_most),
                Effect::Persist(_) => unreachable!("collected as changes"),
            }
        }
        for (run, directive) in news {
            self.send_members(&run, directive);
        }
        for answer in answers {
            answer();
        }
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    fn send_members(&mut self, run: &RunId, directive: Directive) {
        let Some(message) = self.message(directive) else { return };
        let members = self.control.run(run).map_or(&[][..], |record| &record.members);
        for member in members {
            self.sessions.mention(&member.worker, message.clone());
        }
    }

    async fn write(&self, changes: Vec<Change>, shutdown: &CancellationToken) -> Result<(), DatabaseError> {
        let changes = Arc::new(changes);
        let mut failures = 0_u64;
        loop {
            let batch = Arc::clone(&changes);
            let error = match self.database.call(move |database| database.apply(&batch)).await {
                Ok(()) => {
                    if failures > 0 {
                        self.stuck.set(None);
                        tracing::info!(failures, "the run database can be written again");
                    }
                    return Ok(());
                }
                Err(error @ (DatabaseError::Full { .. } | DatabaseError::Sqlite { .. })) => error,
                Err(error) => return Err(error),
            };
            // Nothing is lost while we wait: workers go on training, and their reports wait with us.
            if failures.is_multiple_of(30) {
                tracing::error!(%error, "cannot write to the run database; trying again every second");
            }
            if failures == 0 {
                self.stuck.set(Some(format!("nothing can be recorded, trying again every second: {error}")));
            }
            failures += 1;
            if shutdown.is_cancelled() {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    fn message(&self, directive: Directive) -> Option<v1::CoordinatorMessage> {
        use v1::coordinator_message::Kind;
        let kind = match directive {
            Directive::Assign(assignment) => {
                let details = self.details.get(&assignment.run)?;
                Kind::Assign(batch::assign(assignment, details))
            }
            Directive::Abort { run, generation } => {
                Kind::Abort(v1::Abort { run: run.into(), generation: generation.0 })
            }
            Directive::Request { run, generation, checkpoint, pause } => {
                Kind::Request(v1::Request { run: run.into(), generation: generation.0, checkpoint, pause })
            }
            Directive::Committed { run, attempt, step } => {
                Kind::Committed(v1::Committed { run: run.into(), attempt: attempt.0, step: step.0 })
            }
            Directive::Release { run } => Kind::Release(v1::Release { run: run.map(String::from).unwrap_or_default() }),
        };
        Some(v1::CoordinatorMessage { kind: Some(kind) })
    }

    /// Reads and checks whole checkpoints: not on this task. A store that cannot be read is asked again for as long as
    /// the run waits: to take it for an empty one would begin at step 0 and throw everything away.
    fn find_restore(&self, run: RunId, at_most: Step) {
        let repository = Arc::clone(&self.repository);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let mut told = false;
            let (found, notes) = loop {
                let failure = match repository.find_restore(&run, at_most).await {
                    Ok(found) => break found,
                    Err(failure) => failure,
                };
                tracing::warn!(run = %run, step = at_most.0, error = %failure, "cannot look for a checkpoint; trying again");
                if !told {
                    told = true;
                    let text = format!("no checkpoint could be looked for, trying again every second: {failure}");
                    let row = store::EventRow { run: run.clone(), time_ms: Clock::wall_ms(), text };
                    let _ = sender.send(Command::Write { changes: vec![Change::Event(row)] }).await;
                }
                tokio::time::sleep(RETRY).await;
                if !still_waits(&sender, &run).await {
                    return;
                }
            };
            // Only a coordinator that is ending no longer listens.
            let _ = sender.send(Command::RestoreFound { run, found, notes }).await;
        });
    }
}

/// Whether it was measured on held-out data.
fn is_of_evaluation(metric: &v1::Metric) -> bool {
    metric.key.starts_with("eval/")
}

/// Whether a run has not ended, and neither has the driver.
async fn still_waits(sender: &mpsc::Sender<Command>, run: &RunId) -> bool {
    let (answer, waits) = oneshot::channel();
    let run = run.clone();
    let question = Question(Box::new(move |control| {
        let _ = answer.send(control.run(&run).is_some_and(|record| !record.status.has_ended()));
    }));
    sender.send(Command::Ask(question)).await.is_ok() && waits.await.unwrap_or(false)
}
