//! Pretraining on a real corpus from text to checkpoints, beside Hugging Face's Trainer on the same texts, tokenizer,
//! model, recipe and threads.
//!
//! Ours is the real binaries: a coordinator and two workers of one thread, as the README starts them, that have nothing to
//! do yet; the Trainer has the two threads in its one process. The clock runs from the submission until the run is
//! completed: its data made on the way, every step reported, a checkpoint every 100 steps and at the end, the held-out
//! loss measured. The peer is `peers/pipeline.py`: its clock runs from the first
//! `datasets.map` until the held-out loss is known, with Python, torch and the model ready. BERT-mini with the
//! vocabulary of the tokenizer, masked words only, learning rate constant after a short way up, so that a longer run is
//! the same as a shorter one as far as that goes.
//!
//! The Trainer masks other words of the held-out texts, some thousands, and its loss is of those. So a run of ours that begins
//! with its weights and learns nothing tells their loss on the words that ours are measured on; another one at which step it
//! first has that loss, by measuring it often; and a last one takes as many steps and measures once, at its end,
//! as the Trainer does. In exact mode it comes to the same weights, and its time is what counts.
//!
//! With as many workers as cores no core is ever free, so what data, reports and checkpoints cost is the processor time of all
//! that does not compute: the coordinator, the agents, and of the trainers every thread but the one that trains and
//! Gloo's; beside what their training threads take. (The thread that adds up sums during a backward pass ends with it, and
//! is not counted.)

use crate::peer::{Peer, Shape};
use crate::report::{Line, median};
use crate::runs::{self, seconds};
use crate::{corpora, process, stats};
use anyhow::{Context, Result, bail, ensure};
use config::{Architecture, CheckedConfig, Decay, ModelShape};
use e2e::Cluster;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// As many as the peer has threads; each has one.
const WORKERS: usize = 2;
const THREADS: u32 = WORKERS as u32;
const CHECKPOINT_EVERY: u64 = 100;
const WARM_UP: u64 = 20;
/// One text in so many is held out.
const HELD_OUT: usize = 160;
/// A run that looks for a loss measures it so many times in as many steps as the Trainer takes, and takes up to twice as
/// many.
const LOOKS: u64 = 20;
const GOAL_SPEED: f64 = 3.5;
const GOAL_TIME: f64 = 1.0 / 3.0;
/// Per cent.
const GOAL_ASIDE: f64 = 2.0;
/// Threads of a trainer process that train: itself, and those of its group.
const TRAINS: [&str; 3] = ["worker-trainer", "pt_gloo_runloop", "group-watch"];

/// For `peers/pipeline.py`.
#[derive(Serialize)]
pub struct Spec {
    train: PathBuf,
    held_out: PathBuf,
    tokenizer: PathBuf,
    #[serde(flatten)]
    shape: Shape,
    sequence_length: usize,
    mask_rate: f64,
    batch: u64,
    steps: u64,
    learning_rate: f64,
    /// In the Trainer's words.
    scheduler: &'static str,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    clip_norm: f64,
    warmup_steps: u64,
    checkpoint_every: u64,
    threads: u32,
}

