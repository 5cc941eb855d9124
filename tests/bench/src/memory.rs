//! What a worker keeps in memory, beside what training needs by formula: parameters, gradients, the optimizer's state
//! and the activations of one forward pass.
//!
//! A real worker trains BERT as published; what its two processes have at most is read from the kernel after some
//! steps, with no checkpoint on its way. In float32, with P parameters, parameters and gradients are 4·P bytes each and
//! AdamW's moments 8·P. The activations are the tensors that the backward pass reads again, of one micro-batch of b
//! sequences of s tokens with m predicted positions, layers L, width h, inner width i, heads a, vocabulary V:
//!
//! ```text
//! 4 · (b·s·(L·(9·h + 2·i + 2·a·s) + 2·h) + b·m·(3·h + V))
//! ```
//!
//! a layer's input, queries, keys, values and the scaled queries (5·h), the attention's weights before and after
//! dropout (2·a·s), its result, the inputs of both norms and of the inner layer (4·h), the inner layer before and after
//! GELU (2·i); then the embeddings' norm and the last states, and the head's at the predicted positions. Dropout keeps
//! nothing. What the process has before it trains (libtorch's code and the runtime), exact mode's sum (8·P) and what
//! the allocator holds are ours to keep small, so they are not in the formula.

use crate::process::{self, Memory};
use crate::report::Line;
use crate::{runs, samples};
use anyhow::{Result, ensure};
use config::flops;
use config::{ModelConfig, ModelShape, ModelSize};
use e2e::Cluster;
use model::{Head, Model};
use std::path::Path;
use std::time::Duration;
use tch::Device;

const THREADS: u32 = 2;
const STEPS: usize = 3;
const GOAL: f64 = 1.15;
const MASK_RATE: f64 = 0.15;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    size: ModelSize,
    /// As the config spells it.
    size_name: &'static str,
    mode: &'static str,
    slots: u32,
    micro_batch: usize,
    sequence_length: usize,
    in_quick: bool,
}

const MINI: Case = Case {
    name: "BERT-mini, 4 × 128",
    size: ModelSize::Mini,
    size_name: "mini",
    mode: "exact",
    slots: 8,
    micro_batch: 4,
    sequence_length: 128,
    in_quick: true,
};
const BASE: Case = Case {
    name: "BERT-base, 8 × 128",
    size: ModelSize::Base,
    size_name: "base",
    mode: "exact",
    slots: 2,
    micro_batch: 8,
    sequence_length: 128,
    in_quick: false,
};
const CASES: [Case; 4] = [MINI, Case { mode: "fast", ..MINI }, BASE, Case { mode: "fast", ..BASE }];

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Needs {
    parameters: u64,
    gradients: u64,
    optimizer: u64,
    activations: u64,
}

impl Needs {
    fn of(parameters: u64, shape: &ModelShape, samples: usize, length: usize) -> Self {
        let [layers, hidden, inner, heads, vocabulary] =
            [shape.layers, shape.hidden, shape.intermediate, shape.heads, shape.vocabulary].map(i64::unsigned_abs);
        let (samples, tokens) = (samples as u64, samples as u64 * length as u64);
        let predicted = samples * flops::predicted(MASK_RATE, length) as u64;
        let layer = 9 * hidden + 2 * inner + 2 * heads * length as u64;
        let activations = tokens * (layers * layer + 2 * hidden) + predicted * (3 * hidden + vocabulary);
        Self {
            parameters: 4 * parameters,
            gradients: 4 * parameters,
            optimizer: 8 * parameters,
            activations: 4 * activations,
        }
    }

    fn sum(&self) -> u64 {
        self.parameters + self.gradients + self.optimizer + self.activations
    }
}

pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    for case in CASES.iter().filter(|case| case.in_quick || !quick) {
        case.measure(folder.path(), &mut show)?;
    }
    Ok(())
}

