//! Our side: the trainer itself, alone in its group, as a worker runs it.

use anyhow::{Context, Result, bail};
use c10d::{Backend, GroupOptions, MemoryStore, ProcessGroup};
use config::CheckedConfig;
use corpus::{Corpus, Tokenizer};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Device;
use trainer::{Capture, CheckpointFiles, Host, Membership, Outcome, Phase, Requests, StepReport, Trainer};
use types::{Attempt, Generation, Rank, SlotId, WorldSize};

/// A trainer between two blocks of steps.
pub struct Ours {
    trainer: Trainer,
    group: ProcessGroup,
    membership: Membership,
}

impl Ours {
    pub fn new(config: CheckedConfig, tokenizer: Arc<Tokenizer>, threads: u32, device: Device) -> Result<Self> {
        trainer::keep_freed_memory();
        trainer::set_threads(threads);
        if device.is_cuda() {
            trainer::use_deterministic_algorithms()?;
        }
        let membership = Membership {
            run: "bench".parse()?,
            generation: Generation(0),
            attempt: Attempt(1),
            rank: Rank(0),
            world: WorldSize(1),
            slots: (0..config.batch.slots).map(SlotId).collect(),
        };
        let options =
            GroupOptions { rank: 0, world: 1, timeout: Duration::from_secs(60), address: "127.0.0.1".to_owned() };
        let group = ProcessGroup::new(Backend::Solo, Arc::new(MemoryStore::default()), options)?;
        let corpus = Arc::new(Corpus::open(&config)?);
        let trainer = Trainer::new(config, corpus, tokenizer, device)?;
        Ok(Self { trainer, group, membership })
    }

    /// Trains to the end of the run, or to where `observer` asks for a pause.
    pub fn run(&mut self, observer: &dyn Observer) -> Result<Outcome> {
        self.membership.generation = self.membership.generation.next();
        self.trainer.run(&self.membership, &self.group, &Alone(observer)).context("our side failed")
    }

    /// Does `steps` steps and one before them that is not counted.
    pub fn block(&mut self, steps: usize) -> Result<Block> {
        let stopwatch = Stopwatch { left: Cell::new(steps + 1), ..Stopwatch::default() };
        match self.run(&stopwatch)? {
            Outcome::Paused { .. } => {}
            Outcome::Finished { .. } => bail!("the run ended before its measurement"),
        }
        let ended = stopwatch.ended.into_inner();
        assert_eq!(ended.len(), steps + 1, "it paused somewhere else");
        let seconds = ended.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
        let waited = ended.last().map_or(0.0, |last| last.waited) - ended[0].waited;
        Ok(Block { seconds, tokens: ended[1..].iter().map(|ended| ended.tokens).sum(), waited })
    }
}

/// Who measures a trainer that starts from nothing and stores nothing.
pub trait Observer {
    fn requests(&self) -> Requests {
        Requests::default()
    }

    fn phase(&self, _: Phase) {}

    fn progress(&self, report: StepReport);

    fn checkpoint(&self, _: Capture) {}

    /// What became of the checkpoints.
    fn stored(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The trainer's surroundings, which are an observer.
struct Alone<'a>(&'a dyn Observer);

impl Host for Alone<'_> {
    fn requests(&self) -> Requests {
        self.0.requests()
    }

    fn phase(&self, phase: Phase) {
        self.0.phase(phase);
    }

    fn progress(&self, report: StepReport) {
        self.0.progress(report);
    }

    fn checkpoint(&self, capture: Capture) {
        self.0.checkpoint(capture);
    }

    fn wait_for_checkpoints(&self) -> Result<(), String> {
        self.0.stored()
    }

    fn restore(&self) -> Result<Option<CheckpointFiles>, String> {
        Ok(None)
    }

    fn parent(&self) -> Result<CheckpointFiles, String> {
        Err("the benchmark has no parent run".to_owned())
    }
}

/// Some steps in a row.
pub struct Block {
    /// Of each.
    pub seconds: Vec<f64>,
    /// Of all of them; padding is none.
    pub tokens: u64,
    /// Of all the seconds: those in which samples were waited for.
    pub waited: f64,
}

/// Notes when steps end, and asks for a pause after the last one.
#[derive(Default)]
struct Stopwatch {
    left: Cell<usize>,
    ended: RefCell<Vec<Ended>>,
    /// Since when samples are waited for.
    waits: Cell<Option<Instant>>,
    /// Seconds, so far.
    waited: Cell<f64>,
}

/// A step.
struct Ended {
    at: Instant,
    tokens: u64,
    /// Seconds, so far.
    waited: f64,
}

impl Observer for Stopwatch {
    fn requests(&self) -> Requests {
        Requests { checkpoint: false, pause: self.left.get() <= 1 }
    }

    fn phase(&self, phase: Phase) {
        let waits = (phase == Phase::Data).then(Instant::now);
        if let Some(since) = self.waits.replace(waits) {
            self.waited.set(self.waited.get() + since.elapsed().as_secs_f64());
        }
    }

    fn progress(&self, report: StepReport) {
        let ended = Ended { at: Instant::now(), tokens: report.tokens, waited: self.waited.get() };
        self.ended.borrow_mut().push(ended);
        self.left.set(self.left.get().saturating_sub(1));
    }
}
