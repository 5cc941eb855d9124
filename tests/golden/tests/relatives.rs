//! ALBERT, ELECTRA and DistilBERT: logits, losses and all gradients equal those of Hugging Face and PyTorch
//! (fixtures/make_relatives.py) within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, GeneratorShape, ModelConfig, ModelSize};
use golden::{assert_close, path, tensors};
use model::{Head, Input, Missing, Model, distil, hugging_face};
use std::collections::BTreeMap;
use tch::{Device, Kind, Reduction, Tensor};

const TOLERANCE: f64 = 1e-5;

type Case = BTreeMap<String, Tensor>;

fn load(folder: &str) -> Model {
    golden::load(folder, None)
}

fn input(case: &Case) -> Input {
    Input {
        ids: case["ids"].shallow_clone(),
        segments: Some(case["segments"].shallow_clone()),
        mask: Some(case["mask"].to_kind(Kind::Bool)),
    }
}

fn check_gradients(model: &Model, case: &Case, tolerance: f64) {
    let parameters = model.parameters();
    for parameter in &parameters {
        let expected = &case[&format!("gradient.{}", parameter.name)];
        assert_close(&parameter.name, &parameter.tensor.grad(), expected, tolerance);
        assert!(expected.abs().max().double_value(&[]) > 0.0, "{}: a gradient of 0 proves nothing", parameter.name);
    }
    let gradients = case.keys().filter(|name| name.starts_with("gradient.")).count();
    assert_eq!(parameters.len(), gradients, "every gradient of Hugging Face's is compared");
}

#[test]
fn albert() {
    let (model, case) = (load("albert"), tensors("albert/tanh.safetensors"));
    assert_eq!((model.shape().embedding_width(), model.shape().hidden, model.shape().layers), (8, 16, 3));
    let real = case["mask"].to_kind(Kind::Bool).unsqueeze(2);
    let hidden = model.encode(&input(&case), true);
    assert_close("hidden", &(&hidden * &real), &(&case["hidden"] * &real), TOLERANCE);
    let (positions, labels) = (&case["positions"], &case["labels"]);
    assert_close("mlm_logits", &model.mlm_logits(&hidden, positions), &case["mlm_logits"], TOLERANCE);
    let mlm = model.mlm_loss_sum(&hidden, positions, labels).0 / positions.numel() as f64;
    assert_close("mlm_loss", &mlm, &case["mlm_loss"], TOLERANCE);
    let order = model.nsp_logits(&hidden);
    assert_close("nsp_logits", &order, &case["nsp_logits"], TOLERANCE);
    let order = order.cross_entropy_loss::<&Tensor>(&case["next_sentence"], None, Reduction::Mean, -100, 0.0);
    assert_close("nsp_loss", &order, &case["nsp_loss"], TOLERANCE);
    let loss = mlm + order;
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    check_gradients(&model, &case, TOLERANCE);
}

/// The numbers of `transformers.AlbertModel` and `AlbertForPreTraining` with the sizes of the paper's table 1 (12 million
/// and 18 million), 30,000 words.
#[test]
fn albert_has_as_many_parameters_as_published() {
    for (size, encoder, all) in [(ModelSize::Base, 11_683_584, 11_813_810), (ModelSize::Large, 17_683_968, 17_847_474)]
    {
        let config = ModelConfig { architecture: Architecture::Albert, size, ..ModelConfig::default() };
        let shape = config.shape(30_000, 512);
        let count = |head| -> usize {
            let model = Model::new(&shape, head, 0, Device::Cpu).unwrap();
            model.parameters().iter().map(|parameter| parameter.tensor.numel()).sum()
        };
        assert_eq!((count(Head::None), count(Head::PreTraining)), (encoder, all), "{size:?}");
    }
}

