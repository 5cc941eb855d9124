//! Adapters beside Hugging Face's networks, their gradients and the merged weights equal PEFT's
//! (fixtures/make_adapters.py) within 1e-5.

#![allow(clippy::unwrap_used)]

use config::{LoraConfig, LoraTarget};
use golden::{assert_close, path, tensors};
use model::{Input, Missing, Model, hugging_face};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;

fn check(name: &str) {
    use LoraTarget::{AttentionOutput, FeedForward, Key, Query, Value};
    let targets = vec![Query, Key, Value, AttentionOutput, FeedForward];
    let lora = LoraConfig { rank: 3, alpha: 5.0, dropout: 0.0, targets };
    let folder = hugging_face::read_folder(&path(name)).unwrap();
    let mut model = Model::adapted(&folder.shape, folder.head.clone(), Some(&lora), 0, Device::Cpu).unwrap();
    model.load_parameters(&folder.tensors, Missing::Refuse).unwrap();
    let inputs = tensors(&format!("{name}/erf.safetensors"));
    let case = tensors(&format!("adapters/{name}.safetensors"));
    let parameters = model.parameters();
    for parameter in parameters.iter().filter(|parameter| parameter.adapter) {
        tch::no_grad(|| parameter.tensor.detach().copy_(&case[&parameter.name]));
    }

    let input = || Input {
        ids: inputs["ids"].shallow_clone(),
        segments: inputs.get("segments").map(Tensor::shallow_clone),
        mask: Some(inputs["mask"].to_kind(Kind::Bool)),
    };
    let (positions, labels) = (&inputs["positions"], &inputs["labels"]);
    let hidden = model.encode(&input(), true);
    assert_close("logits", &model.mlm_logits(&hidden, positions), &case["logits"], TOLERANCE);
    let (sum, _) = model.mlm_loss_sum(&hidden, positions, labels);
    let loss = sum / positions.numel() as f64;
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    let mut compared = 0;
    for parameter in parameters.iter().filter(|parameter| parameter.adapter) {
        let expected = &case[&format!("gradient.{}", parameter.name)];
        assert_close(&parameter.name, &parameter.tensor.grad(), expected, TOLERANCE);
        compared += 1;
    }
    assert_eq!(compared, case.keys().filter(|key| key.starts_with("gradient.")).count());

    let merged = model.merged();
    for (key, expected) in &case {
        let Some(name) = key.strip_prefix("merged.") else { continue };
        let (_, ours) = merged.iter().find(|(own, _)| own == name).unwrap();
        assert_close(name, ours, expected, 1e-6);
    }
    let mut plain = Model::new(&folder.shape, folder.head, 0, Device::Cpu).unwrap();
    plain.load_parameters(&merged, Missing::Refuse).unwrap();
    let logits = plain.mlm_logits(&plain.encode(&input(), false), positions);
    assert_close("merged logits", &logits, &case["logits"], TOLERANCE);
}

#[test]
fn bert_with_adapters_on_all_matrices() {
    check("bert");
}

#[test]
fn modern_with_adapters_on_all_matrices() {
    check("modern");
}
