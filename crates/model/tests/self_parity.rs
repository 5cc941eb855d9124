//! The short cuts compute what the long way would: a head on the masked positions only, no mask where there is no
//! padding, micro-batches instead of one batch.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, ModelConfig, ModelShape};
use model::{Head, Input, Model};
use tch::{Device, Kind, Tensor};

const ARCHITECTURES: [Architecture; 2] = [Architecture::Bert, Architecture::Modern];

fn shape(architecture: Architecture) -> ModelShape {
    let config = ModelConfig {
        architecture,
        layers: Some(2),
        hidden: Some(32),
        heads: Some(4),
        vocabulary: Some(64),
        max_positions: Some(16),
        initializer_range: Some(0.2),
        dropout: Some(0.0),
        ..ModelConfig::default()
    };
    config.shape(64, 16)
}

fn model(architecture: Architecture) -> Model {
    Model::new(&shape(architecture), Head::MaskedLm, 1, Device::Cpu).unwrap()
}

fn ids(seed: i64, batch: i64, length: i64) -> Tensor {
    (Tensor::arange(batch * length, (Kind::Int64, Device::Cpu)) * (7 + 2 * seed) + seed)
        .remainder(59)
        .view([batch, length])
        + 5
}

fn plain(ids: Tensor) -> Input {
    Input { ids, segments: None, mask: None }
}

fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.size(), b.size(), "{what}");
    let off = (a.detach() - b.detach()).abs().max().double_value(&[]);
    assert!(off <= tolerance, "{what}: off by {off:e}");
}

#[test]
fn head_on_masked_positions_is_the_whole_head_gathered() {
    for architecture in ARCHITECTURES {
        let model = model(architecture);
        let hidden = model.encode(&plain(ids(1, 2, 8)), true);
        let everywhere = Tensor::arange(16, (Kind::Int64, Device::Cpu));
        let positions = Tensor::from_slice(&[1i64, 6, 9, 15]);
        let labels = Tensor::from_slice(&[9i64, 60, 5, 33]);
        let whole = model.mlm_logits(&hidden, &everywhere);
        assert_close("logits", &model.mlm_logits(&hidden, &positions), &whole.index_select(0, &positions), 1e-6);

        let spread =
            Tensor::full([16], -100, (Kind::Int64, Device::Cpu)).index_put(&[Some(&positions)], &labels, false);
        let long = whole.cross_entropy_loss::<&Tensor>(&spread, None, tch::Reduction::Sum, -100, 0.0);
        let (short, _) = model.mlm_loss_sum(&hidden, &positions, &labels);
        assert_close("loss", &short, &long, 1e-4);
    }
}

#[test]
fn padding_changes_nothing() {
    for architecture in ARCHITECTURES {
        let model = model(architecture);
        let short = ids(2, 2, 5);
        let padded = Tensor::cat(&[&short, &Tensor::zeros([2, 4], (Kind::Int64, Device::Cpu))], 1);
        let mask = padded.ne(0);
        let long = model.encode(&Input { ids: padded, segments: None, mask: Some(mask) }, false);
        assert_close("hidden", &long.narrow(1, 0, 5), &model.encode(&plain(short), false), 1e-5);
    }
}

#[test]
fn a_mask_without_padding_is_no_mask() {
    for architecture in ARCHITECTURES {
        let model = model(architecture);
        let mask = Some(Tensor::ones([2, 8], (Kind::Bool, Device::Cpu)));
        let masked = model.encode(&Input { ids: ids(3, 2, 8), segments: None, mask }, false);
        assert_close("hidden", &masked, &model.encode(&plain(ids(3, 2, 8)), false), 1e-5);
    }
}

#[test]
fn no_segments_are_segments_of_zeros() {
    let model = model(Architecture::Bert);
    let zeros = Some(Tensor::zeros([2, 8], (Kind::Int64, Device::Cpu)));
    let with = model.encode(&Input { ids: ids(3, 2, 8), segments: zeros, mask: None }, false);
    assert_close("hidden", &with, &model.encode(&plain(ids(3, 2, 8)), false), 1e-5);
    let ones = Some(Tensor::ones([2, 8], (Kind::Int64, Device::Cpu)));
    let other = model.encode(&Input { ids: ids(3, 2, 8), segments: ones, mask: None }, false);
    assert!((other - with).abs().max().double_value(&[]) > 0.01, "segments matter");
}

/// Losses are sums over the global count, so it does not matter how uneven the micro-batches are.
#[test]
fn micro_batches_add_up_to_one_batch() {
    for architecture in ARCHITECTURES {
        let (whole, parts) = (model(architecture), model(architecture));
        let ids = ids(4, 4, 8);
        let positions = [1i64, 2, 3, 4, 5, 9, 26];
        let labels = [10i64, 20, 30, 40, 50, 60, 7];
        let loss = |model: &Model, rows: std::ops::Range<i64>| {
            let chosen = positions.iter().zip(labels).filter(|(p, _)| rows.contains(&(**p / 8)));
            let (positions, labels): (Vec<i64>, Vec<i64>) = chosen.map(|(p, l)| (p - rows.start * 8, l)).unzip();
            let hidden = model.encode(&plain(ids.narrow(0, rows.start, rows.end - rows.start)), true);
            let (sum, _) = model.mlm_loss_sum(&hidden, &Tensor::from_slice(&positions), &Tensor::from_slice(&labels));
            (sum / 7.0).backward();
        };
        loss(&whole, 0..4);
        loss(&parts, 0..1);
        loss(&parts, 1..4);
        for (a, b) in whole.parameters().iter().zip(parts.parameters()) {
            assert_close(&a.name, &a.tensor.grad(), &b.tensor.grad(), 1e-5);
        }
    }
}

#[test]
fn mean_pooling_leaves_padding_out() {
    for architecture in ARCHITECTURES {
        let head = Head::SequenceClassifier { labels: vec!["a".into(), "b".into()], pooling: config::Pooling::Mean };
        let model = Model::new(&shape(architecture), head, 1, Device::Cpu).unwrap();
        let short = ids(2, 2, 5);
        let padded = Tensor::cat(&[&short, &Tensor::zeros([2, 4], (Kind::Int64, Device::Cpu))], 1);
        let input = Input { mask: Some(padded.ne(0)), ids: padded, segments: None };
        let long = model.class_logits(&model.encode(&input, false), input.mask.as_ref(), false);
        let short = model.class_logits(&model.encode(&plain(short), false), None, false);
        assert_close("logits", &long, &short, 1e-5);
    }
}

#[test]
fn dropout_follows_the_seed_and_only_training_has_it() {
    for architecture in ARCHITECTURES {
        let shape = ModelShape { dropout: 0.2, attention_dropout: 0.2, ..shape(architecture) };
        let model = Model::new(&shape, Head::MaskedLm, 1, Device::Cpu).unwrap();
        let encode = |seed, train| {
            tch::manual_seed(seed);
            model.encode(&plain(ids(1, 2, 8)), train)
        };
        assert_close("same seed", &encode(5, true), &encode(5, true), 0.0);
        assert!((encode(5, true) - encode(6, true)).abs().max().double_value(&[]) > 0.01);
        assert_close("evaluation", &encode(5, false), &encode(6, false), 0.0);
    }
}

#[test]
#[should_panic(expected = "a sequence of 17 tokens is longer than the model's 16 positions")]
fn a_sequence_beyond_the_positions_is_refused() {
    let _ = model(Architecture::Modern).encode(&plain(ids(1, 1, 17)), false);
}