#[test]
fn electra() {
    let case = tensors("electra/erf.safetensors");
    let folder = hugging_face::read_folder(&path("electra")).unwrap();
    assert_eq!(folder.head, Head::ReplacedTokens { generator: None });
    let generator = GeneratorShape { layers: 2, hidden: 12, heads: 2, intermediate: 48 };
    let head = Head::ReplacedTokens { generator: Some(generator) };
    let mut model = Model::new(&folder.shape, head, 0, Device::Cpu).unwrap();
    let mut weights = folder.tensors;
    let own = case.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("weight.")?, tensor)));
    weights.extend(own.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())));
    let report = model.load_parameters(&weights, Missing::Refuse).unwrap();
    assert_eq!((report.loaded, report.unexpected), (model.parameters().len(), vec![]));

    let (positions, labels, drawn) = (&case["positions"], &case["labels"], &case["drawn"]);
    let filled = model.fill(&input(&case), positions, labels, true);
    let generator = filled.loss / positions.numel() as f64;
    assert_close("mlm_loss", &generator, &case["mlm_loss"], TOLERANCE);
    let right = case["mlm_logits"].argmax(1, false).eq_tensor(labels).sum(Kind::Int64);
    assert_eq!(filled.correct.int64_value(&[]), right.int64_value(&[]));
    let (sum, correct) = model.replaced_loss_sum(&input(&case), positions, (labels, drawn), true);
    let tokens = case["mask"].sum(Kind::Int64).int64_value(&[]);
    let told = sum / tokens as f64;
    assert_close("replaced_loss", &told, &case["replaced_loss"], TOLERANCE);
    assert_eq!(correct.int64_value(&[]), case["replaced_correct"].int64_value(&[]));
    let loss = generator + 50.0 * told;
    assert_close("loss", &loss, &case["loss"], 50.0 * TOLERANCE);
    loss.backward();
    check_gradients(&model, &case, 5.0 * TOLERANCE);
}

/// A draw follows libtorch's seed and nothing else.
#[test]
fn electra_draws_by_the_seed() {
    let case = tensors("electra/erf.safetensors");
    let folder = hugging_face::read_folder(&path("electra")).unwrap();
    let generator = GeneratorShape { layers: 1, hidden: 8, heads: 2, intermediate: 16 };
    let head = Head::ReplacedTokens { generator: Some(generator) };
    let model = Model::new(&folder.shape, head, 3, Device::Cpu).unwrap();
    let drawn = |seed: i64| {
        tch::manual_seed(seed);
        let filled = model.fill(&input(&case), &case["positions"], &case["labels"], false);
        Vec::<i64>::try_from(filled.drawn).unwrap()
    };
    assert_eq!(drawn(4), drawn(4));
    assert!((0..8).any(|seed| drawn(seed) != drawn(4)));
}

#[test]
fn distilbert() {
    let case = tensors("distilbert/erf.safetensors");
    let teacher = hugging_face::read_folder(&path("distilbert/teacher")).unwrap();
    let student = load("distilbert/student");
    let taken =
        distil::student_weights(Architecture::Bert, Architecture::Distilbert, &teacher.tensors, &[0, 2]).unwrap();
    let mut extracted = Model::new(student.shape(), Head::MaskedLm, 1, Device::Cpu).unwrap();
    let report = extracted.load_parameters(&taken, Missing::Refuse).unwrap();
    assert_eq!(report.unexpected, Vec::<String>::new());
    for (ours, theirs) in extracted.parameters().iter().zip(student.parameters()) {
        assert_close(&ours.name, &ours.tensor, &theirs.tensor, 0.0);
    }

    let teacher = load("distilbert/teacher");
    let wanted = tch::no_grad(|| teacher.encode(&input(&case), false));
    let hidden = student.encode(&input(&case), true);
    let real = case["mask"].to_kind(Kind::Bool);
    let wide = real.unsqueeze(2);
    assert_close("hidden", &(&hidden * &wide), &(&case["hidden"] * &wide), TOLERANCE);
    let (positions, labels) = (&case["positions"], &case["labels"]);
    assert_close("mlm_logits", &student.mlm_logits(&hidden, positions), &case["mlm_logits"], TOLERANCE);
    let mlm = student.mlm_loss_sum(&hidden, positions, labels).0 / positions.numel() as f64;
    assert_close("mlm_loss", &mlm, &case["mlm_loss"], TOLERANCE);

    let tokens = real.reshape([-1]).nonzero().squeeze_dim(1);
    let divergence = |rows: &Tensor| {
        let theirs = tch::no_grad(|| teacher.mlm_logits(&wanted, rows));
        distil::divergence_sum(&student.mlm_logits(&hidden, rows), &theirs, 2.0) * (4.0 / rows.numel() as f64)
    };
    let over_tokens = divergence(&tokens);
    assert_close("kl_tokens", &over_tokens, &case["kl_tokens"], TOLERANCE);
    assert_close("kl_masked", &divergence(positions), &case["kl_masked"], TOLERANCE);
    let cosine = distil::cosine_sum(&hidden, &wanted, &tokens) / tokens.numel() as f64;
    assert_close("cosine", &cosine, &case["cosine"], TOLERANCE);
    let loss = 5.0 * over_tokens + 2.0 * mlm + cosine;
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    check_gradients(&student, &case, TOLERANCE);
}
