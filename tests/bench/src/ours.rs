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
    pub fn new(config: CheckedConfig, tokenizer: Arc<Tokenizer>, threads: u32) -> Result<Self> {
        trainer::set_threads(threads);
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
        let trainer = Trainer::new(config, corpus, tokenizer, Device::Cpu)?;
        Ok(Self { trainer, group, membership })
    }

    /// Does `steps` steps and one before them that is not counted.
    pub fn block(&mut self, steps: usize) -> Result<Block> {
        self.membership.generation = self.membership.generation.next();
        let stopwatch = Stopwatch { left: Cell::new(steps + 1), ended: RefCell::default() };
        match self.trainer.run(&self.membership, &self.group, &stopwatch).context("our side failed")? {
            Outcome::Paused { .. } => {}
            Outcome::Finished { .. } => bail!("the run ended before its measurement"),
        }
        let ended = stopwatch.ended.into_inner();
        assert_eq!(ended.len(), steps + 1, "it paused somewhere else");
        let seconds = ended.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
        Ok(Block { seconds, tokens: ended[1..].iter().map(|(_, tokens)| tokens).sum() })
    }
}

/// Some steps in a row.
pub struct Block {
    /// Of each.
    pub seconds: Vec<f64>,
    /// Of all of them; padding is none.
    pub tokens: u64,
}

/// Notes when steps end, and asks for a pause after the last one.
struct Stopwatch {
    left: Cell<usize>,
    /// With the tokens of each.
    ended: RefCell<Vec<(Instant, u64)>>,
}

impl Host for Stopwatch {
    fn requests(&self) -> Requests {
        Requests { checkpoint: false, pause: self.left.get() <= 1 }
    }

    fn phase(&self, _: Phase) {}

    fn progress(&self, report: StepReport) {
        self.ended.borrow_mut().push((Instant::now(), report.tokens));
        self.left.set(self.left.get().saturating_sub(1));
    }

    fn checkpoint(&self, _: Capture) {}

    fn wait_for_checkpoints(&self) -> Result<(), String> {
        Ok(())
    }

    fn restore(&self) -> Result<Option<CheckpointFiles>, String> {
        Ok(None)
    }

    fn parent(&self) -> Result<CheckpointFiles, String> {
        Err("the benchmark has no parent run".to_owned())
    }
}
