//! Without padding a network computes what it computes with it: hidden states, losses and gradients, of every head.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, ModelConfig, ModelShape, Pooling};
use model::{Execution, Head, Input, Model};
use tch::{Device, Kind, Reduction, Tensor};

const LENGTH: i64 = 24;
const VOCABULARY: i64 = 64;
/// Real tokens of each row.
const LENGTHS: [i64; 5] = [7, 24, 13, 1, 20];

/// BERT; ModernBERT with all layers global; and with three of four layers that see three positions on either side.
fn shapes() -> [ModelShape; 3] {
    let config = |architecture, every| ModelConfig {
        architecture,
        layers: Some(4),
        hidden: Some(32),
        heads: Some(4),
        vocabulary: Some(VOCABULARY),
        max_positions: Some(LENGTH),
        initializer_range: Some(0.2),
        dropout: Some(0.0),
        global_attn_every_n_layers: every,
        local_attention: every.map(|_| 6),
        local_rope_theta: every.map(|_| 500.0),
        ..ModelConfig::default()
    };
    let [bert, modern] = [Architecture::Bert, Architecture::Modern];
    [config(bert, None), config(modern, None), config(modern, Some(3))].map(|config| config.shape(64, LENGTH))
}

fn model(shape: &ModelShape, head: &Head, execution: Execution) -> Model {
    let mut model = Model::new(shape, head.clone(), 1, Device::Cpu).unwrap();
    model.set_execution(execution);
    model
}

const UNPADDED: Execution = Execution { unpadded: true, activation_checkpointing: false, cuda_graphs: false };

fn heads(architecture: Architecture) -> Vec<Head> {
    let labels = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let mut heads = vec![
        Head::MaskedLm,
        Head::SequenceClassifier { labels: labels.clone(), pooling: Pooling::Cls },
        Head::SequenceClassifier { labels: labels.clone(), pooling: Pooling::Mean },
        Head::TokenClassifier { labels },
        Head::MultipleChoice { pooling: Pooling::Cls },
    ];
    if architecture == Architecture::Bert {
        heads.push(Head::PreTraining);
    }
    heads
}

/// Rows of these lengths; the second half of each is in segment 1.
fn input(lengths: &[i64], with_segments: bool) -> Input {
    let rows = lengths.len() as i64;
    let options = (Kind::Int64, Device::Cpu);
    let at = Tensor::arange(LENGTH, options).unsqueeze(0);
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    let mask = at.lt_tensor(&lengths);
    let ids = (Tensor::arange(rows * LENGTH, options) * 11 + 3).remainder(VOCABULARY - 5).view([rows, LENGTH]) + 5;
    let segments = (at.ge_tensor(&(lengths / 2)).logical_and(&mask)).to_kind(Kind::Int64);
    Input { ids: ids * mask.to_kind(Kind::Int64), segments: with_segments.then_some(segments), mask: Some(mask) }
}

/// The last hidden states of real tokens, what the head makes of them, and the loss.
fn run(model: &Model, input: &Input) -> (Tensor, Tensor, Tensor) {
    let hidden = model.encode(input, true);
    let mask = input.mask.as_ref().unwrap();
    let rows = mask.size()[0];
    let classes = |count: i64, of: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(of);
    let cross_entropy = |logits: &Tensor, labels: &Tensor| {
        logits.cross_entropy_loss::<&Tensor>(labels, None, Reduction::Sum, -100, 0.0)
    };
    let (logits, loss) = match model.head() {
        Head::SequenceClassifier { .. } => {
            let logits = model.class_logits(&hidden, Some(mask), true);
            let loss = cross_entropy(&logits, &classes(rows, 3));
            (logits, loss)
        }
        Head::MultipleChoice { .. } => {
            let logits = model.choice_logits(&hidden, Some(mask), true);
            let loss = cross_entropy(&logits.unsqueeze(0), &classes(1, 3));
            (logits, loss)
        }
        Head::TokenClassifier { .. } => {
            let logits = model.token_logits(&hidden, true).reshape([-1, 3]);
            let real = mask.flatten(0, 1);
            let labels = classes(rows * LENGTH, 3).masked_fill(&real.logical_not(), -100);
            let loss = cross_entropy(&logits, &labels);
            (logits.masked_fill(&real.logical_not().unsqueeze(1), 0.0), loss)
        }
        head => {
            let real = mask.flatten(0, 1).nonzero().squeeze_dim(1);
            let positions = real.slice(0, 0, None, 4);
            let labels = (&positions * 7).remainder(VOCABULARY);
            let (mut loss, _) = model.mlm_loss_sum(&hidden, &positions, &labels);
            if *head == Head::PreTraining {
                loss += cross_entropy(&model.nsp_logits(&hidden), &classes(rows, 2));
            }
            (model.mlm_logits(&hidden, &positions), loss)
        }
    };
    (hidden * mask.to_kind(Kind::Float).unsqueeze(2), logits, loss)
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    let off = (found.detach() - expected.detach()).abs().max().double_value(&[]) / scale;
    assert!(off <= tolerance, "{what}: off by {off:e} of the largest element");
}

