//! Weights under every name they come with, and refusals that say what does not fit.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Architecture, ModelConfig, ModelShape};
use model::{Head, LoadReport, Missing, Model, ModelError, hugging_face, safetensors_io};
use tch::{Device, Kind, Tensor};

fn shape(architecture: Architecture) -> ModelShape {
    let config =
        ModelConfig { architecture, layers: Some(2), hidden: Some(16), heads: Some(2), ..ModelConfig::default() };
    ModelConfig { vocabulary: Some(40), max_positions: Some(8), ..config }.shape(40, 8)
}

fn make(architecture: Architecture, head: Head, seed: u64) -> Model {
    Model::new(&shape(architecture), head, seed, Device::Cpu).unwrap()
}

fn named(model: &Model) -> Vec<(String, Tensor)> {
    model.parameters().into_iter().map(|p| (p.name, p.tensor.detach().copy())).collect()
}

fn digest(model: &Model) -> types::Digest {
    safetensors_io::digest(model.parameters().iter().map(|p| &p.tensor)).unwrap()
}

fn rename(tensors: Vec<(String, Tensor)>, rule: impl Fn(&str) -> String) -> Vec<(String, Tensor)> {
    tensors.into_iter().map(|(name, tensor)| (rule(&name), tensor)).collect()
}

#[test]
fn old_names_bare_names_and_stray_tensors_are_understood() {
    for (architecture, head) in [(Architecture::Bert, Head::PreTraining), (Architecture::Modern, Head::MaskedLm)] {
        let source = make(architecture, head.clone(), 1);
        let mut tensors = rename(named(&source), |name| {
            let name = name.trim_start_matches("bert.").trim_start_matches("model.").to_owned();
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        });
        let words = tensors.iter().find(|(name, _)| name.contains("word_emb") || name.contains("tok_emb")).unwrap();
        let decoder = if architecture == Architecture::Bert { "cls.predictions.decoder" } else { "decoder" };
        tensors.push((format!("{decoder}.weight"), words.1.copy()));
        tensors.push(("embeddings.position_ids".into(), Tensor::arange(8, (Kind::Int64, Device::Cpu))));
        if architecture == Architecture::Bert {
            let bias = tensors.iter().position(|(name, _)| name == "cls.predictions.bias").unwrap();
            tensors[bias].0 = "cls.predictions.decoder.bias".to_owned();
        }
        let mut target = make(architecture, head, 2);
        let report = target.load_parameters(&tensors, Missing::Refuse).unwrap();
        let unexpected: Vec<String> =
            if architecture == Architecture::Bert { vec![] } else { vec!["model.embeddings.position_ids".into()] };
        assert_eq!(report, LoadReport { loaded: source.parameters().len(), unexpected, ..LoadReport::default() });
        assert_eq!(digest(&source), digest(&target));
    }
}

#[test]
fn a_duplicate_has_the_same_weights_and_memory_of_its_own() {
    for (architecture, head) in [(Architecture::Bert, Head::PreTraining), (Architecture::Modern, Head::MaskedLm)] {
        let source = make(architecture, head.clone(), 1);
        let before = digest(&source);
        let mut other = source.duplicate();
        assert_eq!((digest(&other), other.shape(), other.head()), (before, source.shape(), &head));
        assert!(other.parameters().iter().all(|parameter| !parameter.tensor.requires_grad()));
        // What is written to its parameters is what it computes with.
        let new = make(architecture, head, 2);
        other.load_parameters(&named(&new), Missing::Refuse).unwrap();
        let hidden = |model: &Model| {
            let ids = Tensor::from_slice(&[2i64, 9, 17, 3]).view([1, 4]);
            model.encode(&model::Input { ids, segments: None, mask: None }, false).detach()
        };
        assert!(hidden(&other).equal(&hidden(&new)) && !hidden(&other).equal(&hidden(&source)));
        assert_eq!(digest(&source), before);
    }
}

