//! What the trainer process tells its agent: reports as they happen, and a heartbeat.

use crate::link;
use crate::training::current::Key;
use proto::v1::worker_message::Kind;
use proto::v1::{Heartbeat, Phase, WorkerMessage};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often the agent hears where we are.
const HEARTBEAT: Duration = Duration::from_millis(250);

struct Position {
    key: Option<Key>,
    step: u64,
    phase: Phase,
    /// How many collectives the present group has begun: counted by the group itself, also in the middle of a phase.
    collectives: Arc<AtomicU64>,
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
        let position =
            Position { key: None, step: 0, phase: Phase::Idle, collectives: Arc::default(), since: Instant::now() };
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
        let (key, collectives) = (Some(key.clone()), Arc::default());
        *self.position() = Position { key, step, phase: Phase::Rendezvous, collectives, since: Instant::now() };
    }

    /// The members have met in a group that counts its collectives here.
    pub fn met(&self, collectives: Arc<AtomicU64>) {
        self.position().collectives = collectives;
    }

    /// Something new is being done.
    pub fn phase(&self, phase: Phase) {
        let mut position = self.position();
        (position.phase, position.since) = (phase, Instant::now());
    }

    /// What is being done gets on.
    pub fn moved(&self) {
        self.position().since = Instant::now();
    }

    /// A piece of data came or went, or was made ready. Threads in the background do that too, so it says nothing of a
    /// computation or a collective.
    pub fn transferred(&self) {
        let mut position = self.position();
        if !matches!(position.phase, Phase::Compute | Phase::Reduce | Phase::Update) {
            position.since = Instant::now();
        }
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
            collective: position.collectives.load(Ordering::Relaxed),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::units::with_signs_of_life;

    /// What it says after an hour in `phase` and one sign of progress.
    fn quiet_ms(phase: Phase, sign: impl Fn(&Arc<Reporter>)) -> u64 {
        let (stream, _other_end) = UnixStream::pair().unwrap();
        let position = Position { key: None, step: 0, phase, collectives: Arc::default(), since: Instant::now() };
        let reporter = Arc::new(Reporter { stream: Mutex::new(stream), position: Mutex::new(position) });
        reporter.position().since -= Duration::from_secs(3600);
        sign(&reporter);
        reporter.heartbeat().since_progress_ms
    }

    #[test]
    fn collectives_are_told_while_they_happen() {
        let (stream, _other_end) = UnixStream::pair().unwrap();
        let reporter = Reporter::start(stream).unwrap();
        let collectives = Arc::new(AtomicU64::new(0));
        reporter.met(collectives.clone());
        reporter.phase(Phase::Compute);
        collectives.store(7, Ordering::Relaxed);
        assert_eq!(reporter.heartbeat().collective, 7);
        reporter.begin(&Key { run: "a".to_owned(), generation: 2 }, 0);
        assert_eq!(reporter.heartbeat().collective, 0, "a new generation has a new group");
    }

    #[test]
    fn what_gets_on_does_not_look_stuck_however_long_it_takes() {
        assert!(quiet_ms(Phase::Compute, |_| ()) >= 3_600_000);
        for phase in [Phase::Compute, Phase::Evaluate] {
            assert!(quiet_ms(phase, |reporter| reporter.moved()) < 3_600_000);
        }
        for phase in [Phase::Restore, Phase::Data, Phase::Checkpoint] {
            assert!(quiet_ms(phase, |reporter| reporter.transferred()) < 3_600_000);
        }
        // An upload in the background does not hide a device that hangs.
        for phase in [Phase::Compute, Phase::Reduce] {
            assert!(quiet_ms(phase, |reporter| reporter.transferred()) >= 3_600_000);
        }
    }

    #[test]
    fn a_unit_that_is_tokenised_gets_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, "{\"text\": \"a ship\"}\n".repeat(20)).unwrap();
        let text = format!(
            "[run]\nname = \"t\"\nkind = \"pretrain\"\nsteps = 1\n[data]\npaths = [\"{}\"]\n\
             [tokenizer]\npath = \"vocab.txt\"\n[objective]\nkind = \"mlm\"\n\
             [batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 8\n",
            path.display()
        );
        let config = config::parse("test", &text).unwrap().check("test").unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nship\n";
        let tokenizer = Arc::new(corpus::Tokenizer::from_bytes("vocab.txt", vocabulary.as_bytes(), true).unwrap());
        let made = |reporter: &Arc<Reporter>| {
            let corpus = with_signs_of_life(corpus::Corpus::open(&config).unwrap(), reporter);
            let counter = corpus::UnitCounter::new(Arc::new(corpus), tokenizer.clone(), &config);
            assert!(counter.count(corpus::Dealt { epoch: 0, unit: 0 }).unwrap() > 0);
        };
        assert!(quiet_ms(Phase::Data, made) < 3_600_000);
    }
}
