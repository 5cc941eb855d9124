//! How long a step waits for its checkpoint, beside a copy in memory of as many bytes.
//!
//! The trainer takes weights and moments aside and goes on with the next step, while its agent stores them. What is measured
//! is the first part, between the report of a step and the end of the taking, of BERT as published, alone in its group.
//! Several workers also compare their states before each checkpoint, which is not in it, nor is what storing takes from
//! the cores meanwhile (suite `pipeline`).

use crate::ours::{Observer, Ours};
use crate::report::{Line, median};
use crate::{runs, samples, stats};
use anyhow::{Result, bail, ensure};
use corpus::Tokenizer;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use trainer::{Capture, Outcome, StepReport};

const THREADS: u32 = 2;
const GOAL: f64 = 1.0;

pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    let (name, size, checkpoints) = if quick { ("BERT-mini", "mini", 6) } else { ("BERT-base", "base", 12) };
    let overrides = [
        format!("data.paths=[\"{}\"]", folder.path().join("corpus.jsonl").display()),
        format!("tokenizer.path={}", folder.path().join("vocab.txt").display()),
        format!("model.size={size}"),
        "model.vocabulary=30522".to_owned(),
        "batch.slots=1".to_owned(),
        "batch.micro_batch=2".to_owned(),
        format!("run.steps={checkpoints}"),
        "checkpoint.every_steps=1".to_owned(),
        "eval.every_steps=0".to_owned(),
        // At the end there is one.
        "eval.samples=1".to_owned(),
    ];
    let overrides: Result<Vec<config::Override>, String> = overrides.iter().map(|text| text.parse()).collect();
    let config = config::load_checked(&runs::config(), &overrides.map_err(anyhow::Error::msg)?)?;
    let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
    let stopwatch = Stopwatch::default();
    match Ours::new(config, tokenizer, THREADS, Device::Cpu)?.run(&stopwatch)? {
        Outcome::Finished { .. } => {}
        Outcome::Paused { .. } => bail!("nobody asked for a pause"),
    }
    let (ours, copies) = (stopwatch.waits.into_inner(), stopwatch.copies.into_inner());
    ensure!(ours.len() == checkpoints, "{} checkpoints, not {checkpoints}", ours.len());
    let mebibytes = stopwatch.bytes.get() >> 20;
    let case = format!("{name}: a step waits for its checkpoint, beside a copy in memory of as many bytes");
    let line = Line::at_most("checkpoint", case, 1e3 * median(ours.clone()), 1e3 * median(copies.clone()), "ms", GOAL);
    show(&line.spread(stats::widest(&[&ours, &copies])).note(format!("{mebibytes} MiB")));
    Ok(())
}

/// Notes how long each checkpoint is waited for, in turns with how long a copy takes.
#[derive(Default)]
struct Stopwatch {
    /// When the last step was reported.
    reported: Cell<Option<Instant>>,
    /// Seconds.
    waits: RefCell<Vec<f64>>,
    /// Seconds.
    copies: RefCell<Vec<f64>>,
    /// Of a checkpoint.
    bytes: Cell<usize>,
}

impl Observer for Stopwatch {
    fn progress(&self, _: StepReport) {
        self.reported.set(Some(Instant::now()));
    }

    fn checkpoint(&self, capture: Capture) {
        let Some(reported) = self.reported.take() else { return };
        self.waits.borrow_mut().push(reported.elapsed().as_secs_f64());
        let files = capture.files().expect("a checkpoint of the benchmark can be laid out");
        let bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
        drop(files);
        self.bytes.set(bytes);
        drop(capture);
        let state = Tensor::zeros([bytes as i64], (Kind::Uint8, Device::Cpu));
        let began = Instant::now();
        let copy = state.copy();
        self.copies.borrow_mut().push(began.elapsed().as_secs_f64());
        drop(copy);
    }
}
