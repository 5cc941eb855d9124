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

/// What a run may have that moves from step to step, each as what stands in [`pretraining`] and what stands there then.
const MOVING: [(&str, &str); 5] = [
    ("kind = \"mlm\"", "kind = \"mlm\"\nmask_rate = 0.3\nfinal_mask_rate = 0.15"),
    ("accumulate = 2", "accumulate = 3\nramp_from = 1\nramp_share = 0.5"),
    ("sequence_length = 32", "sequence_length = 32\nshort_length = 16\nshort_share = 0.6"),
    ("[schedule]", "[schedule]\nwarmup = 0.1\nhold = 0.6\ndecay = \"sqrt\""),
    ("[optimizer]", AVERAGED),
];

/// A run with all of them but for some.
fn moving(but: &[usize]) -> String {
    let mut config = pretraining("[schedule]\n[optimizer]").replace("mlm_nsp", "mlm");
    for (number, (plain, moves)) in MOVING.into_iter().enumerate() {
        assert_eq!(config.matches(plain).count(), 1, "{plain}");
        if !but.contains(&number) {
            config = config.replace(plain, moves);
        }
    }
    config
}

#[test]
fn what_moves_from_step_to_step_moves_alike_for_any_number_of_workers() {
    let config = moving(&[]);
    let (expected, alone) = undisturbed(&config, 1);
    let (digest, pair) = undisturbed(&config, 2);
    assert_eq!(digest, expected);
    assert_eq!(alone.timeless(), pair.timeless(), "every number of every step is the same");
    let log = alone.log(0);
    let used = |step: usize| log[step - 1].segments.iter().map(|segment| segment.end - segment.start).sum::<u64>();
    // Six slots, two samples in a micro-batch: one, two and three of them.
    assert_eq!([1, 8, 9, 15, 16, 30].map(used), [12, 12, 24, 24, 36, 36]);

    // In the middle of everything; and where rows have just become long.
    for at in [11, 18] {
        let mut first = Cluster::new(&config, 2);
        first.assign(&[0, 1], &Plan { pause_after: Some(at), ..Plan::default() });
        assert_eq!([first.verdict(0), first.verdict(1)], [Verdict::Paused(at), Verdict::Paused(at)]);
        let checkpoint = first.checkpoint(at);
        first.assign(&[1], &Plan::default());
        assert_eq!(first.digest(&[1]), expected, "one of two goes on after step {at}");
        let mut second = Cluster::new(&config, 3);
        second.assign(&[0, 1, 2], &Plan { attempt: 1, restore: Some(checkpoint), ..Plan::default() });
        assert_eq!(second.digest(&[0, 1, 2]), expected, "three go on from the checkpoint of step {at}");
    }
}

#[test]
fn each_thing_that_moves_makes_a_difference() {
    let short = |but: &[usize]| undisturbed(&moving(but).replace("steps = 30", "steps = 10"), 1).0;
    let mut digests = vec![short(&[])];
    digests.extend((0..MOVING.len()).map(|left_out| short(&[left_out])));
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 1 + MOVING.len());
}

#[test]
fn bfloat16_is_exact_too_and_near_float32() {
    let short = |precision: &str| {
        let config = pretraining("").replace("steps = 30", &format!("steps = 6\n{precision}"));
        config.replace("every_steps = 15", "every_steps = 6")
    };
    let (digest, alone) = undisturbed(&short("precision = \"bfloat16\""), 1);
    assert_eq!(undisturbed(&short("precision = \"bfloat16\""), 3).0, digest);
    let (other, whole) = undisturbed(&short(""), 1);
    assert_ne!(digest, other);
    let losses = [&alone, &whole].map(|cluster| cluster.metric(0, "eval/loss").unwrap());
    assert!((losses[0] - losses[1]).abs() < 0.02, "{losses:?}");
}