#[test]
fn half_precision_is_accepted_and_float32_written() {
    let source = make(Architecture::Bert, Head::MaskedLm, 1);
    for kind in [Kind::Half, Kind::BFloat16, Kind::Double] {
        let dtype = match kind {
            Kind::Half => safetensors::Dtype::F16,
            Kind::BFloat16 => safetensors::Dtype::BF16,
            _ => safetensors::Dtype::F64,
        };
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = named(&source)
            .into_iter()
            .map(|(name, tensor)| {
                let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
                tensor.to_kind(kind).copy_data_u8(&mut bytes, tensor.numel());
                (name, tensor.size().iter().map(|&n| n as usize).collect(), bytes)
            })
            .collect();
        let views = data.iter().map(|(name, size, bytes)| {
            (name, safetensors::tensor::TensorView::new(dtype, size.clone(), bytes).unwrap())
        });
        let read = safetensors_io::read(&safetensors::serialize(views, None).unwrap()).unwrap();
        for ((name, expected), (read_name, tensor)) in named(&source).iter().zip(&read) {
            assert_eq!((name, tensor.kind()), (read_name, Kind::Float));
            assert!(tensor.equal(&expected.to_kind(kind).to_kind(Kind::Float)), "{name} as {kind:?}");
        }
    }
    let bytes = safetensors_io::write(&named(&source)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    for ((name, expected), (read_name, tensor)) in named(&source).iter().zip(safetensors_io::read(&bytes).unwrap()) {
        assert_eq!(name, &read_name);
        assert!(tensor.equal(expected), "{name}");
    }
}

#[test]
fn a_fine_tuning_takes_the_encoder_and_says_what_it_drew() {
    let source = make(Architecture::Bert, Head::PreTraining, 1);
    let labels = |n: usize| (0..n).map(|i| i.to_string()).collect();
    let mut tagger = make(Architecture::Bert, Head::TokenClassifier { labels: labels(3) }, 2);
    let report = tagger.load_parameters(&named(&source), Missing::Keep).unwrap();
    assert_eq!(report.missing, ["classifier.bias", "classifier.weight"]);
    assert!(report.unexpected.contains(&"cls.seq_relationship.weight".to_owned()));

    let mut other = make(Architecture::Bert, Head::TokenClassifier { labels: labels(4) }, 3);
    let report = other.load_parameters(&named(&tagger), Missing::Keep).unwrap();
    assert_eq!(report.shape_mismatches, ["classifier.bias: [3], not [4]", "classifier.weight: [3, 16], not [4, 16]"]);

    let before = digest(&tagger);
    let error = tagger.load_parameters(&named(&source), Missing::Refuse).unwrap_err();
    assert!(error.to_string().contains("classifier.bias is missing"), "{error}");
    assert_eq!(digest(&tagger), before, "a refused load changes nothing");
}

#[test]
fn what_does_not_fit_is_refused_with_names_and_numbers() {
    let mut target = make(Architecture::Bert, Head::MaskedLm, 1);
    let before = digest(&target);
    let wider = ModelShape { vocabulary: 48, ..shape(Architecture::Bert) };
    let wider = Model::new(&wider, Head::MaskedLm, 1, Device::Cpu).unwrap();
    match target.load_parameters(&named(&wider), Missing::Keep) {
        Err(ModelError::Vocabulary { expected: 40, found: 48 }) => {}
        other => panic!("{other:?}"),
    }
    let deeper = ModelShape { max_positions: 9, ..shape(Architecture::Bert) };
    let deeper = Model::new(&deeper, Head::MaskedLm, 1, Device::Cpu).unwrap();
    let error = target.load_parameters(&named(&deeper), Missing::Keep).unwrap_err().to_string();
    assert!(error.contains("bert.embeddings.position_embeddings.weight: [9, 16], not [8, 16]"), "{error}");

    let mut few = named(&target);
    few.retain(|(name, _)| !name.contains("layer.1."));
    let error = target.load_parameters(&few, Missing::Keep).unwrap_err().to_string();
    assert!(error.contains("bert.encoder.layer.1.attention.output.LayerNorm.bias is missing"), "{error}");
    assert!(error.contains("and 11 more"), "{error}");

    let mut untied = named(&target);
    untied.push(("cls.predictions.decoder.weight".into(), Tensor::zeros([40, 16], (Kind::Float, Device::Cpu))));
    let error = target.load_parameters(&untied, Missing::Keep).unwrap_err().to_string();
    assert!(error.contains("tied to the word embeddings"), "{error}");
    assert_eq!(digest(&target), before);
}

#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = || hugging_face::read_folder(folder.path()).unwrap_err().to_string();
    assert!(read().contains("config.json"), "{}", read());
    let config = folder.path().join("config.json");
    let says = |what: &str| assert!(read().starts_with(&format!("{}: {what}", config.display())), "{}", read());
    std::fs::write(&config, "{\n  \"model_type\": \"bert\",\n}").unwrap();
    says("trailing comma at line 3");
    std::fs::write(&config, "{\"model_type\": \"gpt2\"}").unwrap();
    says("`model_type` = \"gpt2\" is not supported");
    std::fs::write(&config, "{\"model_type\": \"bert\", \"trireme_reading\": 1}").unwrap();
    says("`trireme_reading`: ");
    for (name, bytes) in hugging_face::side_files(&shape(Architecture::Bert), &Head::MaskedLm, b"{}").unwrap() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    assert!(read().contains("model.safetensors"), "{}", read());
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(read().contains("pytorch_model.bin: it is not what torch.save writes"), "{}", read());
    let mut bytes = safetensors_io::write(&named(&make(Architecture::Bert, Head::MaskedLm, 1))).unwrap();
    let whole = bytes.len();
    bytes.truncate(whole - 10);
    std::fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
    assert!(read().contains("model.safetensors: ") && read().contains("not whole"), "{}", read());
    assert!(read().contains(&format!("cut short, {} bytes of {whole}", whole - 10)), "{}", read());
    std::fs::write(folder.path().join("model.safetensors"), &bytes[..20]).unwrap();
    assert!(read().contains("not whole (20 bytes)"), "{}", read());

    let sides = hugging_face::side_files(&shape(Architecture::Bert), &Head::MaskedLm, b"not json");
    let error = sides.unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.json: "), "{error}");
}

