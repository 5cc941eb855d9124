//! One training from the first step to the last in this process: how fast it is, or what it comes to.

use super::material::Material;
use crate::ours::{Observer, Ours};
use anyhow::{Context, Result, bail, ensure};
use config::{CheckedConfig, RunConfig};
use corpus::Tokenizer;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;
use tch::Device;
use trainer::{Capture, Outcome, StepReport};

/// How fast a variant trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub seconds_per_step: f64,
    pub tokens_per_step: f64,
}

impl Rate {
    /// Steps that take so many seconds.
    pub fn steps(&self, seconds: f64) -> u64 {
        ((seconds / self.seconds_per_step) as u64).max(1)
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    pub tokens: u64,
    /// Of training here, by the clock.
    pub seconds: f64,
    /// Nats a masked token, held out.
    pub loss: f64,
    pub accuracy: f64,
    pub loss_of_byte: f64,
    pub predicted: i64,
    /// The mean over the last tenth of the steps, by the run's own objective.
    pub train_loss: f64,
}

/// Where and how.
#[derive(Clone, Copy)]
pub struct Setting {
    pub threads: u32,
    pub device: Device,
    /// Deals the batch over so many slots; None: as the recipe says.
    pub slots: Option<u32>,
}

/// A recipe, and of how many words the vocabulary is that it is for.
pub type Recipe = (RunConfig, usize);

/// Trains for about so many seconds. The recipe's shares of the run (schedules, ramps, short rows) are those of a whole
/// run. The first step is left out, and the last, which is followed by the end of the run.
pub fn rate(material: &Material, (recipe, vocabulary): &Recipe, setting: Setting, seconds: f64) -> Result<Rate> {
    let config = |steps| {
        let mut config = material.config(recipe.clone(), *vocabulary);
        config.run.steps = steps;
        checked(config, setting)
    };
    // Memory and threads grow in the first steps of all.
    let first = train(config(4)?, setting)?.rate()?;
    let steps = ((seconds / first.seconds_per_step) as u64).clamp(12, 5_000);
    train(config(steps)?, setting)?.rate()
}

/// Trains for so many steps and measures what comes of it.
pub fn run(
    material: &Material,
    (recipe, vocabulary): &Recipe,
    setting: Setting,
    (steps, seed): (u64, u64),
) -> Result<Trained> {
    let mut config = material.config(recipe.clone(), *vocabulary);
    (config.run.steps, config.run.seed) = (steps, seed);
    let config = checked(config, setting)?;
    let tokenizer = Tokenizer::open(&config.tokenizer)?;
    let shape = config.model.shape(tokenizer.size() as i64, config.batch.sequence_length as i64);
    let began = Instant::now();
    let recorded = train(config, setting)?;
    let seconds = began.elapsed().as_secs_f64();
    let weights = recorded.weights.as_deref().context("the last step made no checkpoint")?;
    let measured = material.measure(*vocabulary, recipe.clone())?.of_weights(&shape, weights, setting.device)?;
    let last = &recorded.losses[recorded.losses.len() - recorded.losses.len().div_ceil(10)..];
    Ok(Trained {
        tokens: recorded.ended.iter().map(|(_, tokens)| tokens).sum(),
        seconds,
        loss: measured.loss,
        accuracy: measured.accuracy,
        loss_of_byte: measured.loss_of_byte,
        predicted: measured.predicted,
        train_loss: last.iter().sum::<f64>() / last.len() as f64,
    })
}

fn checked(mut config: RunConfig, setting: Setting) -> Result<CheckedConfig> {
    if let Some(slots) = setting.slots {
        let batch = &mut config.batch;
        let samples = batch.slots as usize * batch.micro_batch;
        ensure!(slots > 0 && samples.is_multiple_of(slots as usize), "{samples} samples do not go into {slots} slots");
        (batch.slots, batch.micro_batch) = (slots, samples / slots as usize);
    }
    Ok(config.check("a variant")?)
}

fn train(config: CheckedConfig, setting: Setting) -> Result<Recorded> {
    let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
    let recorder = Recorder::default();
    match Ours::new(config, tokenizer, setting.threads, setting.device)?.run(&recorder)? {
        Outcome::Finished { .. } => Ok(recorder.0.into_inner()),
        Outcome::Paused { .. } => bail!("nobody asked for a pause"),
    }
}

/// What a run reported.
#[derive(Default)]
struct Recorded {
    /// When each step ended, and its tokens.
    ended: Vec<(Instant, u64)>,
    losses: Vec<f64>,
    /// `model.safetensors` of the last step.
    weights: Option<Vec<u8>>,
    /// Why there is none.
    failed: Option<String>,
}

impl Recorded {
    fn rate(&self) -> Result<Rate> {
        let steps = self.ended.len().checked_sub(2).filter(|steps| *steps > 0).context("a rate takes three steps")?;
        let (first, last) = (self.ended[0], self.ended[steps]);
        let tokens: u64 = self.ended[1..=steps].iter().map(|(_, tokens)| tokens).sum();
        let seconds = (last.0 - first.0).as_secs_f64();
        Ok(Rate { seconds_per_step: seconds / steps as f64, tokens_per_step: tokens as f64 / steps as f64 })
    }
}

#[derive(Default)]
struct Recorder(RefCell<Recorded>);

impl Observer for Recorder {
    fn progress(&self, report: StepReport) {
        let mut recorded = self.0.borrow_mut();
        recorded.ended.push((Instant::now(), report.tokens));
        let loss = report.metrics.iter().find(|(name, _)| name == "train/loss").map_or(f64::NAN, |(_, value)| *value);
        recorded.losses.push(loss);
    }

    fn checkpoint(&self, capture: Capture) {
        let mut recorded = self.0.borrow_mut();
        match capture.files() {
            Ok(files) => {
                let weights = files.into_iter().find(|(name, _)| name == "model.safetensors");
                recorded.weights = weights.map(|(_, bytes)| bytes);
            }
            Err(error) => recorded.failed = Some(error.to_string()),
        }
    }

    fn stored(&self) -> Result<(), String> {
        self.0.borrow_mut().failed.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_is_that_of_the_steps_in_the_middle() {
        let began = Instant::now();
        let ended = [(0, 9), (1_000, 10), (3_000, 20), (9_000, 5)];
        let ended = ended.map(|(at, tokens)| (began + Duration::from_millis(at), tokens)).to_vec();
        let rate = Recorded { ended, ..Recorded::default() }.rate().unwrap();
        assert_eq!(rate, Rate { seconds_per_step: 1.5, tokens_per_step: 15.0 });
        assert_eq!((rate.steps(15.1), rate.steps(0.1)), (10, 1));
        assert!(Recorded { ended: vec![(began, 1); 2], ..Recorded::default() }.rate().is_err());
    }
}
