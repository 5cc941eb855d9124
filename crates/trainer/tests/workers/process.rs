//! The child's side: a worker process that takes assignments from a folder until it is told to go.

use crate::folder_store::FolderStore;
use arrow::record_batch::RecordBatch;
use c10d::{Backend, GroupOptions, KeyValueStore, MemoryStore, ProcessGroup};
use corpus::{CorpusError, ErrorKind, Unit, UnitSource};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trainer::{
    Capture, CheckpointFiles, Divergence, Host, Membership, Outcome, Phase, Requests, StepReport, TrainError, Trainer,
};
use types::{Attempt, Generation, Rank, SlotId, Step, WorldSize};

pub const FOLDER: &str = "TRIREME_TEST_FOLDER";
pub const WORKER: &str = "TRIREME_TEST_WORKER";
/// The file that says why rows cannot be read.
pub const UNREADABLE: &str = "unreadable";
/// The file that says that a peer is gone.
pub const GONE: &str = "gone";
/// Where the workers' tensors live: `cpu` (the default) or `cuda`, with libtorch's CUDA build.
const DEVICE: &str = "TRIREME_TEST_DEVICE";
pub const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub generation: u64,
    pub attempt: u32,
    pub rank: u32,
    pub world: u32,
    pub slots: Vec<u32>,
    /// Ask for a pause (and a checkpoint) after this step.
    pub pause_after: Option<u64>,
    pub restore: Option<PathBuf>,
    pub parent: Option<PathBuf>,
    /// End this process, as a crash would, where this begins for the first time.
    pub dies_in: Option<DiesIn>,
    /// Wait after the first micro-batch until a peer is gone.
    pub mourns: bool,
    /// Flip one bit of what is held before this generation begins.
    pub flips_a_bit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum DiesIn {
    Computation,
    Evaluation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    Paused(u64),
    Finished { step: u64, weights_digest: String },
    Collective { step: Option<u64>, message: String },
    Diverged { step: u64, skipped: bool, reason: String },
    Corrupted(String),
    Local(String),
    Fatal(String),
}

/// Step, chain of samples and metrics.
pub type Timeless = (u64, String, Vec<(String, f64)>);

/// One line of a worker's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Logged {
    pub generation: u64,
    pub step: u64,
    pub samples_digest: String,
    pub segments: Vec<types::Segment>,
    pub metrics: Vec<(String, f64)>,
    /// How often something moved since the line before.
    pub moved: u64,
}

impl Logged {
    /// All that does not depend on when and where it was computed.
    pub fn timeless(&self) -> Timeless {
        let metrics = self.metrics.iter().filter(|(name, _)| name != "train/tokens_per_second");
        (self.step, self.samples_digest.clone(), metrics.cloned().collect())
    }
}

struct FolderHost<'a> {
    folder: &'a Path,
    worker: usize,
    assignment: &'a Assignment,
    steps: Cell<u64>,
    moved: Cell<u64>,
    computes: Cell<bool>,
}

