//! What a recipe may turn on beside the usual: exact and resumable for every number of workers, like everything else.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::pretraining;
use crate::process::{self, Verdict};
use model::safetensors_io;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const AVERAGED: &str = "[optimizer]\nema_decay = 0.9";

/// The tensors of the checkpoint's files whose names begin with `file`.
fn tensors(checkpoint: &Path, file: &str) -> BTreeMap<String, Tensor> {
    let files = process::read(checkpoint).files.into_iter().filter(|(name, _)| name.starts_with(file));
    files.flat_map(|(_, bytes)| safetensors_io::read(&bytes).unwrap()).collect()
}

#[test]
fn the_average_of_the_weights_comes_out_of_a_run_that_goes_on_from_the_weights() {
    let every_step = |extra: &str| {
        let config = pretraining(extra).replacen("every_steps = 0", "every_steps = 1", 1);
        config.replace("steps = 30", "steps = 6").replace("every_steps = 15", "every_steps = 3")
    };
    let (plain_digest, plain) = undisturbed(&every_step(""), 1);
    let (digest, averaged) = undisturbed(&every_step(AVERAGED), 2);
    let mut before: Option<BTreeMap<String, Tensor>> = None;
    for step in 1..=6 {
        let weights = tensors(&plain.checkpoint(step), "model");
        let average = tensors(&averaged.checkpoint(step), "model");
        let beside = tensors(&averaged.checkpoint(step), "optimizer");
        let decay = f64::min(0.9, (1 + step) as f64 / (10 + step) as f64);
        assert!(!weights.is_empty() && weights.len() == average.len());
        for (name, weight) in &weights {
            assert!(weight.equal(&beside[&format!("weights.{name}")]), "step {step}: {name} was trained otherwise");
            if let Some(before) = &before {
                let expected = &before[name] * decay + weight * (1.0 - decay);
                let difference = (&average[name] - expected).abs().max().double_value(&[]);
                assert!(difference < 1e-6, "step {step}, {name}: {difference}");
            }
        }
        before = Some(average);
    }
    let result = before.unwrap();
    assert_eq!(digest, safetensors_io::digest(result.values()).unwrap().to_string());
    assert_ne!(digest, plain_digest);
    let losses = [&plain, &averaged].map(|cluster| cluster.metric(0, "eval/loss").unwrap());
    assert_ne!(losses[0], losses[1], "it is the average that is evaluated");
}

#[test]
fn an_average_is_given_to_joiners_and_read_from_checkpoints() {
    let config = pretraining(AVERAGED);
    let (expected, _) = undisturbed(&config, 1);
    let mut cluster = Cluster::new(&config, 1);
    cluster.assign(&[0], &Plan { pause_after: Some(7), ..Plan::default() });
    let joiner = cluster.add_worker();
    assert_eq!(cluster.verdict(0), Verdict::Paused(7));
    let checkpoint = cluster.checkpoint(7);
    cluster.assign(&[joiner, 0], &Plan::default());
    assert_eq!(cluster.digest(&[joiner, 0]), expected);
    let mut second = Cluster::new(&config, 3);
    let resumed = Plan { attempt: 1, restore: Some(checkpoint.clone()), ..Plan::default() };
    second.assign(&[0, 1, 2], &resumed);
    assert_eq!(second.digest(&[0, 1, 2]), expected);
    // Without its average the run would be another.
    let mut other = Cluster::new(&pretraining(""), 1);
    other.assign(&[0], &resumed);
    let Verdict::Fatal(reason) = other.verdict(0) else { panic!("it went on") };
    assert!(reason.contains("it holds an average of the weights: set optimizer.ema_decay"), "{reason}");
}
