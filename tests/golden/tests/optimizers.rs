//! The update rules against PyTorch's AdamW and re-statements of AdamW, LAMB and Muon in float64 (fixtures/optimizers).

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

use config::{OptimizerConfig, OptimizerKind};
use model::Parameter;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::Tensor;
use trainer::optimizer::Optimizer;

#[derive(Deserialize)]
struct Settings {
    steps: u64,
    learning_rates: Vec<f64>,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    bias_correction: Option<bool>,
    muon_momentum: f64,
    muon_iterations: u32,
    decay: BTreeMap<String, bool>,
}

/// Replays a fixture; every parameter must agree after every step.
fn replay(rule: &str, kind: OptimizerKind, tolerance: f64) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/optimizers");
    let settings = std::fs::read(folder.join(format!("{rule}.json"))).unwrap();
    let settings: Settings = serde_json::from_slice(&settings).unwrap();
    let bytes = std::fs::read(folder.join(format!("{rule}.safetensors"))).unwrap();
    let tensors: BTreeMap<String, Tensor> = model::safetensors_io::read(&bytes).unwrap().into_iter().collect();
    let parameters: Vec<Parameter> = tensors
        .iter()
        .filter_map(|(key, tensor)| Some((key.strip_prefix("initial.")?, tensor)))
        .map(|(name, tensor)| Parameter {
            name: name.to_owned(),
            tensor: tensor.copy().set_requires_grad(true),
            decay: settings.decay[name],
            below_head: 0,
            trained: true,
            adapter: false,
            adapted: false,
            hidden_matrix: tensor.dim() == 2,
        })
        .collect();
    // The fixture gives each step's rate, so the configured one is 1 and the rate is the schedule's factor.
    let config = OptimizerConfig {
        kind,
        learning_rate: 1.0,
        muon_learning_rate: 1.0,
        beta1: settings.beta1,
        beta2: settings.beta2,
        epsilon: settings.epsilon,
        weight_decay: settings.weight_decay,
        bias_correction: settings.bias_correction.unwrap_or(true),
        muon_momentum: settings.muon_momentum,
        muon_iterations: settings.muon_iterations,
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, &parameters);
    for step in 1..=settings.steps {
        let gradients: Vec<Tensor> =
            parameters.iter().map(|parameter| tensors[&format!("gradient.{step}.{}", parameter.name)].copy()).collect();
        optimizer.update(&parameters, &gradients, step, settings.learning_rates[step as usize - 1]).unwrap();
        for parameter in &parameters {
            let expected = &tensors[&format!("after.{step}.{}", parameter.name)];
            let difference = (&parameter.tensor - expected).abs().max().double_value(&[]);
            assert!(difference < tolerance, "{rule}, step {step}, {}: {difference}", parameter.name);
        }
    }
    assert!(!parameters.is_empty(), "{rule}: the fixture has parameters");
}

#[test]
fn ten_adamw_steps_equal_pytorchs() {
    replay("adamw_torch", OptimizerKind::Adamw, 1e-6);
    replay("adamw", OptimizerKind::Adamw, 1e-6);
}

#[test]
fn adamw_without_bias_correction_is_googles() {
    replay("adamw_no_bias_correction", OptimizerKind::Adamw, 1e-6);
}

#[test]
fn ten_lamb_steps_equal_the_definition() {
    replay("lamb", OptimizerKind::Lamb, 1e-6);
    replay("lamb_no_bias_correction", OptimizerKind::Lamb, 1e-6);
}

#[test]
fn muon_equals_the_definition() {
    replay("muon", OptimizerKind::Muon, 1e-5);
}
