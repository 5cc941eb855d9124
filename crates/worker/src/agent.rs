//! The agent: keeps the control session, supervises the trainer process and passes messages between the two.
//!
//! It must never call libtorch: a trainer that dies (memory, a device fault) must not take it down. It decides nothing
//! about runs; it only knows which reports may still have to be sent again, and when it is free to go.

mod child;
mod error;
mod outbox;
pub(crate) mod session;

pub use child::Program;
pub use error::JoinError;

use crate::connect::Coordinator;
use child::{Death, TrainerProcess};
use outbox::Outbox;
use proto::v1::coordinator_message::Kind as FromCoordinator;
use proto::v1::worker_message::Kind as FromWorker;
use proto::v1::{CoordinatorMessage, Heartbeat, Holding, Leaving, Register, TrainerExited, WorkerMessage};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// So many trainer processes may end without ever having been ready before the worker gives up.
const STARTS_MAX: u32 = 5;
/// A trainer process that was told to end may take this long to hand over its last checkpoint.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// A leaving worker that nobody works with and nobody answers may go after this.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// A leaving worker whose coordinator stays away gives up after this.
const LEAVE_ALONE_PATIENCE: Duration = Duration::from_secs(60);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Work,
    /// Finish the step, hand over, and end.
    Leave,
    /// End at once.
    Quit,
}

/// What an agent needs to know.
pub struct JoinConfig {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Who this worker is; `holding` is filled in.
    pub register: Register,
    /// How to start the trainer process.
    pub program: Program,
    /// How long to wait for a coordinator that has never answered.
    pub patience: Duration,
}

/// Runs an agent until it is told to leave and is released, or cannot go on.
pub async fn run(config: JoinConfig, mut wish: watch::Receiver<Wish>) -> Result<(), JoinError> {
    let JoinConfig { coordinator, register, program, patience } = config;
    let address = coordinator.address().to_owned();
    let worker = register.worker.clone();
    let (holding, holding_seen) = watch::channel(None);
    let mut agent = Agent {
        program,
        trainer: Trainer::Waiting { until: Instant::now() },
        held_assign: None,
        failed_starts: 0,
        restart_pause: RESTART_PAUSE_MIN,
        outbox: Outbox::default(),
        queue: None,
        holding,
        beat: None,
        leaving: None,
    };
    let mut events = None;
    let mut unopened = Some((coordinator, session::Member { register, holding: holding_seen, patience }));
    let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wish.changed() => {
                let now = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Quit };
                match now {
                    Wish::Work => {}
                    Wish::Quit => return Err(JoinError::Interrupted),
                    Wish::Leave => {
                        if unopened.is_some() {
                            return Ok(());
                        }
                        tracing::info!(worker, "leaving; waiting for release");
                        agent.leaving = Some(Instant::now());
                        agent.outbox.push(FromWorker::Leaving(Leaving {}));
                    }
                }
            }
            message = agent.trainer.receive(), if agent.outbox.has_room() => match message {
                FromTrainer::Due => agent.start_trainer()?,
                FromTrainer::Said(FromWorker::TrainerReady(ready)) => {
                    agent.trainer_ready().await;
                    match unopened.take() {
                        Some((coordinator, member)) => events = Some(session::open(coordinator, member)),
                        None => agent.outbox.push(FromWorker::TrainerReady(ready)),
                    }
                }
                FromTrainer::Said(kind) => agent.report(kind),
                FromTrainer::Gone => agent.trainer_gone().await?,
            },
            event = next_event(&mut events) => match event {
                Some(session::Event::Up { queue, heartbeat: every }) => {
                    tracing::info!(worker, coordinator = address, "joined");
                    agent.up(queue);
                    heartbeat = tokio::time::interval(every);
                    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                Some(session::Event::Message(message)) => {
                    if agent.obey(message).await {
                        tracing::info!(worker, "released");
                        agent.end_trainer().await;
                        return Ok(());
                    }
                }
                Some(session::Event::Down) => agent.queue = None,
                Some(session::Event::Over(error)) => {
                    agent.end_trainer().await;
                    return Err(error);
                }
                None => return Err(JoinError::Internal { what: "the session's task ended".to_owned() }),
            },
            permit = reserve(agent.queue.as_ref()), if agent.outbox.has_unsent() => match permit {
                Some(permit) => {
                    if let Some(message) = agent.outbox.take() {
                        permit.send(message);
                    }
                }
                None => agent.queue = None,
            },
            _ = heartbeat.tick() => {
                agent.beat();
                if agent.may_go_unreleased()? {
                    tracing::info!(worker, "nobody waits for this worker; going");
                    agent.end_trainer().await;
                    return Ok(());
                }
            }
        }
    }
}

