//! Multiple choice: logits, losses and all gradients of each architecture equal those of Hugging Face's class
//! (fixtures/make_choices.py) within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, Pooling};
use golden::{assert_close, tensors};
use model::{Execution, Head, Input, Model};
use std::collections::BTreeMap;
use tch::{Kind, Reduction, Tensor};

const TOLERANCE: f64 = 1e-5;

type Case = BTreeMap<String, Tensor>;

fn load(name: &str) -> (Model, Case) {
    (golden::load(&format!("choices/{name}"), None), tensors(&format!("choices/{name}/case.safetensors")))
}

/// Each choice as a row.
fn input(case: &Case) -> Input {
    let rows = |name: &str| case[name].flatten(0, 1);
    Input { ids: rows("ids"), segments: Some(rows("segments")), mask: Some(rows("mask").to_kind(Kind::Bool)) }
}

fn loss(scores: &Tensor, case: &Case) -> Tensor {
    scores.cross_entropy_loss::<&Tensor>(&case["right"], None, Reduction::Sum, -100, 0.0)
}

#[test]
fn choices_are_scored_and_learned_as_by_hugging_face() {
    for (name, architecture, pooling) in [
        ("bert", Architecture::Bert, Pooling::Cls),
        ("albert", Architecture::Albert, Pooling::Cls),
        ("electra", Architecture::Electra, Pooling::Cls),
        ("distilbert", Architecture::Distilbert, Pooling::Cls),
        ("roberta", Architecture::Roberta, Pooling::Cls),
        ("modern", Architecture::Modern, Pooling::Cls),
        ("modern-mean", Architecture::Modern, Pooling::Mean),
    ] {
        let (mut model, case) = load(name);
        assert_eq!((model.shape().architecture, model.head()), (architecture, &Head::MultipleChoice { pooling }));
        let input = input(&case);
        let hidden = model.encode(&input, true);
        let logits = model.choice_logits(&hidden, input.mask.as_ref(), true);
        let scores = trainer::choice_scores(&logits, &[3, 3]);
        assert_close(name, &scores, &case["logits"], TOLERANCE);
        let mean = loss(&scores, &case) / 2.0;
        assert_close(&format!("{name}: loss"), &mean, &case["loss"], TOLERANCE);
        mean.backward();
        let parameters = model.parameters();
        for parameter in &parameters {
            let expected = &case[&format!("gradient.{}", parameter.name)];
            assert_close(&format!("{name}: {}", parameter.name), &parameter.tensor.grad(), expected, TOLERANCE);
            // What is added to all keys alike changes no attention, and to all choices alike no choice.
            let changes = !parameter.name.ends_with("key.bias")
                && !parameter.name.ends_with("k_lin.bias")
                && parameter.name != "classifier.bias";
            assert!(!changes || expected.abs().max().double_value(&[]) > 0.0, "{}: 0 proves nothing", parameter.name);
        }
        assert_eq!(parameters.len(), case.keys().filter(|key| key.starts_with("gradient.")).count(), "{name}");

        // The second sample without its third choice: no row for it, and nothing of it in the loss.
        let fewer = trainer::choice_scores(&logits.narrow(0, 0, 5), &[3, 2]);
        assert_eq!(fewer.size(), [2, 3]);
        assert!(fewer.double_value(&[1, 2]).is_infinite());
        assert_close(&format!("{name}: fewer"), &loss(&fewer, &case), &case["loss_of_fewer"], TOLERANCE);

        model.set_execution(Execution { unpadded: true, ..Execution::default() });
        let hidden = model.encode(&input, true);
        let logits = model.choice_logits(&hidden, input.mask.as_ref(), true);
        assert_close(&format!("{name}: unpadded"), &logits.view([2, 3]), &case["logits"], TOLERANCE);
    }
}