impl Spec {
    /// What a config of ours (BERT, masked words only) is for the Trainer: constant after the way up, or linear to nothing
    /// with no time held.
    pub fn of(config: &CheckedConfig, train: PathBuf, held_out: PathBuf, threads: u32) -> Result<Self> {
        let scheduler = match (config.schedule.decay, config.schedule.hold) {
            (Decay::Constant, _) => "constant_with_warmup",
            (Decay::Linear, None) => "linear",
            (decay, hold) => bail!("the Trainer has no {decay:?} after {hold:?}"),
        };
        let tokenizer = corpus::Tokenizer::open(&config.tokenizer)?;
        let length = config.batch.sequence_length;
        let shape: ModelShape = config.model.shape(tokenizer.size() as i64, length as i64);
        ensure!(shape.architecture == Architecture::Bert, "the peer is BERT");
        Ok(Self {
            train,
            held_out,
            tokenizer: PathBuf::from(&config.tokenizer.path),
            shape: Shape::from(&shape),
            sequence_length: length,
            mask_rate: config.objective.mask_rate,
            batch: config.batch.global_samples(),
            steps: config.run.steps,
            learning_rate: config.optimizer.learning_rate,
            scheduler,
            beta2: config.optimizer.beta2,
            epsilon: config.optimizer.epsilon,
            weight_decay: config.optimizer.weight_decay,
            clip_norm: config.optimizer.clip_norm,
            warmup_steps: (config.schedule.warmup * config.run.steps as f64) as u64,
            checkpoint_every: CHECKPOINT_EVERY,
            threads,
        })
    }
}

/// Seconds from the beginning.
#[derive(Deserialize)]
pub struct Answer {
    /// Until the blocks were made.
    pub made: f64,
    /// Until training was over.
    pub trained: f64,
    /// Until the held-out loss was known.
    pub over: f64,
    /// `model.safetensors`, as long as the peer lives.
    pub weights: PathBuf,
}

/// A run of ours that is completed.
struct Trained {
    seconds: f64,
    /// Held out, in nats.
    loss: f64,
    /// The processor time of what does not train, as a part of what does.
    aside: f64,
}

/// Files and numbers that both sides have.
struct Task {
    folder: tempfile::TempDir,
    tokenizer: PathBuf,
    steps: u64,
}

pub fn measure(python: &Path, corpus: &Path, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    // In 110 steps the model has learned how often words are, and a hundredth of a nat is a tenth of them.
    let (rounds, steps) = if quick { (1, 110) } else { (1, 300) };
    let task = Task::new(corpus, steps)?;
    let spec = task.spec()?;
    let tokens = (spec.batch * steps) as f64 * spec.sequence_length as f64;
    let (mut ours, mut peers, mut losses, mut reached) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut aside = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        let run = task.train(steps)?;
        ours.push(run.seconds);
        aside.push(run.aside);
        let mut peer = Peer::start(python, "pipeline", &spec, THREADS)?;
        let answer: Answer = peer.ask("train")?;
        peers.push(answer.over);
        let wanted = task.loss_of(answer.weights.parent().context("weights lie in a folder")?)?;
        drop(peer);
        losses.push(wanted);
        if let Some(step) = task.reach(wanted)? {
            let Trained { seconds, loss, .. } = task.train(step)?;
            ensure!(loss <= wanted, "{loss} nats at the end of {step} steps, and fewer when they were looked at");
            reached.push((seconds, answer.over, step));
        }
        last = Some(answer);
    }
    let Answer { made, trained, over, .. } = last.context("there was a round")?;
    let case =
        format!("BERT-mini, {steps} steps of 32 × 128, {WORKERS} workers, beside the Trainer of as many threads");
    let spread = stats::widest(&[&ours, &peers]);
    let (ours, peer) = (tokens / median(ours), tokens / median(peers));
    let parts = format!(
        "the Trainer's {over:.0} s: {made:.0} s of blocks, {:.0} s of training, {:.0} s of evaluation",
        trained - made,
        over - trained
    );
    show(
        &Line::new("pipeline", format!("{case}: text to checkpoints"), ours, peer, "tokens/s", GOAL_SPEED)
            .spread(spread)
            .note(parts),
    );
    let share = format!("{case}: processor time of data, reports and checkpoints beside that of training");
    show(&Line::figure("pipeline", share, 100.0 * median(aside), "%").no_more_than(GOAL_ASIDE));
    let loss = median(losses);
    let case = format!("{case}: wall time to its final held-out loss");
    if reached.len() < rounds {
        show(&Line::missing("pipeline", case, format!("{loss:.3} nats were not reached in {} steps", 2 * steps)));
        return Ok(());
    }
    let (ours, peers): (Vec<f64>, Vec<f64>) = reached.iter().map(|(ours, peer, _)| (*ours, *peer)).unzip();
    let steps: Vec<String> = reached.iter().map(|(.., step)| step.to_string()).collect();
    let line = Line::at_most("pipeline", case, median(ours), median(peers), "s", GOAL_TIME);
    show(&line.note(format!("{loss:.3} nats, which ours has after {} steps", steps.join(" and "))));
    Ok(())
}

