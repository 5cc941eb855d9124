//! RoBERTa: logits, losses and all gradients of each of its classes equal those of Hugging Face (fixtures/make_roberta.py)
//! within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use golden::{assert_close, tensors};
use model::{Head, Input, Model};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const TOLERANCE: f64 = 1e-5;

type Case = BTreeMap<String, Tensor>;

fn load(name: &str) -> (Model, Case) {
    (golden::load(&format!("roberta/{name}"), None), tensors(&format!("roberta/{name}/case.safetensors")))
}

fn input(case: &Case, segments: bool) -> Input {
    let ids = case["ids"].shallow_clone();
    // RoBERTa's text is all of one segment, whatever a batch says.
    let segments = segments.then(|| ids.ones_like());
    Input { ids, segments, mask: Some(case["mask"].to_kind(Kind::Bool)) }
}

fn check_gradients(model: &Model, case: &Case, tolerance: f64) {
    let parameters = model.parameters();
    for parameter in &parameters {
        let expected = &case[&format!("gradient.{}", parameter.name)];
        assert_close(&parameter.name, &parameter.tensor.grad(), expected, tolerance);
        // What is added to all keys alike changes no attention.
        let is_key = parameter.name.ends_with("key.bias");
        assert!(is_key || expected.abs().max().double_value(&[]) > 0.0, "{}: 0 proves nothing", parameter.name);
    }
    assert_eq!(parameters.len(), case.keys().filter(|name| name.starts_with("gradient.")).count());
}

#[test]
fn masked_words() {
    let (model, case) = load("mlm");
    let shape = model.shape();
    assert_eq!((shape.max_positions, shape.segment_types, shape.layer_norm_epsilon), (24, 1, 1e-5));
    let real = case["mask"].to_kind(Kind::Bool).unsqueeze(2);
    for segments in [true, false] {
        let hidden = model.encode(&input(&case, segments), true);
        assert_close("hidden", &(&hidden * &real), &(&case["hidden"] * &real), TOLERANCE);
    }
    let hidden = model.encode(&input(&case, false), true);
    let (positions, labels) = (&case["positions"], &case["labels"]);
    assert_close("mlm_logits", &model.mlm_logits(&hidden, positions), &case["mlm_logits"], TOLERANCE);
    let loss = model.mlm_loss_sum(&hidden, positions, labels).0 / positions.numel() as f64;
    assert_close("mlm_loss", &loss, &case["mlm_loss"], TOLERANCE);
    loss.backward();
    check_gradients(&model, &case, TOLERANCE);
}

#[test]
fn padding_taken_out_changes_nothing() {
    let (mut model, case) = load("mlm");
    model.set_execution(model::Execution { unpadded: true, ..Default::default() });
    let real = case["mask"].to_kind(Kind::Bool).unsqueeze(2);
    let hidden = model.encode(&input(&case, false), true);
    assert_close("hidden", &hidden, &(&case["hidden"] * &real), TOLERANCE);
}

#[test]
fn classes_tags_and_answers() {
    for name in ["class", "tags", "answers"] {
        let (model, case) = load(name);
        let input = input(&case, name == "class");
        let hidden = model.encode(&input, true);
        let logits = match model.head() {
            Head::SequenceClassifier { .. } => model.class_logits(&hidden, input.mask.as_ref(), true),
            Head::TokenClassifier { .. } => model.token_logits(&hidden, true),
            Head::QuestionAnswering => model.answer_logits(&hidden, true),
            other => panic!("{other:?}"),
        };
        let real = if name == "class" { Tensor::from(1.0_f32) } else { case["mask"].unsqueeze(2) };
        assert_close(name, &(&logits * &real), &(&case["logits"] * &real), TOLERANCE);
        (logits * &case["weights"]).sum(Kind::Float).backward();
        check_gradients(&model, &case, 5.0 * TOLERANCE);
    }
}
