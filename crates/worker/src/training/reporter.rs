//! What the trainer process tells its agent: reports as they happen, and a heartbeat.

use crate::link;
use crate::training::current::Key;
use proto::v1::worker_message::Kind;
use proto::v1::{Heartbeat, Phase, WorkerMessage};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often the agent hears where we are.
const HEARTBEAT: Duration = Duration::from_millis(250);

struct Position {
    key: Option<Key>,
    step: u64,
    phase: Phase,
    collective: u64,
    since: Instant,
}

/// The way to the agent, shared by all threads.
pub struct Reporter {
    stream: Mutex<UnixStream>,
    position: Mutex<Position>,
}

impl Reporter {
    /// Over this socket; a thread sends the heartbeat until the reporter is dropped.
    pub fn start(stream: UnixStream) -> std::io::Result<Arc<Self>> {
        let position = Position { key: None, step: 0, phase: Phase::Idle, collective: 0, since: Instant::now() };
        let reporter = Arc::new(Self { stream: Mutex::new(stream), position: Mutex::new(position) });
        let weak = Arc::downgrade(&reporter);
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || beat(&weak))?;
        Ok(reporter)
    }

    /// Sends a report. The agent always reads, or holds us back for as long as its own queue is full.
    pub fn send(&self, kind: Kind) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = link::write_blocking(&mut *stream, &WorkerMessage { kind: Some(kind) }) {
            // Without its agent this process ends anyway.
            tracing::debug!(%error, "the agent is gone");
        }
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An assignment begins with `step` steps done.
    pub fn begin(&self, key: &Key, step: u64) {
        *self.position() =
            Position { key: Some(key.clone()), step, phase: Phase::Rendezvous, collective: 0, since: Instant::now() };
    }

    /// Something new is being done.
    pub fn phase(&self, phase: Phase, collective: u64) {
        let mut position = self.position();
        (position.phase, position.collective, position.since) = (phase, collective, Instant::now());
    }

    /// A step is done.
    pub fn step(&self, step: u64) {
        let mut position = self.position();
        (position.step, position.since) = (step, Instant::now());
    }

    /// Nothing is being done.
    pub fn idle(&self) {
        let mut position = self.position();
        (position.phase, position.since) = (Phase::Idle, Instant::now());
    }

    /// Also of nothing: a process that is stopped is known by its silence.
    fn heartbeat(&self) -> Heartbeat {
        let position = self.position();
        let (run, generation) = position.key.as_ref().map_or(("", 0), |key| (&key.run, key.generation));
        Heartbeat {
            run: run.to_owned(),
            generation,
            step: position.step,
            phase: position.phase.into(),
            collective: position.collective,
            since_progress_ms: u64::try_from(position.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            trainer_silent_ms: 0,
        }
    }
}

fn beat(reporter: &Weak<Reporter>) {
    while let Some(reporter) = reporter.upgrade() {
        reporter.send(Kind::Heartbeat(reporter.heartbeat()));
        drop(reporter);
        std::thread::sleep(HEARTBEAT);
    }
}
