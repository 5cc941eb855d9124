//! Folders as others wrote them: `pytorch_model.bin` in both containers, weights in several files, and what is refused.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use golden::{path, tensors};
use model::{hugging_face, safetensors_io};
use std::path::Path;
use tch::Tensor;

/// A folder with a BERT's config.json and these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("bert/config.json"), folder.path().join("config.json")).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn torch(name: &str) -> Vec<u8> {
    std::fs::read(path("torch").join(name)).unwrap()
}

fn read(folder: &Path) -> Vec<(String, Tensor)> {
    hugging_face::read_folder(folder).unwrap().tensors
}

fn refused(files: &[(&str, &[u8])]) -> String {
    hugging_face::read_folder(folder(files).path()).unwrap_err().to_string()
}

fn assert_same(got: &[(String, Tensor)]) {
    let expected = tensors("torch/expected.safetensors");
    assert_eq!(got.len(), expected.len());
    for ((name, tensor), (expected_name, expected)) in got.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        assert_eq!((tensor.size(), tensor.kind()), (expected.size(), expected.kind()), "{name}");
        assert!(tensor.equal(expected), "{name}");
    }
}

#[test]
fn every_tensor_of_a_torch_file_is_read() {
    for name in ["archive.bin", "old.bin", "training.bin"] {
        let folder = folder(&[("pytorch_model.bin", &torch(name))]);
        assert_same(&read(folder.path()));
    }
}

#[test]
fn a_program_in_a_torch_file_is_named_and_not_run() {
    let error = refused(&[("pytorch_model.bin", &torch("harmful.bin"))]);
    assert!(error.contains("pytorch_model.bin") && error.contains("system`, which is not run"), "{error}");
    assert!(error.contains("save_pretrained"), "{error}");
}

#[test]
fn a_torch_file_that_was_cut_off_is_named_wherever_it_ends() {
    for name in ["archive.bin", "old.bin"] {
        let bytes = torch(name);
        for part in 1..20 {
            let cut = &bytes[..bytes.len() * part / 20];
            let error = refused(&[("pytorch_model.bin", cut)]);
            assert!(error.contains("pytorch_model.bin") && error.contains("etch"), "{name}, {part}/20: {error}");
        }
    }
    let error = refused(&[("pytorch_model.bin", b"")]);
    assert!(error.contains("not whole"), "{error}");
    let error = refused(&[("pytorch_model.bin", b"something else")]);
    assert!(error.contains("not what torch.save writes"), "{error}");
}

#[test]
fn a_flipped_byte_never_panics() {
    // Whatever a program of such bytes asks for, it ends with a value or with words.
    for name in ["archive.bin", "old.bin"] {
        let bytes = torch(name);
        for at in 0..bytes.len().min(2500) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let folder = folder(&[("pytorch_model.bin", &damaged)]);
            let _ = hugging_face::read_folder(folder.path());
        }
    }
}

#[test]
fn weights_in_several_files_are_put_together() {
    let expected = tensors("torch/expected.safetensors");
    let (one, other): (Vec<_>, Vec<_>) = expected
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .partition(|(name, _)| name < &"half".to_owned());
    let parts = [safetensors_io::write(&one).unwrap(), safetensors_io::write(&other).unwrap()];
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let map = |names: [&str; 2]| {
        let entry = |part: &[(String, Tensor)], file: &str| -> Vec<String> {
            part.iter().map(|(name, _)| format!("\"{name}\": \"{file}\"")).collect()
        };
        let entries = [entry(&one, names[0]), entry(&other, names[1])].concat().join(", ");
        format!("{{\"metadata\": {{}}, \"weight_map\": {{{entries}}}}}")
    };
    let index = "model.safetensors.index.json";
    let whole = folder(&[(index, map(names).as_bytes()), (names[0], &parts[0]), (names[1], &parts[1])]);
    let got = read(whole.path());
    let int32 = got.iter().position(|(name, _)| name == "int32").unwrap();
    assert!(got[int32].1.equal(&expected["int32"]));
    assert_eq!(got.len(), expected.len());

    let error = refused(&[(index, map(names).as_bytes()), (names[0], &parts[0])]);
    assert!(error.contains(index) && error.contains(names[1]) && error.contains("not there"), "{error}");
    let error = refused(&[(index, map(names).as_bytes()), (names[0], &parts[0]), (names[1], &parts[0])]);
    assert!(error.contains("is not in model-00002-of-00002"), "{error}");
    let error = refused(&[(index, map(["../x", names[1]]).as_bytes())]);
    assert!(error.contains("no file's name"), "{error}");
}

#[test]
fn what_are_no_weights_is_said() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let error = refused(&[("model.safetensors", pointer)]);
    assert!(error.contains("git lfs pull"), "{error}");
    let error = refused(&[("tf_model.h5", b"x")]);
    assert!(error.contains("`tf_model.h5`") && error.contains("save_pretrained"), "{error}");
    let whole = std::fs::read(path("bert/model.safetensors")).unwrap();
    let error = refused(&[("model.safetensors", &whole[..whole.len() / 2])]);
    assert!(error.contains("model.safetensors") && error.contains("not whole"), "{error}");
}

#[test]
fn what_would_change_the_results_is_refused_and_the_rest_is_carried() {
    let text = std::fs::read_to_string(path("bert/config.json")).unwrap();
    let with = |key: &str, value: &str| {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        hugging_face::from_config_json(&config.to_string())
    };
    for (key, value) in [
        ("position_embedding_type", "\"relative_key\""),
        ("is_decoder", "true"),
        ("hidden_act", "\"gelu_10\""),
        ("hidden_act", "\"quick_gelu\""),
        ("tie_word_embeddings", "false"),
        ("pruned_heads", "{\"0\": [1]}"),
        ("problem_type", "\"multi_label_classification\""),
        ("quantization_config", "{\"bits\": 8}"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("not supported"), "{key}: {error}");
    }
    assert_eq!(with("layer_norm_eps", "1e-5").unwrap().0.layer_norm_epsilon, 1e-5);
    assert_eq!(with("hidden_act", "\"gelu_fast\"").unwrap().0.activation, config::Activation::GeluNew);
    assert!(with("pruned_heads", "{}").is_ok());
}
