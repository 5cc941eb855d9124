//! How long what we recommend for a size and a time trains to the held-out loss that Hugging Face's Trainer reaches in ten
//! minutes with a BERT of that size, on the same texts, vocabulary and threads.
//!
//! The Trainer is `peers/pipeline.py` (as run_mlm does it: blocks by `datasets.map`, its collator, the fused AdamW, linear
//! decay, batches of 32 × 128, checkpoints every 100 steps). A short run tells its speed, and so how many steps its ten
//! minutes have. Then ours trains, whole runs of growing length, each as `coordinator recipe suggest` says for so much time
//! at the speed that is measured first, until one comes to that loss; its time is by the clock, from opening the corpus
//! to the last step. Both are measured alike ([`super::material`]).

use super::Size;
use super::material::Material;
use super::single::{self, Recipe, Setting};
use super::variants::{self, Variant};
use crate::peer::Peer;
use crate::pipeline::{Answer, Spec};
use crate::report::Line;
use anyhow::{Context, Result, ensure};
use config::CheckedConfig;
use config::recipe::{self, NoRecipe, Speed, Wish};
use std::path::Path;
use std::time::Instant;
use tch::Device;

const GOAL: f64 = 1.0 / 20.0;
/// What ours is given, as parts of the Trainer's time; it ends at the first that is enough.
const PARTS: [f64; 5] = [1.0 / 40.0, 1.0 / 20.0, 1.0 / 10.0, 1.0 / 5.0, 2.0 / 5.0];
/// To find out how fast the Trainer is.
const STEPS_OF_RATE: u64 = 40;
const SECONDS_OF_RATE: f64 = 8.0;
const PEER: &str = "bert-as-published";

pub fn measure(
    size: Size,
    threads: u32,
    python: &Path,
    corpus: &Path,
    quick: bool,
    mut show: impl FnMut(&Line),
) -> Result<()> {
    let minutes = if quick { 1.0 } else { 10.0 };
    let folder = tempfile::tempdir()?;
    let material = Material::prepare(&folder.path().join("prepared"), &corpus.join("corpus.parquet"))?;
    material.train_tokenizer(variants::VOCABULARY)?;
    let measure = material.measure(variants::VOCABULARY, variants::recipe(size.of_model())?)?;

    let train = |steps| -> Result<(Answer, Peer)> {
        let spec = Spec::of(&published(&material, size, steps)?, material.train(), material.held_out(), threads)?;
        let mut peer = Peer::start(python, "pipeline", &spec, threads)?;
        Ok((peer.ask("train")?, peer))
    };
    let (short, _) = train(STEPS_OF_RATE)?;
    let per_step = (short.trained - short.made) / STEPS_OF_RATE as f64;
    let around = short.over - (short.trained - short.made);
    let steps = ((minutes * 60.0 - around) / per_step) as u64;
    ensure!(steps > 0, "the Trainer makes no step in {minutes} minutes");
    let (answer, peer) = train(steps)?;
    let weights = std::fs::read(&answer.weights).with_context(|| answer.weights.display().to_string())?;
    drop(peer);
    let config = published(&material, size, steps)?;
    let shape = config.model.shape(variants::VOCABULARY as i64, config.batch.sequence_length as i64);
    let reached = measure.of_weights(&shape, &weights, Device::Cpu)?;

    let setting = Setting { threads, device: Device::Cpu, slots: None };
    let case = format!(
        "{} × {}, {threads} threads: to the held-out loss of the Trainer after {minutes} minutes",
        shape.layers, shape.hidden
    );
    let mut tried = format!("the Trainer's {steps} steps: {:.3} nats, {:.1} %", reached.loss, 100.0 * reached.accuracy);
    for part in PARTS {
        let Some(ours) = recommended(&material, size, setting, part * answer.over)? else {
            tried += &format!("; nothing is recommended for {:.0} s", part * answer.over);
            continue;
        };
        let (steps, batch) = (ours.0.run.steps, ours.0.batch.global_samples());
        let began = Instant::now();
        let run = single::run(&material, &ours, setting, (steps, 1))?;
        tried += &format!("; ours, {steps} steps of {batch} rows in {:.1} s: {:.3}", run.seconds, run.loss);
        eprintln!("{case}: {tried} ({:.0} s)", began.elapsed().as_secs_f64());
        if run.loss <= reached.loss {
            let line = Line::at_most("learning", case, run.seconds, answer.over, "s", GOAL);
            show(&line.note(tried));
            return Ok(());
        }
    }
    show(&Line::missing("learning", case, tried));
    Ok(())
}