impl Host for FolderHost<'_> {
    fn requests(&self) -> Requests {
        // Only rank 0 asks: the others must learn of it.
        let wanted =
            self.assignment.rank == 0 && self.assignment.pause_after.is_some_and(|step| self.steps.get() + 1 >= step);
        Requests { checkpoint: wanted, pause: wanted }
    }

    fn phase(&self, phase: Phase) {
        let begins = match phase {
            Phase::Compute => Some(DiesIn::Computation),
            Phase::Evaluate => Some(DiesIn::Evaluation),
            _ => None,
        };
        if begins.is_some() && begins == self.assignment.dies_in {
            std::process::abort();
        }
        self.computes.set(phase == Phase::Compute);
    }

    fn moved(&self) {
        self.moved.set(self.moved.get() + 1);
        let end = Instant::now() + LONG;
        while self.assignment.mourns && self.computes.get() && !self.folder.join(GONE).exists() {
            assert!(Instant::now() < end, "nobody died");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn progress(&self, report: StepReport) {
        self.steps.set(report.step.0);
        let line = Logged {
            generation: self.assignment.generation,
            step: report.step.0,
            samples_digest: report.samples_digest.to_string(),
            segments: report.segments,
            metrics: report.metrics,
            moved: self.moved.take(),
        };
        let path = self.folder.join(format!("log-{}", self.worker));
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{}", serde_json::to_string(&line).unwrap()).unwrap();
    }

    fn checkpoint(&self, capture: Capture) {
        let folder = self.folder.join(format!("checkpoint-{}-{}", capture.generation, capture.step));
        fs::create_dir_all(&folder).unwrap();
        if capture.rank == Rank(0) {
            let measured = serde_json::to_string(&[capture.eval_loss, capture.score]).unwrap();
            fs::write(folder.with_extension("measured"), measured).unwrap();
        }
        // On another thread, as a worker does it.
        let files = std::thread::spawn(move || capture.files().unwrap()).join().unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }

    fn wait_for_checkpoints(&self) -> Result<(), String> {
        Ok(())
    }

    fn restore(&self) -> Result<Option<CheckpointFiles>, String> {
        Ok(self.assignment.restore.as_deref().map(read))
    }

    fn parent(&self) -> Result<CheckpointFiles, String> {
        self.assignment.parent.as_deref().map(read).ok_or_else(|| "no parent was given".to_owned())
    }
}

pub fn read(folder: &Path) -> CheckpointFiles {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    CheckpointFiles { files: files.collect() }
}

/// What the child process does.
pub fn work(folder: &Path, worker: usize) {
    trainer::set_threads(1);
    let config = config::load(&folder.join("config.toml"), &[]).unwrap().check("config.toml").unwrap();
    let tokenizer = Arc::new(corpus::Tokenizer::open(&config.tokenizer).unwrap());
    let corpus = Arc::new(unreadable(folder, &config).unwrap_or_else(|| corpus::Corpus::open(&config).unwrap()));
    let device = match std::env::var(DEVICE).as_deref() {
        Ok("cuda") => tch::Device::Cuda(0),
        _ => tch::Device::Cpu,
    };
    if device.is_cuda() {
        trainer::use_deterministic_algorithms().unwrap();
    }
    let mut trainer = Trainer::new(config, corpus, tokenizer, device).unwrap();
    let orders = FolderStore::new(folder.join("orders"));
    for number in 0.. {
        let order = orders.get(&format!("{worker}/{number}"), LONG).unwrap();
        let Some(assignment): Option<Assignment> = serde_json::from_slice(&order).unwrap() else { return };
        let verdict = take_part(&mut trainer, folder, worker, &assignment);
        orders.set(&format!("{worker}/{number}/verdict"), &serde_json::to_vec(&verdict).unwrap()).unwrap();
    }
}

/// The corpus, but its rows cannot be had, for the reason that the file `unreadable` names.
fn unreadable(folder: &Path, config: &config::CheckedConfig) -> Option<corpus::Corpus> {
    struct Broken(ErrorKind);
    impl UnitSource for Broken {
        fn read(&self, unit: &Unit) -> Result<RecordBatch, CorpusError> {
            let message = format!("rows from {}: input/output error", unit.first_row);
            Err(CorpusError::new(self.0, "corpus.parquet", message, "look at this host's disk"))
        }
    }
    let reason = fs::read_to_string(folder.join(UNREADABLE)).ok()?;
    let kind = if reason == "corrupt" { ErrorKind::Corrupt } else { ErrorKind::Unreadable };
    let files = corpus::Corpus::open(config).unwrap().files().to_vec();
    Some(corpus::Corpus::with_source(config, files, Arc::new(Broken(kind))).unwrap())
}

fn take_part(trainer: &mut Trainer, folder: &Path, worker: usize, assignment: &Assignment) -> Verdict {
    let (backend, store): (_, Arc<dyn KeyValueStore>) = if assignment.world == 1 {
        (Backend::Solo, Arc::new(MemoryStore::default()))
    } else {
        (Backend::Gloo, Arc::new(FolderStore::new(folder.join(format!("generation-{}", assignment.generation)))))
    };
    let options =
        GroupOptions { rank: assignment.rank, world: assignment.world, timeout: LONG, address: "127.0.0.1".to_owned() };
    let group = ProcessGroup::new(backend, store, options).unwrap();
    let membership = Membership {
        run: "test".parse().unwrap(),
        generation: Generation(assignment.generation),
        attempt: Attempt(assignment.attempt),
        rank: Rank(assignment.rank),
        world: WorldSize(assignment.world),
        slots: assignment.slots.iter().copied().map(SlotId).collect(),
    };
    if assignment.flips_a_bit {
        flip_a_bit(trainer);
    }
    let steps = Cell::new(trainer.step().map_or(0, |step| step.0));
    let host = FolderHost { folder, worker, assignment, steps, moved: Cell::default(), computes: Cell::default() };
    match trainer.run(&membership, &group, &host) {
        Ok(Outcome::Paused { step }) => Verdict::Paused(step.0),
        Ok(Outcome::Finished { step, weights_digest }) => {
            Verdict::Finished { step: step.0, weights_digest: weights_digest.to_string() }
        }
        Err(TrainError::Collective { step, message }) => {
            Verdict::Collective { step: step.map(|Step(step)| step), message }
        }
        Err(TrainError::Diverged { step, kind, reason }) => {
            Verdict::Diverged { step: step.0, skipped: kind == Divergence::Skipped, reason }
        }
        Err(TrainError::Corrupted { message }) => Verdict::Corrupted(message),
        Err(TrainError::Local { message }) => Verdict::Local(message),
        Err(TrainError::Fatal { message }) => Verdict::Fatal(message),
    }
}

/// The highest bit of one number's mantissa, as a cosmic ray does it: a lower one may be rounded away by the next update.
fn flip_a_bit(trainer: &Trainer) {
    let parameters = trainer.model().expect("something is held").parameters();
    let mut element = parameters[0].tensor.detach().reshape([-1]).narrow(0, 3, 1);
    let value = element.double_value(&[0]) as f32;
    let _ = element.fill_(f64::from(f32::from_bits(value.to_bits() ^ (1 << 22))));
}