#[test]
fn the_rows_of_an_export_are_padded_again() {
    for (architecture, words, bias) in [
        (Architecture::Bert, "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
        (Architecture::Modern, "model.embeddings.tok_embeddings.weight", "decoder.bias"),
    ] {
        let source = named(&make(architecture, Head::MaskedLm, 1));
        let cut = |rows: i64| -> Vec<(String, Tensor)> {
            let cut = |(name, tensor): &(String, Tensor)| {
                let of_vocabulary = name == words || name == bias;
                (name.clone(), if of_vocabulary { tensor.narrow(0, 0, rows) } else { tensor.shallow_clone() })
            };
            source.iter().map(cut).collect()
        };
        let mut target = make(architecture, Head::MaskedLm, 2);
        let drawn = named(&target);
        let report = target.load_parameters(&cut(33), Missing::Keep).unwrap();
        assert_eq!(report, LoadReport { loaded: source.len(), ..LoadReport::default() });
        for (((name, loaded), (_, expected)), (_, drawn)) in named(&target).iter().zip(&source).zip(&drawn) {
            if name == words || name == bias {
                assert!(loaded.narrow(0, 0, 33).equal(&expected.narrow(0, 0, 33)), "{name}");
                assert!(loaded.narrow(0, 33, 7).equal(&drawn.narrow(0, 33, 7)), "{name}: the rest is as drawn");
            } else {
                assert!(loaded.equal(expected), "{name}");
            }
        }
        // 32 rows would be padded to 32; and a checkpoint of this very model has all its rows.
        for (rows, missing) in [(32, Missing::Keep), (33, Missing::Refuse)] {
            match target.load_parameters(&cut(rows), missing) {
                Err(ModelError::Vocabulary { expected: 40, found }) => assert_eq!(found, rows),
                other => panic!("{other:?}"),
            }
        }
    }
}