/// What `coordinator recipe suggest` says for so many seconds, at the speed that what it says has here. None: too short.
fn recommended(material: &Material, size: Size, setting: Setting, seconds: f64) -> Result<Option<Recipe>> {
    let suggested = |speed| {
        let wish = Wish {
            size: Some(size.name()),
            minutes: seconds / 60.0,
            workers: 1,
            speed,
            vocabulary: variants::VOCABULARY,
            data: Vec::new(),
            tokenizer: None,
        };
        match recipe::suggest(&wish) {
            Ok(found) => Ok(Some((found.config, variants::VOCABULARY))),
            Err(NoRecipe::TooShort { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut found = suggested(Speed::Threads(setting.threads))?;
    // Another speed may mean another recipe, which has a speed of its own.
    for _ in 0..2 {
        let Some(recipe) = &found else { return Ok(None) };
        let rate = single::rate(material, recipe, setting, SECONDS_OF_RATE)?;
        let batch = recipe.0.batch.clone();
        found = suggested(Speed::TokensPerSecond(rate.tokens_per_step / rate.seconds_per_step))?;
        if found.as_ref().is_some_and(|(config, _)| config.batch == batch) {
            break;
        }
    }
    Ok(found)
}

/// What the Trainer does, as a config of ours.
fn published(material: &Material, size: Size, steps: u64) -> Result<CheckedConfig> {
    let variant = Variant::of_name(PEER)?;
    let recipe = variants::recipe(size.of_model())?;
    let mut config = material.config(variant.applied(recipe), variant.vocabulary);
    config.run.steps = steps;
    Ok(config.check(PEER)?)
}

#[cfg(test)]
mod tests {
    use super::super::material::tests::corpus;
    use super::*;

    #[test]
    fn the_trainer_is_told_of_a_published_bert() {
        let folder = tempfile::tempdir().unwrap();
        let material = Material::prepare(&folder.path().join("prepared"), &corpus(folder.path())).unwrap();
        material.train_tokenizer(variants::VOCABULARY).unwrap();
        let config = published(&material, Size::Tiny, 500).unwrap();
        let spec = Spec::of(&config, material.train(), material.held_out(), 2).unwrap();
        let told = serde_json::to_value(&spec).unwrap();
        for (key, value) in [
            ("layers", 2.into()),
            ("hidden", 128.into()),
            ("batch", 32.into()),
            ("sequence_length", 128.into()),
            ("mask_rate", serde_json::json!(0.15)),
            ("dropout", serde_json::json!(0.1)),
            ("steps", 500.into()),
            ("warmup_steps", 25.into()),
            ("scheduler", "linear".into()),
        ] {
            assert_eq!(told[key], value, "{key}");
        }
        // What is held to 40 % of the steps has no name there.
        let recipe = material.config(variants::recipe(Size::Tiny.of_model()).unwrap(), variants::VOCABULARY);
        let recipe = recipe.check("the recipe").unwrap();
        assert!(Spec::of(&recipe, material.train(), material.held_out(), 2).is_err());
    }

    #[test]
    fn nothing_is_recommended_for_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let material = Material::prepare(&folder.path().join("prepared"), &corpus(folder.path())).unwrap();
        let setting = Setting { threads: 1, device: Device::Cpu, slots: None };
        assert!(recommended(&material, Size::Tiny, setting, 1.0).unwrap().is_none());
    }
}
