//! Which level a parameter is on, and that what is frozen has no part in the backward pass.

#![allow(clippy::unwrap_used)]

mod shared;

use config::{Architecture, Pooling};
use model::{Execution, Head, Input, Model};
use shared::{ALL, shape};
use tch::{Device, Kind, Tensor};

fn classifier(architecture: Architecture) -> Model {
    let labels = ["a", "b"].map(str::to_owned).to_vec();
    let head = Head::SequenceClassifier { labels, pooling: Pooling::Cls };
    Model::new(&shape(architecture, 0.1), head, 1, Device::Cpu).unwrap()
}

/// The number behind "layer." or "layers.".
fn layer_in(name: &str) -> Option<i64> {
    let mut parts = name.split('.').skip_while(|part| !["layer", "layers"].contains(part));
    parts.nth(1)?.parse().ok()
}

#[test]
fn levels_go_from_the_heads_down_to_the_embeddings() {
    for architecture in ALL {
        let levels = if architecture == Architecture::Albert { 2 } else { 4 };
        let parameters = classifier(architecture).parameters();
        for parameter in &parameters {
            let name = &parameter.name;
            let expected = if name.contains("embeddings") || name.contains("embedding_hidden_mapping_in") {
                levels
            } else if name.contains("albert_layer_groups") {
                1
            } else {
                layer_in(name).map_or(0, |layer| 3 - layer)
            };
            assert_eq!(parameter.below_head, expected, "{name}");
            assert!(parameter.trained, "{name}");
        }
        assert!((0..=levels).all(|level| parameters.iter().any(|parameter| parameter.below_head == level)));
    }
}

#[test]
fn what_is_frozen_has_no_gradient_and_the_rest_has_the_same() {
    for architecture in ALL {
        let frozen_layers = if architecture == Architecture::Albert { 0 } else { 2 };
        for activation_checkpointing in [false, true] {
            let run = |freezes: bool| {
                let mut model = classifier(architecture);
                model.set_execution(Execution { unpadded: false, activation_checkpointing, ..Default::default() });
                if freezes {
                    model.freeze(frozen_layers);
                }
                let ids = Tensor::from_slice(&(0..24_i64).map(|id| id % 40).collect::<Vec<_>>()).view([2, 12]);
                let input = Input { ids, segments: None, mask: None };
                tch::manual_seed(3);
                let logits = model.class_logits(&model.encode(&input, true), None, true);
                let labels = Tensor::from_slice(&[0_i64, 1]);
                logits.cross_entropy_loss::<&Tensor>(&labels, None, tch::Reduction::Sum, -100, 0.0).backward();
                model.parameters()
            };
            let (whole, frozen) = (run(false), run(true));
            let levels = whole.iter().map(|parameter| parameter.below_head).max().unwrap();
            for (whole, frozen) in whole.iter().zip(&frozen) {
                let name = &whole.name;
                let trained = whole.below_head < levels - frozen_layers;
                assert_eq!(frozen.trained, trained, "{name}");
                assert_eq!(frozen.tensor.requires_grad(), trained, "{name}");
                assert_eq!(frozen.tensor.grad().defined(), trained && whole.tensor.grad().defined(), "{name}");
                if frozen.tensor.grad().defined() {
                    let difference = (frozen.tensor.grad() - whole.tensor.grad()).abs().max().double_value(&[]);
                    assert!(difference < 1e-6, "{name}: {difference}");
                }
            }
        }
    }
}

#[test]
fn a_duplicate_shares_what_is_frozen_and_nothing_else() {
    let mut model = classifier(Architecture::Bert);
    model.freeze(1);
    let duplicate = model.duplicate();
    for (own, other) in model.parameters().iter().zip(duplicate.parameters()) {
        assert_eq!(own.trained, other.trained, "{}", own.name);
        let _ = tch::no_grad(|| own.tensor.detach().fill_(7.0));
        let follows = other.tensor.to_kind(Kind::Double).eq(7.0).all().int64_value(&[]) == 1;
        assert_eq!(follows, !own.trained, "{}", own.name);
    }
}
