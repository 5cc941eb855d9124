//! Logits, losses and all gradients equal Hugging Face's (fixtures/make.py) within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::Activation;
use golden::{assert_close, load, path, tensors};
use model::{Execution, Head, Input, Missing, Model, hugging_face};
use std::collections::BTreeMap;
use tch::{Device, Kind, Reduction, Tensor};

const TOLERANCE: f64 = 1e-5;

fn input(case: &BTreeMap<String, Tensor>) -> Input {
    Input {
        ids: case["ids"].shallow_clone(),
        segments: case.get("segments").map(Tensor::shallow_clone),
        mask: Some(case["mask"].to_kind(Kind::Bool)),
    }
}

fn check(model: &Model, case: &BTreeMap<String, Tensor>) {
    let real = case["mask"].to_kind(Kind::Bool).unsqueeze(2);
    // `train` is on: the dropout probabilities are 0, and this is the path that training takes.
    let hidden = model.encode(&input(case), true);
    // What a padded position holds is nobody's business.
    assert_close("hidden", &(&hidden * &real), &(&case["hidden"] * &real), TOLERANCE);
    let (positions, labels) = (&case["positions"], &case["labels"]);
    assert_close("mlm_logits", &model.mlm_logits(&hidden, positions), &case["mlm_logits"], TOLERANCE);
    let (sum, correct) = model.mlm_loss_sum(&hidden, positions, labels);
    let right = case["mlm_logits"].argmax(1, false).eq_tensor(labels).sum(Kind::Int64);
    assert_eq!(correct.int64_value(&[]), right.int64_value(&[]));
    let mut loss = sum / positions.numel() as f64;
    assert_close("mlm_loss", &loss, &case["mlm_loss"], TOLERANCE);
    if *model.head() == Head::PreTraining {
        let logits = model.nsp_logits(&hidden);
        assert_close("nsp_logits", &logits, &case["nsp_logits"], TOLERANCE);
        let next = logits.cross_entropy_loss::<&Tensor>(&case["next_sentence"], None, Reduction::Mean, -100, 0.0);
        assert_close("nsp_loss", &next, &case["nsp_loss"], TOLERANCE);
        loss += next;
    }
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    let parameters = model.parameters();
    for parameter in &parameters {
        let expected = &case[&format!("gradient.{}", parameter.name)];
        assert_close(&parameter.name, &parameter.tensor.grad(), expected, TOLERANCE);
        assert!(expected.abs().max().double_value(&[]) > 0.0, "{}: a gradient of 0 proves nothing", parameter.name);
    }
    let gradients = case.keys().filter(|name| name.starts_with("gradient.")).count();
    assert_eq!(parameters.len(), gradients, "every gradient of Hugging Face's is compared");
}

#[test]
fn bert_erf() {
    check(&load("bert", None), &tensors("bert/erf.safetensors"));
}

#[test]
fn bert_tanh() {
    check(&load("bert", Some(Activation::GeluNew)), &tensors("bert/tanh.safetensors"));
}

#[test]
fn modern() {
    check(&load("modern", None), &tensors("modern/erf.safetensors"));
}

/// Layers that see a window of 6 tokens, of rows of 16, between layers that see everything.
#[test]
fn modern_with_local_attention() {
    let model = load("modern-local", None);
    let local = model.shape().local_attention.unwrap();
    assert_eq!((local.global_every, local.window, local.rope_theta), (3, 6, 10_000.0));
    check(&model, &tensors("modern-local/erf.safetensors"));
}

/// Padding taken out, attention by our own kernel, layers run again in the backward pass: the same function.
#[test]
fn without_padding_and_with_activation_checkpointing() {
    for folder in ["bert", "modern", "modern-local"] {
        for activation_checkpointing in [false, true] {
            let mut model = load(folder, None);
            model.set_execution(Execution { unpadded: true, activation_checkpointing, ..Default::default() });
            check(&model, &tensors(&format!("{folder}/erf.safetensors")));
        }
    }
}

/// The manual attention, which training with attention dropout takes, is the same function as the fused one.
#[test]
fn attention_without_the_fused_kernel() {
    for folder in ["bert", "modern", "modern-local"] {
        let case = format!("{folder}/erf.safetensors");
        let mut folder = hugging_face::read_folder(&path(folder)).unwrap();
        // So small that no weight is dropped, and not 0: the branch is taken.
        folder.shape.attention_dropout = 1e-12;
        let mut model = Model::new(&folder.shape, folder.head, 0, Device::Cpu).unwrap();
        model.load_parameters(&folder.tensors, Missing::Refuse).unwrap();
        check(&model, &tensors(&case));
    }
}