#[test]
fn every_head_s_loss_and_gradients_are_those_with_padding() {
    for shape in shapes() {
        for head in heads(shape.architecture) {
            for with_segments in [false, true] {
                let what = format!("{:?}, {:?}, {head:?}", shape.architecture, shape.local_attention);
                let (padded, unpadded) = (model(&shape, &head, Execution::default()), model(&shape, &head, UNPADDED));
                let input = input(&LENGTHS, with_segments);
                let (expected, found) = (run(&padded, &input), run(&unpadded, &input));
                assert_close(&format!("{what}: hidden"), &found.0, &expected.0, 1e-5);
                assert_close(&format!("{what}: logits"), &found.1, &expected.1, 1e-5);
                assert_close(&format!("{what}: loss"), &found.2, &expected.2, 1e-5);
                expected.2.backward();
                found.2.backward();
                for (found, expected) in unpadded.parameters().iter().zip(padded.parameters()) {
                    let what = format!("{what}: {}", found.name);
                    // What no loss reaches (a pooler under a head without it) has no gradient on either side.
                    assert_eq!(found.tensor.grad().defined(), expected.tensor.grad().defined(), "{what}");
                    if expected.tensor.grad().defined() {
                        assert_close(&what, &found.tensor.grad(), &expected.tensor.grad(), 2e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn padding_is_nowhere_and_rows_do_not_see_each_other() {
    for shape in shapes() {
        let model = model(&shape, &Head::MaskedLm, UNPADDED);
        let whole = model.encode(&input(&LENGTHS, false), false);
        for (row, length) in (0..).zip(LENGTHS) {
            let of_row = whole.get(row);
            assert_eq!(of_row.narrow(0, length, LENGTH - length).abs().sum(Kind::Float).double_value(&[]), 0.0);
            let ids = input(&LENGTHS, false).ids.get(row).narrow(0, 0, length).unsqueeze(0);
            let alone = model.encode(&Input { ids, segments: None, mask: None }, false);
            assert_close("a row by itself", &alone.squeeze_dim(0), &of_row.narrow(0, 0, length), 1e-5);
        }
        let none = Input { mask: None, ..input(&[LENGTH; 2], false) };
        let full = model.encode(&input(&[LENGTH; 2], false), false);
        assert!(model.encode(&none, false).equal(&full), "a mask without padding is none");
    }
}

#[test]
fn a_window_matters_where_it_is_smaller_than_the_sequence() {
    let [_, global, local] = shapes();
    for execution in [Execution::default(), UNPADDED] {
        let hidden = |window: i64, rope_theta: f64| {
            let mut shape = local.clone();
            shape.local_attention.as_mut().unwrap().window = window;
            shape.local_attention.as_mut().unwrap().rope_theta = rope_theta;
            model(&shape, &Head::None, execution).encode(&input(&[LENGTH; 2], false), false)
        };
        let whole = model(&global, &Head::None, execution).encode(&input(&[LENGTH; 2], false), false);
        let off = |window, theta| (hidden(window, theta) - &whole).abs().max().double_value(&[]);
        assert!(off(2 * LENGTH, global.rope_theta) < 1e-5, "a window as large as the sequence is none");
        // The last token does not see the first one.
        assert!(off(2 * LENGTH - 4, global.rope_theta) > 1e-4);
        assert!(off(2 * LENGTH, 500.0) > 1e-3, "local layers have rotary positions of their own");
    }
}

#[test]
fn checkpointed_layers_give_the_same_bits_with_dropout() {
    for shape in shapes() {
        let shape = ModelShape { dropout: 0.2, attention_dropout: 0.1, ..shape };
        for unpadded in [false, true] {
            let [plain, checkpointed] = [false, true].map(|activation_checkpointing| {
                let model = model(
                    &shape,
                    &Head::MaskedLm,
                    Execution { unpadded, activation_checkpointing, ..Default::default() },
                );
                tch::manual_seed(5);
                let (hidden, _, loss) = run(&model, &input(&LENGTHS, false));
                loss.backward();
                let gradients: Vec<Tensor> = model.parameters().iter().map(|it| it.tensor.grad()).collect();
                (hidden.detach(), loss.detach(), gradients)
            });
            assert!(plain.0.equal(&checkpointed.0) && plain.1.equal(&checkpointed.1), "{shape:?}");
            for (plain, checkpointed) in plain.2.iter().zip(&checkpointed.2) {
                assert!(plain.equal(checkpointed), "{shape:?}");
            }
        }
    }
}

#[test]
fn checkpointing_keeps_one_tensor_of_a_layer() {
    tch::set_num_threads(1);
    let kept = |layers, unpadded, activation_checkpointing| {
        let shape = ModelShape { layers, ..shapes()[0].clone() };
        let model =
            model(&shape, &Head::MaskedLm, Execution { unpadded, activation_checkpointing, ..Default::default() });
        let (_, bytes) = kernels::peak_memory(|| run(&model, &input(&[LENGTH; 8], false)).2);
        bytes as f64
    };
    // What one more layer adds to what is kept at the end of the forward pass.
    let layer = |unpadded, checkpoints| (kept(12, unpadded, checkpoints) - kept(4, unpadded, checkpoints)) / 8.0;
    let hidden = (8 * LENGTH * 32 * 4) as f64;
    for unpadded in [false, true] {
        // And where the generator stands, 5 KiB.
        assert!(layer(unpadded, true) < 1.5 * hidden, "{} of {hidden}", layer(unpadded, true));
        assert!(layer(unpadded, false) > 8.0 * hidden, "{} of {hidden}", layer(unpadded, false));
    }
}

#[test]
#[should_panic(expected = "a mask has real tokens behind padding")]
fn a_mask_with_holes_is_refused() {
    let mut holes = input(&LENGTHS, false);
    holes.mask = holes.mask.map(|mask| mask.flip([1]));
    let _ = model(&shapes()[0], &Head::None, UNPADDED).encode(&holes, false);
}
