//! The first weights, and that gradients lead somewhere.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, Initializer, ModelConfig, ModelShape, Pooling};
use model::{Head, Input, Model, ModelError};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

fn shape(architecture: Architecture) -> ModelShape {
    let config = ModelConfig { architecture, vocabulary: Some(512), ..ModelConfig::default() };
    let config = ModelConfig { layers: Some(2), hidden: Some(64), heads: Some(2), dropout: Some(0.0), ..config };
    config.shape(512, 32)
}

fn ids() -> Tensor {
    (Tensor::arange(4 * 32, (Kind::Int64, Device::Cpu)) * 37).remainder(500).view([4, 32]) + 5
}

/// Loss per predicted word and per pair.
fn losses(model: &Model) -> (Tensor, Option<Tensor>) {
    let hidden = model.encode(&Input { ids: ids(), segments: None, mask: None }, true);
    let positions = Tensor::arange_start_step(1, 4 * 32, 6, (Kind::Int64, Device::Cpu));
    let labels = (&positions * 11).remainder(500) + 7;
    let (sum, _) = model.mlm_loss_sum(&hidden, &positions, &labels);
    let next = (*model.head() == Head::PreTraining).then(|| {
        let answers = Tensor::from_slice(&[0i64, 1, 1, 0]);
        model.nsp_logits(&hidden).cross_entropy_loss::<&Tensor>(&answers, None, Reduction::Mean, -100, 0.0)
    });
    (sum / positions.numel() as f64, next)
}

fn heads() -> [(Architecture, Head); 2] {
    [(Architecture::Bert, Head::PreTraining), (Architecture::Modern, Head::MaskedLm)]
}

#[test]
fn at_step_0_the_loss_is_that_of_guessing() {
    for (architecture, head) in heads() {
        let model = Model::new(&shape(architecture), head, 3, Device::Cpu).unwrap();
        let (mlm, next) = losses(&model);
        let off = mlm.double_value(&[]) - 512f64.ln();
        assert!(off.abs() < 0.1, "{architecture:?}: {off} nats from ln 512");
        let off = next.map_or(0.0, |next| next.double_value(&[]) - 2f64.ln());
        assert!(off.abs() < 0.1, "{architecture:?}: {off} nats from ln 2");
    }
}

#[test]
fn one_batch_is_learnt_by_heart() {
    for (architecture, head) in heads() {
        let model = Model::new(&shape(architecture), head, 3, Device::Cpu).unwrap();
        let parameters = model.parameters();
        let mut moments: Vec<(Tensor, Tensor)> =
            parameters.iter().map(|p| (p.tensor.zeros_like().detach(), p.tensor.zeros_like().detach())).collect();
        let mut loss = f64::INFINITY;
        for step in 1..=200 {
            let (mlm, next) = losses(&model);
            let sum = next.map_or(mlm.shallow_clone(), |next| mlm + next);
            loss = sum.double_value(&[]);
            sum.backward();
            no_grad(|| {
                for (parameter, (first, second)) in parameters.iter().zip(&mut moments) {
                    let mut leaf = parameter.tensor.shallow_clone();
                    let gradient = leaf.grad();
                    *first = &*first * 0.9 + &gradient * 0.1;
                    *second = &*second * 0.99 + gradient.square() * 0.01;
                    let root = (&*second / (1.0 - 0.99f64.powi(step))).sqrt() + 1e-8;
                    let _ = leaf.g_sub_(&(&*first / (1.0 - 0.9f64.powi(step)) / root * 2e-3));
                    leaf.zero_grad();
                }
            });
        }
        assert!(loss < 0.05, "{architecture:?}: still {loss} nats after 200 steps");
    }
}