impl Case {
    fn measure(&self, folder: &Path, show: &mut impl FnMut(&Line)) -> Result<()> {
        let config = ModelConfig { size: self.size, ..ModelConfig::default() };
        let shape = config.shape(30_522, self.sequence_length as i64);
        let parameters = count(&shape)?;
        let needs = Needs::of(parameters, &shape, self.micro_batch, self.sequence_length);
        let (idle, trainer, agent) = self.train(folder)?;

        let name = |what: &str| format!("{}, {}: {what}", self.name, self.mode);
        let mut row = |what: &str, bytes: u64| {
            show(&Line::figure("memory", name(what), mebibytes(bytes), "MiB"));
        };
        row("parameters, by formula", needs.parameters);
        row("gradients, by formula", needs.gradients);
        row("optimizer state, by formula", needs.optimizer);
        row("activations, by formula", needs.activations);
        row("the trainer process before it trains, its own", idle.anonymous);
        row("the trainer process before it trains, code and other files", idle.file);
        if self.mode == "exact" {
            row("exact mode's sum, by formula", 8 * parameters);
        }
        row("the agent process", agent.peak);
        row("the trainer process, peak", trainer.peak);
        let line =
            Line::figure("memory", name("both processes beside the four"), mebibytes(trainer.peak + agent.peak), "MiB");
        show(&line.beside(mebibytes(needs.sum())).no_more_than(GOAL));
        Ok(())
    }

    /// The trainer process before, the trainer process after, and the agent.
    fn train(&self, folder: &Path) -> Result<(Memory, Memory, Memory)> {
        let mut cluster = Cluster::start();
        cluster.add_workers_of(1, THREADS);
        let (trainer, agent) = (cluster.worker(0).trainer_pid(), cluster.worker(0).pid());
        // What it still does after it has joined is done by then.
        std::thread::sleep(Duration::from_secs(2));
        let idle = process::memory(trainer)?;
        let overrides = [
            format!("model.size={}", self.size_name),
            "model.vocabulary=30522".to_owned(),
            format!("reduce.mode={}", self.mode),
            format!("batch.slots={}", self.slots),
            format!("batch.micro_batch={}", self.micro_batch),
            format!("batch.sequence_length={}", self.sequence_length),
        ];
        let run = runs::submit(&cluster, folder, &overrides)?;
        runs::wait_for_step(&cluster, &run, runs::WARM_UP + STEPS)?;
        ensure!(cluster.worker(0).trainer_pid() == trainer, "the trainer process was replaced meanwhile");
        Ok((idle, process::memory(trainer)?, process::memory(agent)?))
    }
}

/// Of a model with BERT's two heads.
fn count(shape: &ModelShape) -> Result<u64> {
    let model = Model::new(shape, Head::PreTraining, 0, Device::Cpu)?;
    Ok(model.parameters().iter().map(|parameter| parameter.tensor.numel() as u64).sum())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_training_needs_is_added_up() {
        let config = ModelConfig {
            layers: Some(2),
            hidden: Some(8),
            heads: Some(2),
            intermediate: Some(32),
            vocabulary: Some(100),
            ..ModelConfig::default()
        };
        // 40 tokens of 2 layers of 72 + 64 + 80 floats and 16 more, 6 predicted of 24 + 100.
        let needs = Needs::of(1000, &config.shape(100, 20), 2, 20);
        assert_eq!(needs.activations, 4 * (40 * (2 * 216 + 16) + 6 * 124));
        assert_eq!((needs.parameters, needs.gradients, needs.optimizer), (4000, 4000, 8000));
        assert_eq!(needs.sum(), 16_000 + needs.activations);
    }

    #[test]
    fn parameters_are_counted_once() {
        let config = ModelConfig {
            layers: Some(1),
            hidden: Some(8),
            heads: Some(2),
            intermediate: Some(16),
            vocabulary: Some(100),
            max_positions: Some(20),
            ..ModelConfig::default()
        };
        // Embeddings of 122 rows and their norm, one layer, the pooler, the transform with its norm, the vocabulary's
        // bias, next sentence.
        let by_hand = 122 * 8 + 16 + (4 * 72 + 16) + (8 * 16 + 16) + (16 * 8 + 8) + 16 + 72 + (72 + 16) + 100 + 18;
        assert_eq!(count(&config.shape(100, 20)).unwrap(), by_hand);
    }
}