async fn next_event(events: &mut Option<mpsc::Receiver<session::Event>>) -> Option<session::Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn reserve(queue: Option<&mpsc::Sender<WorkerMessage>>) -> Option<mpsc::OwnedPermit<WorkerMessage>> {
    match queue {
        Some(queue) => queue.clone().reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

/// The trainer process, or when the next one starts.
enum Trainer {
    Waiting { until: Instant },
    Running { process: Box<TrainerProcess>, ready: bool },
}

enum FromTrainer {
    /// It is time to start one.
    Due,
    Said(FromWorker),
    /// It has closed its end.
    Gone,
}

impl Trainer {
    async fn receive(&mut self) -> FromTrainer {
        match self {
            Trainer::Waiting { until } => {
                tokio::time::sleep_until(*until).await;
                FromTrainer::Due
            }
            Trainer::Running { process, .. } => loop {
                match process.receive().await {
                    Some(WorkerMessage { kind: Some(kind) }) => return FromTrainer::Said(kind),
                    Some(WorkerMessage { kind: None }) => {}
                    None => return FromTrainer::Gone,
                }
            },
        }
    }
}

struct Agent {
    program: Program,
    trainer: Trainer,
    /// An assignment that came while no trainer was ready; the next one gets it.
    held_assign: Option<proto::v1::Assign>,
    /// Trainer processes in a row that were never ready.
    failed_starts: u32,
    restart_pause: Duration,
    outbox: Outbox,
    /// Of the present session.
    queue: Option<mpsc::Sender<WorkerMessage>>,
    /// The assignment the trainer works on (or has stopped working on) and its steps done; for Register.
    holding: watch::Sender<Option<Holding>>,
    /// The trainer's last heartbeat and when it came.
    beat: Option<(Heartbeat, Instant)>,
    leaving: Option<Instant>,
}

impl Agent {
    fn up(&mut self, queue: mpsc::Sender<WorkerMessage>) {
        self.queue = Some(queue);
        self.outbox.rewind();
        if self.leaving.is_some() {
            self.outbox.push(FromWorker::Leaving(Leaving {}));
        }
    }

    fn start_trainer(&mut self) -> Result<(), JoinError> {
        let process = TrainerProcess::start(&self.program)
            .map_err(|error| JoinError::Start { program: self.program.path.display().to_string(), error })?;
        self.trainer = Trainer::Running { process: Box::new(process), ready: false };
        Ok(())
    }

    async fn trainer_ready(&mut self) {
        self.failed_starts = 0;
        if let Trainer::Running { process, ready } = &mut self.trainer {
            *ready = true;
            if let Some(assign) = self.held_assign.take() {
                hold(&self.holding, &assign);
                process.send(&CoordinatorMessage { kind: Some(FromCoordinator::Assign(assign)) }).await;
            }
        }
    }

    /// Something the trainer says on its own.
    fn report(&mut self, kind: FromWorker) {
        match &kind {
            FromWorker::Heartbeat(beat) => {
                moved(&self.holding, &beat.run, beat.step);
                self.beat = Some((beat.clone(), Instant::now()));
                return;
            }
            FromWorker::Progress(report) => {
                moved(&self.holding, &report.run, report.step);
                self.restart_pause = RESTART_PAUSE_MIN;
            }
            FromWorker::RunFailed(report) => {
                tracing::error!(run = report.run, generation = report.generation, reason = report.reason, "run failed");
            }
            FromWorker::StepFailed(report) => {
                let (run, generation, step) = (&report.run, report.generation, report.step);
                tracing::warn!(run, generation, step, error = report.error, "a collective failed");
            }
            _ => {}
        }
        self.outbox.push(kind);
    }

    /// The trainer process ended by itself: say so, and start another one.
    async fn trainer_gone(&mut self) -> Result<(), JoinError> {
        let next = Trainer::Waiting { until: Instant::now() + self.restart_pause };
        self.restart_pause = (self.restart_pause * 2).min(RESTART_PAUSE_MAX);
        let Trainer::Running { process, ready } = std::mem::replace(&mut self.trainer, next) else {
            return Ok(());
        };
        let Death { cause, last_lines } = process.wait(Duration::from_secs(5)).await;
        let held = self.holding.send_replace(None);
        self.beat = None;
        let (run, generation) = held.map_or((String::new(), 0), |holding| (holding.run, holding.generation));
        tracing::error!(run, generation, cause, "the trainer process ended");
        if !ready {
            self.failed_starts += 1;
            if self.failed_starts >= STARTS_MAX {
                return Err(JoinError::TrainerNeverReady { cause, last_lines: last_lines.join("\n") });
            }
            return Ok(());
        }
        self.outbox.push(FromWorker::TrainerExited(TrainerExited { run, generation, cause, last_lines }));
        Ok(())
    }

    /// Passes a directive on; true if the worker is free to go.
    async fn obey(&mut self, message: FromCoordinator) -> bool {
        match &message {
            FromCoordinator::Assign(assign) => {
                let (run, generation) = (&assign.run, assign.generation);
                tracing::info!(run, generation, rank = assign.rank, world = assign.world, "assigned");
                self.outbox.forget_sent();
                match &mut self.trainer {
                    Trainer::Running { ready: true, .. } => hold(&self.holding, assign),
                    _ => {
                        self.held_assign = Some(assign.clone());
                        return false;
                    }
                }
            }
            FromCoordinator::Abort(abort) => {
                let over =
                    |assign: &proto::v1::Assign| assign.run == abort.run && assign.generation <= abort.generation;
                self.held_assign.take_if(|assign| over(assign));
            }
            FromCoordinator::Release(_) => {
                self.outbox.forget_sent();
                self.held_assign = None;
                self.holding.send_replace(None);
            }
            FromCoordinator::Request(_) => {}
            FromCoordinator::Welcome(_) | FromCoordinator::Goodbye(_) => return false,
        }
        let released = matches!(message, FromCoordinator::Release(_));
        if let Trainer::Running { process, ready: true } = &mut self.trainer {
            process.send(&CoordinatorMessage { kind: Some(message) }).await;
        }
        released && self.leaving.is_some()
    }

    /// One heartbeat, if there is a session with room: an old one is worth nothing.
    fn beat(&mut self) {
        let Some(queue) = &self.queue else { return };
        let beat = match (&self.beat, self.holding.borrow().as_ref()) {
            (Some((beat, at)), Some(holding)) if beat.generation == holding.generation && beat.run == holding.run => {
                let age = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                Heartbeat { since_progress_ms: beat.since_progress_ms.saturating_add(age), ..beat.clone() }
            }
            (_, Some(Holding { run, generation, step })) => {
                Heartbeat { run: run.clone(), generation: *generation, step: *step, ..Heartbeat::default() }
            }
            // Who works on nothing has nothing to say; the connection's own keep-alive shows that it lives.
            (_, None) => return,
        };
        let _ = queue.try_send(WorkerMessage { kind: Some(FromWorker::Heartbeat(beat)) });
    }

    /// Whether a leaving worker need not wait for its release, because nobody counts on it.
    fn may_go_unreleased(&self) -> Result<bool, JoinError> {
        let Some(since) = self.leaving else { return Ok(false) };
        let idle = self.holding.borrow().is_none();
        if self.queue.is_none() && since.elapsed() > LEAVE_ALONE_PATIENCE {
            return if idle {
                Ok(true)
            } else {
                Err(JoinError::LeftAlone { waited_seconds: since.elapsed().as_secs() })
            };
        }
        Ok(idle && since.elapsed() > LEAVE_PATIENCE)
    }

    async fn end_trainer(&mut self) {
        let waiting = Trainer::Waiting { until: Instant::now() };
        if let Trainer::Running { process, .. } = std::mem::replace(&mut self.trainer, waiting) {
            let death = process.end(END_PATIENCE).await;
            tracing::debug!(cause = death.cause, "the trainer process was told to end");
        }
    }
}

fn hold(holding: &watch::Sender<Option<Holding>>, assign: &proto::v1::Assign) {
    holding.send_modify(|holding| {
        let step = match holding {
            Some(before) if before.run == assign.run => before.step,
            _ => 0,
        };
        *holding = Some(Holding { run: assign.run.clone(), generation: assign.generation, step });
    });
}

/// The trainer has done so many steps of `run`. It may still be speaking of the run before the one that was assigned,
/// whose steps must not be taken for steps of this one.
fn moved(holding: &watch::Sender<Option<Holding>>, run: &str, step: u64) {
    holding.send_if_modified(|holding| match holding {
        Some(holding) if holding.run == run && holding.step != step => {
            holding.step = step;
            true
        }
        _ => false,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Assign;

    #[test]
    fn steps_of_another_run_are_not_held() {
        let (holding, _) = watch::channel(None);
        let held = |holding: &watch::Sender<Option<Holding>>| {
            holding.borrow().as_ref().map(|holding| (holding.run.clone(), holding.generation, holding.step))
        };
        let assign = |run: &str, generation| Assign { run: run.to_owned(), generation, ..Assign::default() };
        moved(&holding, "a", 1);
        assert_eq!(held(&holding), None);
        hold(&holding, &assign("a", 1));
        moved(&holding, "a", 500);
        hold(&holding, &assign("a", 2));
        assert_eq!(held(&holding), Some(("a".to_owned(), 2, 500)));
        hold(&holding, &assign("b", 1));
        moved(&holding, "a", 500);
        assert_eq!(held(&holding), Some(("b".to_owned(), 1, 0)));
        moved(&holding, "b", 1);
        assert_eq!(held(&holding), Some(("b".to_owned(), 1, 1)));
    }
}
