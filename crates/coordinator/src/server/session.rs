//! The worker's control session: a stream of what the worker says becomes events, directives go back.

use super::driver::{Command, SESSION_QUEUE, SessionHandle};
use super::request;
use control::{Divergence, Event, Holding, Phase, WorkerFacts};
use proto::v1::worker_message::Kind;
use proto::{Failure, FailureKind, v1};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::{Digest, Generation, RunId, Segment, Step, WorkerId};

/// SQLite's integers end here; no true counter comes near.
const NUMBER_MAX: u64 = i64::MAX as u64;
/// A metric's name.
const KEY_BYTES_MAX: usize = 250;

/// Serves `trireme.v1.Control`.
#[derive(Debug)]
pub struct ControlService {
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
    sessions: AtomicU64,
}

impl ControlService {
    /// What workers say goes to `commands`; sessions end with `shutdown`.
    pub fn new(commands: mpsc::Sender<Command>, shutdown: CancellationToken) -> Self {
        Self { commands, shutdown, sessions: AtomicU64::new(1) }
    }
}

fn ending() -> Status {
    Failure::new(FailureKind::Unavailable, "the coordinator is shutting down; register again when it is back").into()
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

#[tonic::async_trait]
impl v1::control_server::Control for ControlService {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::select! {
            message = inbound.message() => message?,
            () = self.shutdown.cancelled() => return Err(ending()),
        };
        let Some(v1::WorkerMessage { kind: Some(Kind::Register(register)) }) = first else {
            return Err(invalid("a session begins with Register").into());
        };
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let Registration { worker, facts, holding, ready } = registration(register)?;
        tracing::info!(worker = %worker, session, host = facts.host, device = facts.device, "worker registers");
        let (messages, outbound) = mpsc::channel(SESSION_QUEUE);
        let cut = self.shutdown.child_token();
        let handle = SessionHandle { messages, cut: cut.clone() };
        let connect =
            Command::Connect { worker: worker.clone(), session, facts, holding, ready, handle: handle.clone() };
        self.commands.send(connect).await.map_err(|_| ending())?;
        let (commands, shutdown) = (self.commands.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                // Cut because it was refused or replaced, or because the worker is too slow: the stream just ends.
                () = cut.cancelled() => shutdown.is_cancelled().then(ending),
                end = listen(&worker, session, inbound, &commands) => end,
            };
            if let Some(status) = end {
                tracing::info!(worker = %worker, session, reason = status.message(), "session ends");
                let _ = handle.messages.try_send(Err(status));
            } else {
                tracing::info!(worker = %worker, session, "session ends");
            }
            // Only a coordinator that is ending no longer listens.
            let _ = commands.send(Command::Disconnect { worker, session }).await;
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

/// Until the stream ends (None) or the worker says what cannot be (what it is told then).
async fn listen(
    worker: &WorkerId,
    session: u64,
    mut inbound: Streaming<v1::WorkerMessage>,
    commands: &mpsc::Sender<Command>,
) -> Option<Status> {
    loop {
        let message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return None,
        };
        let (event, metrics) = match message.kind.map(|kind| event(worker, kind)) {
            Some(Ok(parsed)) => parsed,
            Some(Err(failure)) => return Some(failure.into()),
            // A newer worker may know more words than we do.
            None => continue,
        };
        if commands.send(Command::Worker { session, event, metrics }).await.is_err() {
            return Some(ending());
        }
    }
}

/// Who registers, and how things stand with its trainer.
struct Registration {
    worker: WorkerId,
    facts: WorkerFacts,
    holding: Option<Holding>,
    ready: bool,
}

fn registration(register: v1::Register) -> Result<Registration, Failure> {
    let v1::Register { worker, host, pid, device, threads, version, holding, address, starting } = register;
    let holding = match holding {
        Some(v1::Holding { run, generation, step }) => Some(Holding {
            run: request::run_id(&run)?,
            generation: Generation(number("generation", generation)?),
            step: Step(number("step", step)?),
        }),
        None => None,
    };
    let facts = WorkerFacts { host, pid, device, threads, version, address };
    Ok(Registration { worker: request::worker_id(&worker)?, facts, holding, ready: !starting })
}

fn number(what: &str, value: u64) -> Result<u64, Failure> {
    if value <= NUMBER_MAX { Ok(value) } else { Err(invalid(format!("{what} = {value} is no true number"))) }
}

/// What a worker may say after Register.
fn event(worker: &WorkerId, kind: Kind) -> Result<(Event, Vec<v1::Metric>), Failure> {
    let worker = worker.clone();
    let place = |run: &str, generation: u64, step: u64| -> Result<(RunId, Generation, Step), Failure> {
        Ok((request::run_id(run)?, Generation(number("generation", generation)?), Step(number("step", step)?)))
    };
    let event = match kind {
        Kind::Register(_) => return Err(invalid("a session registers once")),
        Kind::Heartbeat(beat) => {
            let (run, generation, step) = place(&beat.run, beat.generation, beat.step)?;
            let v1::Heartbeat { collective, since_progress_ms, trainer_silent_ms, .. } = beat;
            let phase = phase(beat.phase());
            Event::Heartbeat { worker, run, generation, step, phase, collective, since_progress_ms, trainer_silent_ms }
        }
        Kind::Progress(progress) => return self::progress(worker, progress),
        Kind::StepFailed(v1::StepFailed { run, generation, step, error }) => {
            let (run, generation, step) = place(&run, generation, step)?;
            Event::StepFailed { worker, run, generation, step, error }
        }
        Kind::Paused(v1::Paused { run, generation, step }) => {
            let (run, generation, step) = place(&run, generation, step)?;
            Event::Paused { worker, run, generation, step }
        }
        Kind::Finished(v1::Finished { run, generation, step, weights_digest }) => {
            let (run, generation, step) = place(&run, generation, step)?;
            let weights_digest = digest("weights_digest", &weights_digest)?;
            Event::Finished { worker, run, generation, step, weights_digest }
        }
        Kind::TrainerExited(v1::TrainerExited { run, generation, cause, last_lines }) => {
            let run = if run.is_empty() { None } else { Some(request::run_id(&run)?) };
            let generation = Generation(number("generation", generation)?);
            Event::TrainerExited { worker, run, generation, cause, last_lines }
        }
        Kind::RunFailed(v1::RunFailed { run, generation, reason }) => {
            let (run, generation, _) = place(&run, generation, 0)?;
            Event::RunFailed { worker, run, generation, reason }
        }
        Kind::Diverged(diverged) => {
            let (run, generation, step) = place(&diverged.run, diverged.generation, diverged.step)?;
            let kind = divergence(diverged.kind());
            Event::Diverged { worker, run, generation, step, kind, reason: diverged.reason }
        }
        Kind::Leaving(v1::Leaving {}) => Event::WorkerLeaving { worker },
        Kind::TrainerReady(v1::TrainerReady {}) => Event::TrainerReady { worker },
    };
    Ok((event, Vec::new()))
}

fn phase(phase: v1::Phase) -> Phase {
    match phase {
        v1::Phase::Unspecified | v1::Phase::Idle => Phase::Idle,
        v1::Phase::Rendezvous => Phase::Rendezvous,
        v1::Phase::Restore => Phase::Restore,
        v1::Phase::Data => Phase::Data,
        v1::Phase::Compute => Phase::Compute,
        v1::Phase::Reduce => Phase::Reduce,
        v1::Phase::Update => Phase::Update,
        v1::Phase::Evaluate => Phase::Evaluate,
        v1::Phase::Checkpoint => Phase::Checkpoint,
    }
}

fn divergence(kind: v1::Divergence) -> Divergence {
    match kind {
        v1::Divergence::Skipped => Divergence::Skipped,
        // Of the two the one that goes back further.
        v1::Divergence::Replicas | v1::Divergence::Unspecified => Divergence::Replicas,
    }
}

fn digest(what: &str, bytes: &[u8]) -> Result<Digest, Failure> {
    proto::convert::digest(bytes)?.ok_or_else(|| invalid(format!("no {what}")))
}

fn progress(worker: WorkerId, progress: v1::Progress) -> Result<(Event, Vec<v1::Metric>), Failure> {
    let v1::Progress { run, generation, step, segments, samples_digest, metrics, tokens, seconds } = progress;
    let run = request::run_id(&run)?;
    let step = Step(number("step", step)?);
    let generation = Generation(number("generation", generation)?);
    let segments: Vec<Segment> = segments.into_iter().map(Segment::from).collect();
    for segment in &segments {
        if segment.start > segment.end || segment.end > segment.total {
            return Err(invalid(format!("step {step}: {segment:?} is no stretch of samples")));
        }
    }
    for metric in &metrics {
        number("a metric's step", metric.step)?;
        if metric.key.is_empty() || metric.key.len() > KEY_BYTES_MAX {
            return Err(invalid(format!("step {step}: `{}` is no metric's name", metric.key)));
        }
    }
    // A step uses samples of every slot: who names none leaves them to others.
    let segments = (!segments.is_empty()).then_some(segments);
    let samples_digest = digest("samples_digest", &samples_digest)?;
    Ok((Event::Progress { worker, run, generation, step, segments, samples_digest, tokens, seconds }, metrics))
}