impl Task {
    fn new(corpus: &Path, steps: u64) -> Result<Self> {
        let texts = corpora::texts(&corpus.join("corpus.parquet"), usize::MAX)?;
        let folder = tempfile::tempdir()?;
        let part = |held_out| {
            let chosen = move |(number, _): &(usize, &String)| (number % HELD_OUT == 0) == held_out;
            texts.iter().enumerate().filter(chosen).map(|(_, text)| text)
        };
        corpora::write(&folder.path().join("train.parquet"), part(false));
        corpora::write(&folder.path().join("held-out.parquet"), part(true));
        Ok(Self { folder, tokenizer: corpus.join("tokenizer.json"), steps })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What both sides do, as our config says it.
    fn overrides(&self, steps: u64, look_every: u64) -> Vec<String> {
        vec![
            format!("data.paths=[\"{}\"]", self.path("train.parquet").display()),
            format!("data.eval_paths=[\"{}\"]", self.path("held-out.parquet").display()),
            format!("tokenizer.path={}", self.tokenizer.display()),
            "objective.kind=mlm".to_owned(),
            // The default: the whole corpus is one unit, whose samples are mixed as the Trainer mixes them. The config's own is
            // for next sentences; by it a run of some hundred steps sees some hundred texts.
            "data.unit_rows=4096".to_owned(),
            format!("run.steps={steps}"),
            "schedule.decay=constant".to_owned(),
            // The share of the run is rounded down.
            format!("schedule.warmup={}", (WARM_UP as f64 + 0.5) / steps as f64),
            format!("checkpoint.every_steps={CHECKPOINT_EVERY}"),
            "checkpoint.keep_latest=2".to_owned(),
            "checkpoint.keep_best=0".to_owned(),
            format!("eval.every_steps={look_every}"),
            "eval.samples=1000000".to_owned(),
        ]
    }

    fn spec(&self) -> Result<Spec> {
        let overrides: Vec<config::Override> = self
            .overrides(self.steps, 0)
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, String>>()
            .map_err(anyhow::Error::msg)?;
        let config = config::load_checked(&runs::config(), &overrides)?;
        Spec::of(&config, self.path("train.parquet"), self.path("held-out.parquet"), THREADS)
    }

    /// A run of so many steps.
    fn train(&self, steps: u64) -> Result<Trained> {
        let mut cluster = Cluster::start();
        cluster.add_workers_of(WORKERS, 1);
        let began = now_ms();
        let run = runs::submit(&cluster, self.folder.path(), &self.overrides(steps, 0))?;
        runs::wait_until_completed(&cluster, &run)?;
        let shown = cluster.show(&run);
        ensure!(cluster.generations(&run) == [WORKERS], "a worker was lost meanwhile: {shown:#}");
        let loss = shown["metrics"]["eval/mlm_loss"].as_f64().context("it is measured at the end")?;
        let seconds = seconds(shown["updated"].as_i64().context("a run has a time")? - began);
        Ok(Trained { seconds, loss, aside: aside(&mut cluster)? })
    }

    /// The held-out loss of a model in Hugging Face's format.
    fn loss_of(&self, model: &Path) -> Result<f64> {
        let mut cluster = Cluster::start();
        cluster.add_workers_of(WORKERS, 1);
        // One step that changes nothing: it is measured behind it.
        let mut overrides = self.overrides(1, 0);
        overrides.retain(|set| !set.starts_with("schedule."));
        overrides.extend([format!("init.from=hf:{}", model.display()), "optimizer.learning_rate=1e-30".to_owned()]);
        let run = runs::submit(&cluster, self.folder.path(), &overrides)?;
        runs::wait_until_completed(&cluster, &run)?;
        cluster.show(&run)["metrics"]["eval/mlm_loss"].as_f64().context("it is measured at the end")
    }

    /// The step at which a run first measures this held-out loss, or None.
    fn reach(&self, loss: f64) -> Result<Option<u64>> {
        let mut cluster = Cluster::start();
        cluster.add_workers_of(WORKERS, 1);
        let overrides = self.overrides(2 * self.steps, self.steps / LOOKS);
        let run = runs::submit(&cluster, self.folder.path(), &overrides)?;
        let found = runs::wait_for_end_or(&cluster, &run, |_| {
            first_at_most(&cluster.metric_rows(&run, "eval/mlm_loss", false), loss)
        })?;
        ensure!(cluster.generations(&run) == [WORKERS], "a worker was lost meanwhile: {:#}", cluster.show(&run));
        // No run is shorter than its way up.
        Ok(found.map(|step| step.max(WARM_UP + 1)))
    }
}

/// The processor time of what does not train, as a part of what does, since the processes began.
fn aside(cluster: &mut Cluster) -> Result<f64> {
    let (mut trains, mut beside) = (0.0, process::cpu_seconds(cluster.coordinator_pid())?);
    for worker in 0..WORKERS {
        beside += process::cpu_seconds(cluster.worker(worker).pid())?;
        for (name, seconds) in process::threads(cluster.worker(worker).trainer_pid())? {
            *if TRAINS.contains(&name.as_str()) { &mut trains } else { &mut beside } += seconds;
        }
    }
    ensure!(trains > 0.0, "no thread is called {TRAINS:?}");
    Ok(beside / trains)
}

/// The step of the first value that is no larger than this; rows are in the order of their steps.
fn first_at_most(rows: &[Value], limit: f64) -> Option<u64> {
    let row = rows.iter().find(|row| row["value"].as_f64().is_some_and(|value| value <= limit))?;
    row["step"].as_u64()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_loss_is_reached_when_it_is_first_measured() {
        let rows =
            [json!({"value": 6.0, "step": 10}), json!({"value": 5.0, "step": 20}), json!({"value": 4.0, "step": 30})];
        assert_eq!(first_at_most(&rows, 5.0), Some(20));
        assert_eq!(first_at_most(&rows, 4.5), Some(30));
        assert_eq!(first_at_most(&rows, 3.0), None);
    }

    #[test]
    fn both_sides_are_told_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let made = e2e::Corpus::write(folder.path());
        std::fs::copy(&made.vocabulary, folder.path().join("tokenizer.json")).unwrap();
        let task = Task::new(folder.path(), 110).unwrap();
        let spec = task.spec().unwrap();
        assert_eq!((spec.batch, spec.sequence_length, spec.shape.hidden, spec.shape.layers), (32, 128, 256, 4));
        assert_eq!((spec.learning_rate, spec.beta2, spec.weight_decay), (1e-3, 0.98, 0.01));
        let parts =
            ["train.parquet", "held-out.parquet"].map(|name| corpora::texts(&task.path(name), 1_000).unwrap().len());
        assert_eq!(parts, [596, 4], "one text in 160 of 600");
        // The way up takes the steps that are meant, in a run of any length.
        for steps in [110, 220, 300, 600] {
            let overrides: Vec<config::Override> =
                task.overrides(steps, 11).iter().map(|text| text.parse().unwrap()).collect();
            let config = config::load_checked(&runs::config(), &overrides).unwrap();
            let factor = |step| config.schedule.factor(step, steps);
            assert_eq!((factor(WARM_UP - 1) < 1.0, factor(WARM_UP), factor(steps)), (true, 1.0, 1.0));
        }
    }
}
