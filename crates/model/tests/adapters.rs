//! Low-rank adapters: what they start as, what is trained beside them, and that merging them makes the same network.

#![allow(clippy::unwrap_used)]

mod shared;

use config::{Architecture, LoraConfig, LoraTarget, Pooling};
use model::{Execution, Head, Input, Missing, Model};
use shared::{ALL, shape};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

fn lora() -> LoraConfig {
    use LoraTarget::{AttentionOutput, FeedForward, Key, Query, Value};
    LoraConfig { rank: 3, alpha: 5.0, dropout: 0.0, targets: vec![Query, Key, Value, AttentionOutput, FeedForward] }
}

fn head() -> Head {
    Head::SequenceClassifier { labels: ["a", "b"].map(str::to_owned).to_vec(), pooling: Pooling::Cls }
}

fn input() -> Input {
    let ids = Tensor::from_slice(&(0..24_i64).map(|id| id * 7 % 40).collect::<Vec<_>>()).view([2, 12]);
    let mask = Tensor::ones([2, 12], (Kind::Bool, Device::Cpu));
    let _ = mask.narrow(0, 1, 1).narrow(1, 8, 4).fill_(0);
    Input { ids, segments: None, mask: Some(mask) }
}

fn logits(model: &Model, train: bool) -> Tensor {
    model.class_logits(&model.encode(&input(), train), input().mask.as_ref(), train)
}

fn distance(one: &Tensor, other: &Tensor) -> f64 {
    (one - other).abs().max().double_value(&[])
}

/// libtorch's generator belongs to the process: dropout draws from it, and activation checkpointing puts it back.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adapters that add something.
fn learned(architecture: Architecture, lora: &LoraConfig) -> Model {
    let model = Model::adapted(&shape(architecture, 0.0), head(), Some(lora), 1, Device::Cpu).unwrap();
    // Not by libtorch's generator, which all tests of this process share.
    for (parameter, turn) in model.parameters().iter().filter(|parameter| parameter.adapter).zip(1..) {
        let places = Tensor::arange(parameter.tensor.numel() as i64, (Kind::Float, Device::Cpu));
        let values = (places * 12.9898 + f64::from(turn)).sin() * 0.4;
        tch::no_grad(|| parameter.tensor.detach().copy_(&values.view_as(&parameter.tensor)));
    }
    model
}

#[test]
fn a_model_begins_as_the_one_without_adapters() {
    for architecture in ALL {
        let plain = Model::new(&shape(architecture, 0.0), head(), 1, Device::Cpu).unwrap();
        let adapted = Model::adapted(&shape(architecture, 0.0), head(), Some(&lora()), 1, Device::Cpu).unwrap();
        assert_eq!(distance(&logits(&plain, true), &logits(&adapted, true)), 0.0, "{architecture:?}");
        let merged = adapted.merged();
        assert_eq!(merged.len(), plain.parameters().len());
        for ((name, merged), parameter) in merged.iter().zip(plain.parameters()) {
            assert!(*name == parameter.name && merged.equal(&parameter.tensor), "{name}");
        }
        let of_adapters = adapted.parameters().into_iter().filter(|it| it.adapter);
        let (first, second): (Vec<_>, Vec<_>) = of_adapters.partition(|it| it.name.ends_with(".lora_A.weight"));
        let layers = if architecture == Architecture::Albert { 1 } else { 3 };
        let matrices = layers * if architecture == Architecture::Modern { 4 } else { 6 };
        assert_eq!((first.len(), second.len()), (matrices, matrices));
        for parameter in &first {
            let bound = (parameter.tensor.size()[1] as f64).powf(-0.5);
            let most = parameter.tensor.abs().max().double_value(&[]);
            assert!(most <= bound && most > 0.8 * bound, "{}: {most} of {bound}", parameter.name);
        }
        assert!(second.iter().all(|it| it.tensor.abs().max().double_value(&[]) == 0.0 && !it.hidden_matrix));
    }
}

#[test]
fn merged_weights_make_the_same_network() {
    for architecture in ALL {
        let adapted = learned(architecture, &lora());
        let mut plain = Model::new(&shape(architecture, 0.0), head(), 2, Device::Cpu).unwrap();
        let before = logits(&adapted, false);
        plain.load_parameters(&adapted.merged(), Missing::Refuse).unwrap();
        let difference = distance(&before, &logits(&plain, false));
        assert!(difference < 1e-5, "{architecture:?}: {difference}");
        let without = Model::new(&shape(architecture, 0.0), head(), 1, Device::Cpu).unwrap();
        assert!(distance(&before, &logits(&without, false)) > 1e-3, "{architecture:?}: they add something");
        let merged = adapted.merged();
        let changed = |it: &&model::Parameter| {
            let (_, merged) = merged.iter().find(|(name, _)| *name == it.name).unwrap();
            !merged.equal(&it.tensor)
        };
        for parameter in adapted.parameters().iter().filter(|it| !it.adapter) {
            assert_eq!(changed(&parameter), parameter.adapted, "{}", parameter.name);
        }
    }
}

#[test]
fn only_adapters_and_heads_have_gradients_however_it_is_run() {
    let _turn = turn();
    for architecture in ALL {
        let mut expected = Vec::new();
        for (unpadded, activation_checkpointing) in [(false, false), (true, false), (false, true)] {
            let mut model = learned(architecture, &lora());
            model.set_execution(Execution { unpadded, activation_checkpointing, ..Default::default() });
            let labels = Tensor::from_slice(&[0_i64, 1]);
            let loss =
                logits(&model, true).cross_entropy_loss::<&Tensor>(&labels, None, tch::Reduction::Sum, -100, 0.0);
            loss.backward();
            let parameters = model.parameters();
            for parameter in &parameters {
                let in_head = parameter.below_head == 0 && !parameter.name.contains("final_norm");
                assert_eq!(parameter.trained, parameter.adapter || in_head, "{}", parameter.name);
                assert_eq!(parameter.tensor.grad().defined(), parameter.trained, "{}", parameter.name);
            }
            let gradients: Vec<Tensor> = parameters.iter().filter(|it| it.trained).map(|it| it.tensor.grad()).collect();
            if expected.is_empty() {
                expected = gradients;
                continue;
            }
            for (one, other) in expected.iter().zip(&gradients) {
                assert!(distance(one, other) < 1e-5, "{architecture:?}");
            }
        }
    }
}

#[test]
fn dropout_is_on_what_goes_into_the_adapters() {
    let _turn = turn();
    let with = LoraConfig { dropout: 0.5, ..lora() };
    let model = learned(Architecture::Bert, &with);
    assert_eq!(distance(&logits(&model, false), &logits(&model, false)), 0.0);
    tch::manual_seed(1);
    let first = logits(&model, true);
    assert!(distance(&first, &logits(&model, true)) > 1e-3);
    tch::manual_seed(1);
    assert_eq!(distance(&first, &logits(&model, true)), 0.0, "it follows from the seed");
}
