//! The folders that our checkpoints are, read back by us here and by `transformers` in `check_export.py`. What
//! `coordinator checkpoints export` makes of them is written by tests/e2e/tests/finetune.rs for the same script.
//!
//! With `TRIREME_EXPORT_DIR` set, the folders stay there for the script; otherwise they are made and thrown away.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, LocalAttention, ModelConfig, ModelShape, Pooling, TokenizerConfig};
use golden::{assert_close, path, write_folder};
use model::onnx_graph::{self, Numbers};
use model::{Head, Input, Missing, Model, hugging_face, safetensors_io};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

fn shape(architecture: Architecture) -> ModelShape {
    ModelConfig {
        architecture,
        layers: Some(2),
        hidden: Some(32),
        heads: Some(4),
        intermediate: Some(48),
        // RoBERTa's bytes alone are 256 tokens.
        vocabulary: Some(if architecture == Architecture::Roberta { 344 } else { 112 }),
        max_positions: Some(24),
        embedding: (architecture == Architecture::Electra).then_some(16),
        // Far from the initial 0.02, so that the comparison of outputs can tell two networks apart.
        initializer_range: Some(0.2),
        ..ModelConfig::default()
    }
    .shape(104, 16)
}

fn heads(architecture: Architecture) -> Vec<(&'static str, Head)> {
    let labels = || ["negative", "neutral", "positive"].map(str::to_owned).to_vec();
    let classifier = |pooling| Head::SequenceClassifier { labels: labels(), pooling };
    let mut heads = vec![
        ("mlm", Head::MaskedLm),
        ("class", classifier(Pooling::Cls)),
        ("class-mean", classifier(Pooling::Mean)),
        ("tags", Head::TokenClassifier { labels: labels() }),
        ("encoder", Head::None),
        ("answers", Head::QuestionAnswering),
        ("embedder", Head::Embedder),
        ("choices", Head::MultipleChoice { pooling: Pooling::Cls }),
    ];
    match architecture {
        Architecture::Bert | Architecture::Albert => heads.push(("pretraining", Head::PreTraining)),
        Architecture::Electra => heads.push(("pretraining", Head::ReplacedTokens { generator: None })),
        Architecture::Modern => heads.push(("choices-mean", Head::MultipleChoice { pooling: Pooling::Mean })),
        _ => {}
    }
    heads
}

fn input(architecture: Architecture) -> Input {
    let ids = match architecture {
        Architecture::Roberta => [0i64, 17, 33, 339, 60, 2, 0, 90, 339, 2, 1, 1],
        _ => [2i64, 17, 33, 4, 60, 3, 2, 90, 4, 3, 0, 0],
    };
    let ids = Tensor::from_slice(&ids).view([2, 6]);
    let mask = ids.ne(if architecture == Architecture::Roberta { 1 } else { 0 });
    Input { ids, segments: None, mask: Some(mask) }
}

/// What the head makes of the input; the tensors that the script compares.
fn outputs(model: &Model) -> Tensor {
    let input = input(model.shape().architecture);
    let hidden = model.encode(&input, false);
    match model.head() {
        Head::MaskedLm | Head::PreTraining | Head::SpanBoundary => {
            model.mlm_logits(&hidden, &Tensor::from_slice(&[3i64, 8]))
        }
        Head::SequenceClassifier { .. } => model.class_logits(&hidden, input.mask.as_ref(), false),
        Head::TokenClassifier { .. } => model.token_logits(&hidden, false).narrow(1, 0, 4),
        Head::QuestionAnswering => model.answer_logits(&hidden, false).narrow(1, 0, 4),
        // The two rows as the choices of one sample.
        Head::MultipleChoice { .. } => model.choice_logits(&hidden, input.mask.as_ref(), false).view([1, 2]),
        Head::None | Head::Embedder => hidden.narrow(1, 0, 4),
        Head::ReplacedTokens { .. } => model.replaced_logits(&hidden).narrow(1, 0, 4),
    }
    .detach()
}

#[test]
fn folders() {
    let scratch = tempfile::tempdir().unwrap();
    let root = std::env::var_os("TRIREME_EXPORT_DIR").map_or(scratch.path().to_owned(), PathBuf::from);
    let tokenizer = std::fs::read(path("tokenizer.json")).unwrap();
    let robertas = path("tokenizer/roberta/vocab.json").display().to_string();
    let robertas = corpus::Tokenizer::open(&TokenizerConfig { path: robertas, lowercase: false }).unwrap();
    let byte_level = robertas.bytes().to_vec();
    let local = LocalAttention { global_every: 2, window: 4, rope_theta: 500.0 };
    for (name, architecture, local_attention) in [
        ("bert", Architecture::Bert, None),
        ("modern", Architecture::Modern, None),
        ("modern-local", Architecture::Modern, Some(local)),
        ("albert", Architecture::Albert, None),
        ("electra", Architecture::Electra, None),
        ("distilbert", Architecture::Distilbert, None),
        ("roberta", Architecture::Roberta, None),
    ] {
        let tokenizer = if architecture == Architecture::Roberta { &byte_level } else { &tokenizer };
        let shape = ModelShape { local_attention, ..shape(architecture) };
        for (head_name, head) in heads(architecture) {
            let folder = root.join(format!("{name}-{head_name}"));
            let model = Model::new(&shape, head.clone(), 7, Device::Cpu).unwrap();
            write_folder(&model, tokenizer, &folder);

            let expected = outputs(&model);
            let case = [
                ("ids".to_owned(), input(architecture).ids),
                ("mask".to_owned(), input(architecture).mask.unwrap().to_kind(Kind::Int64)),
                ("positions".to_owned(), Tensor::from_slice(&[3i64, 8])),
                ("outputs".to_owned(), expected.shallow_clone()),
            ];
            std::fs::write(folder.join("expected.safetensors"), safetensors_io::write(&case).unwrap()).unwrap();

            let int8 = Numbers::Int8 { bits: 7, tables: name == "bert" };
            for (file, numbers) in [("model.onnx", Numbers::Float), ("model_int8.onnx", int8)] {
                let exported = onnx_graph::export(&model, shape.vocabulary, numbers, &[]).unwrap();
                std::fs::write(folder.join(file), exported.bytes).unwrap();
            }

            let read = hugging_face::read_folder(&folder).unwrap();
            assert_eq!((&read.shape, &read.head), (&shape, &head), "{name}-{head_name}");
            let mut again = Model::new(&read.shape, read.head, 8, Device::Cpu).unwrap();
            let report = again.load_parameters(&read.tensors, Missing::Refuse).unwrap();
            assert_eq!(report.unexpected, Vec::<String>::new());
            assert_close(head_name, &outputs(&again), &expected, 0.0);
        }
    }
}