#[test]
fn equal_seeds_draw_equal_weights_whatever_the_head() {
    for (architecture, head) in heads() {
        let draw = |head: Head, seed| Model::new(&shape(architecture), head, seed, Device::Cpu).unwrap().parameters();
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let (first, again) = (draw(head.clone(), 9), draw(head.clone(), 9));
        let other = draw(head, 10);
        let tagger = draw(Head::TokenClassifier { labels }, 9);
        let mut shared = 0;
        for (a, b) in first.iter().zip(&again) {
            assert!(a.tensor.equal(&b.tensor), "{}", a.name);
            if let Some(same) = tagger.iter().find(|p| p.name == a.name) {
                assert!(a.tensor.equal(&same.tensor), "{}", a.name);
                shared += 1;
            }
        }
        assert!(shared >= 10);
        assert!(first.iter().zip(&other).any(|(a, b)| !a.tensor.equal(&b.tensor)));
    }
}

#[test]
fn weights_start_as_published() {
    for initializer in [Initializer::Normal, Initializer::TruncatedNormal] {
        let shape = ModelShape { initializer, ..shape(Architecture::Bert) };
        let model = Model::new(&shape, Head::PreTraining, 1, Device::Cpu).unwrap();
        for parameter in model.parameters() {
            let values = parameter.tensor.detach();
            let (least, most) = (values.min().double_value(&[]), values.max().double_value(&[]));
            if parameter.decay {
                assert!(values.mean(Kind::Float).abs().double_value(&[]) < 0.003, "{}", parameter.name);
                let cut = most <= 0.04001 && least >= -0.04001;
                assert!(cut || initializer == Initializer::Normal, "{}: {least} to {most}", parameter.name);
            } else {
                let value = if parameter.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
                assert_eq!((least, most), (value, value), "{}", parameter.name);
            }
        }
        let words =
            &model.parameters().into_iter().find(|p| p.name.ends_with("word_embeddings.weight")).unwrap().tensor;
        let deviation = words.std(true).double_value(&[]);
        // Cut at two deviations, a normal distribution keeps 0.8796 of its own.
        let expected = if initializer == Initializer::Normal { 0.02 } else { 0.02 * 0.8796 };
        assert!((deviation / expected - 1.0).abs() < 0.02, "{initializer:?}: {deviation}");
    }
}

#[test]
fn parameters_are_sorted_and_sorted_into_groups() {
    for (architecture, head) in heads() {
        let model = Model::new(&shape(architecture), head, 1, Device::Cpu).unwrap();
        let parameters = model.parameters();
        assert!(parameters.is_sorted_by(|a, b| a.name < b.name));
        for parameter in &parameters {
            let name = parameter.name.as_str();
            assert!(parameter.tensor.requires_grad() && parameter.tensor.is_leaf(), "{name}");
            assert_eq!(parameter.decay, name.ends_with("weight") && !name.to_lowercase().contains("norm"), "{name}");
            let in_layer = name.contains("encoder.layer.") || name.contains("model.layers.");
            assert_eq!(parameter.hidden_matrix, in_layer && parameter.decay, "{name}");
        }
        let per_layer = if architecture == Architecture::Bert { 6 } else { 4 };
        assert_eq!(parameters.iter().filter(|p| p.hidden_matrix).count(), 2 * per_layer);
    }
}

#[test]
fn impossible_models_are_refused_in_words() {
    let refused = |shape: ModelShape, head: Head| match Model::new(&shape, head, 0, Device::Cpu) {
        Err(ModelError::Unsupported(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("made"),
    };
    let modern = shape(Architecture::Modern);
    assert!(refused(modern.clone(), Head::PreTraining).contains("objective.kind = \"mlm\""));
    assert!(
        refused(ModelShape { heads: 5, ..modern.clone() }, Head::None).contains("5 heads do not divide hidden = 64")
    );
    assert!(refused(ModelShape { heads: 64, ..modern.clone() }, Head::None).contains("even head width"));
    let nothing = Head::SequenceClassifier { labels: vec![], pooling: Pooling::Cls };
    assert!(refused(modern, nothing).contains("labels"));
    let by_mean = Head::MultipleChoice { pooling: Pooling::Mean };
    assert!(refused(shape(Architecture::Bert), by_mean).contains("leave out objective.pooling"));
}
