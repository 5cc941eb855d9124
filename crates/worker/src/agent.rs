//! The agent: keeps the control session, supervises the trainer process and passes messages between the two.
//!
//! It must never call libtorch: a trainer that dies (memory, a device fault) must not take it down. It decides nothing
//! about runs; it only knows which reports may still have to be sent again, and when it is free to go.

mod child;
mod error;
mod held;
mod obedience;
mod outbox;
pub(crate) mod session;

pub use child::Program;
pub use error::JoinError;

use crate::connect::Coordinator;
use child::{Death, TrainerProcess};
use held::{HeldOrders, hold, moved};
use obedience::Obedience;
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
/// A trainer that follows no order and does not get on with anything for so long hangs; storing a checkpoint of a run that
/// was released may take half of it.
const OBEY_PATIENCE: Duration = Duration::from_secs(60);
/// A trainer process that was told to end may take this long to hand over its last checkpoint.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// A leaving worker that nobody works with and nobody answers may go after this.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// A leaving worker whose coordinator stays away gives up after this.
const LEAVE_ALONE_PATIENCE: Duration = Duration::from_secs(60);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Who this worker is; how things stand with its trainer is filled in.
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
    let mut agent = Agent::new(program);
    let mut events = None;
    let mut unopened = Some(coordinator);
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
                        agent.leave();
                    }
                }
            }
            message = agent.trainer.receive(), if agent.outbox.has_room() => match message {
                FromTrainer::Due => agent.start_trainer()?,
                FromTrainer::Said(FromWorker::TrainerReady(ready)) => {
                    agent.trainer_ready().await;
                    match unopened.take() {
                        Some(coordinator) => events = Some(session::open(coordinator, patience)),
                        None => agent.outbox.push(FromWorker::TrainerReady(ready)),
                    }
                }
                FromTrainer::Said(kind) => agent.report(kind),
                FromTrainer::Silent => agent.trainer_gone(Some("it hung before it was ready")).await?,
                FromTrainer::Gone => agent.trainer_gone(None).await?,
            },
            event = next_event(&mut events) => match event {
                // Who asked may have ended.
                Some(session::Event::Registers { answer }) => _ = answer.send(agent.registers(&register)),
                Some(session::Event::Up { queue, heartbeat: every }) => {
                    tracing::info!(worker, coordinator = address, "joined");
                    agent.queue = Some(queue);
                    heartbeat = tokio::time::interval(every);
                    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                Some(session::Event::Message(FromCoordinator::Drain(_))) => agent.leave(),
                Some(session::Event::Message(FromCoordinator::Committed(steps))) => agent.outbox.committed(&steps),
                Some(session::Event::Message(message)) => {
                    if let Some(release) = agent.obey(message).await {
                        let seconds = release.waited.as_secs_f64();
                        tracing::info!(worker, seconds, "released");
                        agent.end_trainer().await;
                        return match release.left_behind {
                            Some(run) => Err(JoinError::Preempted { run }),
                            None => Ok(()),
                        };
                    }
                }
                Some(session::Event::Down) => agent.queue = None,
                Some(session::Event::Over(error)) => {
                    agent.end_trainer().await;
                    return Err(error);
                }
                None => return Err(JoinError::Internal { what: "the session's task ended".to_owned() }),
            },
            permit = reserve(agent.queue.as_ref(), agent.outbox.ready_at(Instant::now())) => match permit {
                Some(permit) => {
                    match agent.outbox.take(Instant::now()) {
                        Ok(Some(message)) => _ = permit.send(message),
                        Ok(None) => {}
                        Err(error) => return Err(JoinError::Spool { error }),
                    }
                }
                None => agent.queue = None,
            },
            _ = heartbeat.tick() => {
                agent.beat();
                agent.end_a_deaf_trainer(OBEY_PATIENCE).await?;
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

/// A place in the queue, once there is something to put there.
async fn reserve(
    queue: Option<&mpsc::Sender<WorkerMessage>>,
    at: Option<Instant>,
) -> Option<mpsc::OwnedPermit<WorkerMessage>> {
    match (queue, at) {
        (Some(queue), Some(at)) => {
            tokio::time::sleep_until(at).await;
            queue.clone().reserve_owned().await.ok()
        }
        _ => std::future::pending().await,
    }
}

/// The trainer process, or when the next one starts.
enum Trainer {
    Waiting { until: Instant },
    Running { process: Box<TrainerProcess>, ready: bool, ready_until: Instant },
}

enum FromTrainer {
    /// It is time to start one.
    Due,
    Said(FromWorker),
    /// It was not ready in time, and is killed.
    Silent,
    /// It has closed its end.
    Gone,
}

/// A leaving worker is free to go.
struct Release {
    /// Since it was told to leave.
    waited: Duration,
    /// A run that nobody goes on with for now: all its workers left.
    left_behind: Option<String>,
}

impl Trainer {
    fn is_ready(&self) -> bool {
        matches!(self, Trainer::Running { ready: true, .. })
    }

    async fn receive(&mut self) -> FromTrainer {
        match self {
            Trainer::Waiting { until } => {
                tokio::time::sleep_until(*until).await;
                FromTrainer::Due
            }
            Trainer::Running { process, ready, ready_until } => loop {
                let received = tokio::select! {
                    received = process.receive() => received,
                    () = tokio::time::sleep_until(*ready_until), if !*ready => {
                        process.kill();
                        return FromTrainer::Silent;
                    }
                };
                match received {
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
    /// What came while no trainer was ready; the next one gets it.
    orders: HeldOrders,
    /// The run whose members were asked to save and stop, so that nothing is lost when all of them leave.
    saving: Option<String>,
    obedience: Obedience,
    /// When the trainer's obedience was last looked at.
    looked_at: Instant,
    /// Trainer processes in a row that were never ready.
    failed_starts: u32,
    restart_pause: Duration,
    outbox: Outbox,
    /// Of the present session.
    queue: Option<mpsc::Sender<WorkerMessage>>,
    /// The assignment the trainer works on (or has stopped working on) and its steps done; for Register.
    holding: Option<Holding>,
    /// The trainer's last heartbeat and when it came.
    beat: Option<(Heartbeat, Instant)>,
    /// When a trainer last said anything.
    trainer_heard: Instant,
    leaving: Option<Instant>,
}

impl Agent {
    fn new(program: Program) -> Self {
        Self {
            program,
            trainer: Trainer::Waiting { until: Instant::now() },
            orders: HeldOrders::default(),
            saving: None,
            obedience: Obedience::default(),
            looked_at: Instant::now(),
            failed_starts: 0,
            restart_pause: RESTART_PAUSE_MIN,
            outbox: Outbox::default(),
            queue: None,
            holding: None,
            beat: None,
            trainer_heard: Instant::now(),
            leaving: None,
        }
    }

    fn leave(&mut self) {
        if self.leaving.is_none() {
            tracing::info!("leaving; waiting for release");
            self.leaving = Some(Instant::now());
            self.outbox.push(FromWorker::Leaving(Leaving {}));
        }
    }

    /// What a session that begins is told of this worker, as things stand. What was reported of its trainer process
    /// before is said with that; what is reported from now on follows.
    fn registers(&mut self, who: &Register) -> Register {
        self.outbox.rewind(Instant::now());
        if self.leaving.is_some() {
            self.outbox.push(FromWorker::Leaving(Leaving {}));
        }
        Register { holding: self.holding.clone(), starting: !self.trainer.is_ready(), ..who.clone() }
    }

    fn start_trainer(&mut self) -> Result<(), JoinError> {
        let process = match TrainerProcess::start(&self.program) {
            Ok(process) => process,
            // Where the last one was killed for memory, there may be none for the next one yet.
            Err(error) => {
                self.failed_starts += 1;
                if self.failed_starts >= STARTS_MAX {
                    return Err(JoinError::Start { program: self.program.path.display().to_string(), error });
                }
                tracing::warn!(%error, "the trainer process cannot be started; trying again");
                drop(self.rest());
                return Ok(());
            }
        };
        let ready_until = Instant::now() + self.program.ready_patience;
        self.trainer = Trainer::Running { process: Box::new(process), ready: false, ready_until };
        Ok(())
    }

    /// The next trainer process starts after a pause that grows. Returns the one that was.
    fn rest(&mut self) -> Trainer {
        let next = Trainer::Waiting { until: Instant::now() + self.restart_pause };
        self.restart_pause = (self.restart_pause * 2).min(RESTART_PAUSE_MAX);
        std::mem::replace(&mut self.trainer, next)
    }

    async fn trainer_ready(&mut self) {
        (self.failed_starts, self.trainer_heard) = (0, Instant::now());
        if let Trainer::Running { process, ready, .. } = &mut self.trainer {
            *ready = true;
            for order in self.orders.take() {
                if let FromCoordinator::Assign(assign) = &order {
                    hold(&mut self.holding, assign);
                }
                self.obedience.ordered(&order);
                process.send(&CoordinatorMessage { kind: Some(order) }).await;
            }
        }
    }

    /// Something the trainer says on its own.
    fn report(&mut self, kind: FromWorker) {
        self.trainer_heard = Instant::now();
        self.obedience.heard(&kind);
        match &kind {
            FromWorker::Heartbeat(beat) => {
                moved(&mut self.holding, &beat.run, beat.step);
                self.beat = Some((beat.clone(), Instant::now()));
                return;
            }
            FromWorker::Progress(report) => {
                moved(&mut self.holding, &report.run, report.step);
                self.restart_pause = RESTART_PAUSE_MIN;
            }
            FromWorker::RunFailed(report) => {
                tracing::error!(run = report.run, generation = report.generation, reason = report.reason, "run failed");
            }
            FromWorker::StepFailed(report) => {
                let (run, generation, step) = (&report.run, report.generation, report.step);
                tracing::warn!(run, generation, step, error = report.error, "a collective failed");
            }
            FromWorker::Diverged(report) => {
                let (run, generation, step) = (&report.run, report.generation, report.step);
                tracing::error!(run, generation, step, reason = report.reason, "the state is not to be trusted");
            }
            // What it was asked to save is of no use to a run that is complete.
            FromWorker::Finished(_) => self.saving = None,
            _ => {}
        }
        self.outbox.push(kind);
    }

    /// Ends a trainer that does not do what it was told, and does not get on with anything else either.
    async fn end_a_deaf_trainer(&mut self, patience: Duration) -> Result<(), JoinError> {
        let passed = std::mem::replace(&mut self.looked_at, Instant::now()).elapsed();
        // While nothing more can be kept, nobody listens to it.
        if !self.outbox.has_room() || !self.obedience.is_exhausted(passed, patience) {
            return Ok(());
        }
        if let Trainer::Running { process, .. } = &mut self.trainer {
            process.kill();
        }
        self.trainer_gone(Some("it did not obey")).await
    }

    /// The trainer process ended by itself, or had to be ended because of `defect`: say so, and start another one.
    async fn trainer_gone(&mut self, defect: Option<&str>) -> Result<(), JoinError> {
        self.obedience.forget();
        let Trainer::Running { process, ready, .. } = self.rest() else { return Ok(()) };
        let Death { cause, last_lines } = process.wait(Duration::from_secs(5)).await;
        let cause = defect.map_or(cause, str::to_owned);
        self.beat = None;
        let (run, generation) =
            self.holding.take().map_or((String::new(), 0), |holding| (holding.run, holding.generation));
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

    /// Passes a directive on; Some if the worker is free to go.
    async fn obey(&mut self, message: FromCoordinator) -> Option<Release> {
        let is_ready = self.trainer.is_ready();
        let mut release = None;
        match &message {
            FromCoordinator::Assign(assign) => {
                let (run, generation) = (&assign.run, assign.generation);
                tracing::info!(run, generation, rank = assign.rank, world = assign.world, "assigned");
                self.outbox.assigned(assign, Instant::now());
                self.saving = None;
                if is_ready {
                    hold(&mut self.holding, assign);
                }
            }
            FromCoordinator::Request(request) => {
                if request.checkpoint && request.pause {
                    self.saving = Some(request.run.clone());
                }
            }
            FromCoordinator::Release(released) => {
                self.outbox.released();
                self.holding = None;
                let left_behind = self.saving.take().filter(|run| *run == released.run);
                release = self.leaving.map(|since| Release { waited: since.elapsed(), left_behind });
            }
            FromCoordinator::Abort(_) => {}
            FromCoordinator::Welcome(_)
            | FromCoordinator::Goodbye(_)
            | FromCoordinator::Drain(_)
            | FromCoordinator::Committed(_) => return None,
        }
        match &mut self.trainer {
            Trainer::Running { process, ready: true, .. } => {
                self.obedience.ordered(&message);
                process.send(&CoordinatorMessage { kind: Some(message) }).await;
            }
            _ => self.orders.add(message),
        }
        release
    }

    /// One heartbeat, if there is a session with room: an old one is worth nothing.
    fn beat(&mut self) {
        let Some(queue) = &self.queue else { return };
        let age = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let trainer_silent_ms = age(&self.trainer_heard);
        let beat = match (&self.beat, &self.holding) {
            (Some((beat, at)), Some(holding)) if beat.generation == holding.generation && beat.run == holding.run => {
                let since_progress_ms = beat.since_progress_ms.saturating_add(age(at));
                Heartbeat { since_progress_ms, trainer_silent_ms, ..beat.clone() }
            }
            (_, Some(Holding { run, generation, step })) => {
                let (run, generation, step) = (run.clone(), *generation, *step);
                Heartbeat { run, generation, step, trainer_silent_ms, ..Heartbeat::default() }
            }
            // Who works on nothing has nothing to say; the connection's own keep-alive shows that it lives.
            (_, None) => return,
        };
        let _ = queue.try_send(WorkerMessage { kind: Some(FromWorker::Heartbeat(beat)) });
    }

    /// Whether a leaving worker need not wait for its release, because nobody counts on it.
    fn may_go_unreleased(&self) -> Result<bool, JoinError> {
        let Some(since) = self.leaving else { return Ok(false) };
        let idle = self.holding.is_none();
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Assign, Release as Released, TrainerReady};

    /// An agent without a session whose trainer is `script`, ready.
    fn with_trainer(script: &str) -> Agent {
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            variables: Vec::new(),
            ready_patience: Duration::MAX,
        };
        let process = Box::new(TrainerProcess::start(&program).unwrap());
        let trainer = Trainer::Running { process, ready: true, ready_until: Instant::now() };
        Agent { trainer, ..Agent::new(program) }
    }

    #[tokio::test]
    async fn a_trainer_that_ignores_its_release_is_ended() {
        let mut agent = with_trainer("exec sleep 600");
        agent.end_a_deaf_trainer(Duration::ZERO).await.unwrap();
        assert!(agent.outbox.ready_at(Instant::now()).is_none(), "nothing was ordered");
        agent.obey(FromCoordinator::Release(Released::default())).await;
        agent.end_a_deaf_trainer(Duration::from_secs(60)).await.unwrap();
        assert!(agent.outbox.ready_at(Instant::now()).is_none(), "it has time");
        agent.end_a_deaf_trainer(Duration::ZERO).await.unwrap();
        let Some(FromWorker::TrainerExited(exited)) =
            agent.outbox.take(Instant::now()).unwrap().and_then(|said| said.kind)
        else {
            panic!("nothing was said of its end")
        };
        assert_eq!(exited.cause, "it did not obey");
        assert!(matches!(agent.trainer, Trainer::Waiting { .. }), "another one is started");
    }

    #[tokio::test]
    async fn a_session_is_told_how_things_stand_with_the_trainer() {
        let who = Register { worker: "a".to_owned(), ..Register::default() };
        let mut agent = with_trainer("exec sleep 600");
        let assign = Assign { run: "r".to_owned(), generation: 3, ..Assign::default() };
        agent.obey(FromCoordinator::Assign(assign)).await;
        let told = agent.registers(&who);
        assert_eq!((told.worker.as_str(), told.starting), ("a", false));
        assert_eq!(told.holding.map(|held| held.generation), Some(3));
        // It ends while there is no session: the next one begins with that, and it is not said once more.
        let Trainer::Running { process, .. } = &mut agent.trainer else { panic!("it runs") };
        process.kill();
        agent.trainer_gone(None).await.unwrap();
        let told = agent.registers(&who);
        assert_eq!((told.holding, told.starting), (None, true));
        assert!(agent.outbox.ready_at(Instant::now()).is_none());
        // What changes while the session begins is said in it.
        agent.program.ready_patience = Duration::from_secs(60);
        agent.start_trainer().unwrap();
        agent.trainer_ready().await;
        agent.outbox.push(FromWorker::TrainerReady(TrainerReady {}));
        let said = agent.outbox.take(Instant::now()).unwrap().and_then(|message| message.kind);
        assert_eq!(said, Some(FromWorker::TrainerReady(TrainerReady {})));
        assert!(!agent.registers(&who).starting);
    }

    #[tokio::test]
    async fn a_trainer_that_cannot_be_started_is_tried_again_later() {
        let mut agent = with_trainer("exit 0");
        agent.program.path = "/nonexistent".into();
        let mut before = agent.restart_pause;
        for _ in 1..STARTS_MAX {
            agent.start_trainer().unwrap();
            assert!(matches!(agent.trainer, Trainer::Waiting { .. }));
            assert!(agent.restart_pause > before, "later each time");
            before = agent.restart_pause;
        }
        assert!(matches!(agent.start_trainer(), Err(JoinError::Start { .. })), "not for ever");
    }

    #[tokio::test]
    async fn a_trainer_that_hangs_before_it_is_ready_is_ended_and_told_of() {
        let program = Program {
            path: "/bin/sleep".into(),
            arguments: vec!["600".into()],
            variables: Vec::new(),
            ready_patience: Duration::from_millis(20),
        };
        // Nobody is called before a trainer is ready.
        let coordinator = Coordinator::new("127.0.0.1:1", None).unwrap();
        let config = JoinConfig { coordinator, register: Register::default(), program, patience: Duration::ZERO };
        let (_sender, wish) = watch::channel(Wish::Work);
        match run(config, wish).await {
            Err(JoinError::TrainerNeverReady { cause, .. }) => assert_eq!(cause, "it hung before it was ready"),
            other => panic!("{other:?}"),
        }
    }
}
