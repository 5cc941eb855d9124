//! Scores of labels by the words that stand for them, their loss and its gradients equal a restatement in PyTorch with
//! Hugging Face's model (fixtures/make_cloze.py) within 1e-5.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use golden::{assert_close, path, tensors};
use model::{Head, Input, Missing, Model, hugging_face};
use tch::{Device, Kind, Reduction, Tensor};

const TOLERANCE: f64 = 1e-5;

#[test]
fn labels_are_scored_by_their_words() {
    let case = tensors("cloze/bert.safetensors");
    let folder = hugging_face::read_folder(&path("bert")).unwrap();
    let mut model = Model::new(&folder.shape, Head::MaskedLm, 0, Device::Cpu).unwrap();
    let report = model.load_parameters(&folder.tensors, Missing::Keep).unwrap();
    assert!(report.missing.is_empty(), "the head over the vocabulary is taken over: {report:?}");
    let input =
        Input { ids: case["ids"].shallow_clone(), segments: None, mask: Some(case["mask"].to_kind(Kind::Bool)) };
    let hidden = model.encode(&input, true);
    let words = [vec![9], vec![30, 57], vec![101]];
    let scores = trainer::label_scores(&model, &hidden, &case["positions"], &words);
    assert_close("scores", &scores, &case["scores"], TOLERANCE);
    // The words alone, and among all others.
    let all = model.mlm_logits(&hidden, &case["positions"]);
    let alone = model.word_logits(&hidden, &case["positions"], &Tensor::from_slice(&[57i64, 9]));
    assert_close("words", &alone, &all.index_select(1, &Tensor::from_slice(&[57i64, 9])), TOLERANCE);
    let loss = scores.cross_entropy_loss::<&Tensor>(&case["labels"], None, Reduction::Sum, -100, 0.0);
    assert_close("loss", &loss, &case["loss"], TOLERANCE);
    loss.backward();
    let mut compared = 0;
    for parameter in model.parameters() {
        if let Some(expected) = case.get(&format!("gradient.{}", parameter.name)) {
            assert_close(&parameter.name, &parameter.tensor.grad(), expected, TOLERANCE);
            assert!(expected.abs().max().double_value(&[]) > 0.0, "{}: a gradient of 0 proves nothing", parameter.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 4);
}
