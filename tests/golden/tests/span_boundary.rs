//! SpanBERT's two losses and all their gradients equal those of a re-statement in torch (fixtures/make_roberta.py) within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::ModelConfig;
use golden::{assert_close, tensors};
use model::{Boundaries, Head, Input, Missing, Model};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;

#[test]
fn losses_and_gradients_are_those_of_torch() {
    let case = tensors("span_boundary.safetensors");
    let config = ModelConfig {
        layers: Some(1),
        hidden: Some(16),
        heads: Some(4),
        intermediate: Some(24),
        vocabulary: Some(104),
        max_positions: Some(24),
        dropout: Some(0.0),
        ..ModelConfig::default()
    };
    let mut model = Model::new(&config.shape(104, 16), Head::SpanBoundary, 0, Device::Cpu).unwrap();
    let weights = case.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("weight.")?, tensor)));
    let weights: Vec<_> = weights.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
    let report = model.load_parameters(&weights, Missing::Refuse).unwrap();
    assert_eq!((report.loaded, report.unexpected), (model.parameters().len(), vec![]));

    let mask = Some(case["mask"].to_kind(Kind::Bool));
    let hidden = model.encode(&Input { ids: case["ids"].shallow_clone(), segments: None, mask }, true);
    let (positions, labels) = (&case["positions"], &case["labels"]);
    let words = positions.numel() as f64;
    let mlm = model.mlm_loss_sum(&hidden, positions, labels).0 / words;
    assert_close("mlm_loss", &mlm, &case["mlm_loss"], TOLERANCE);
    let (left, right) = (case["left"].shallow_clone(), case["right"].shallow_clone());
    let at = Boundaries { place: positions - &left - 1, left, right };
    let (sum, correct) = model.span_boundary_loss_sum(&hidden, &at, labels);
    let boundary = sum / words;
    assert_close("span_boundary_loss", &boundary, &case["span_boundary_loss"], TOLERANCE);
    assert_eq!(correct.int64_value(&[]), case["span_boundary_correct"].int64_value(&[]));
    let loss: Tensor = mlm + boundary;
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    let parameters = model.parameters();
    for parameter in &parameters {
        let expected = &case[&format!("gradient.{}", parameter.name)];
        assert_close(&parameter.name, &parameter.tensor.grad(), expected, TOLERANCE);
    }
    assert_eq!(parameters.len(), case.keys().filter(|name| name.starts_with("gradient.")).count());
}
