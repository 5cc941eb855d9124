//! `config.json`: what is written is read back alike, and what is not supported is refused by name.

// clippy.toml lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

use config::{Activation, Architecture, LocalAttention, ModelConfig, ModelShape, Pooling};
use model::hugging_face::{from_config_json, side_files};
use model::{Head, ModelError};
use serde_json::{Value, json};

const TOKENIZER: &str =
    r#"{"added_tokens": [{"id": 3, "content": "[PAD]"}], "model": {"vocab": {"[CLS]": 7, "x": 8}}}"#;

fn shape(architecture: Architecture) -> ModelShape {
    ModelConfig { architecture, ..ModelConfig::default() }.shape(1000, 128)
}

fn config_json(shape: &ModelShape, head: &Head) -> String {
    let files = side_files(shape, head, TOKENIZER.as_bytes()).unwrap();
    let (_, bytes) = files.into_iter().find(|(name, _)| *name == "config.json").unwrap();
    String::from_utf8(bytes).unwrap()
}

fn edited(architecture: Architecture, key: &str, value: Value) -> String {
    let mut config: Value = serde_json::from_str(&config_json(&shape(architecture), &Head::MaskedLm)).unwrap();
    config[key] = value;
    config.to_string()
}

#[test]
fn every_number_survives() {
    for architecture in [Architecture::Bert, Architecture::Modern] {
        for activation in [Activation::Gelu, Activation::GeluNew, Activation::Relu] {
            let shape = ModelShape {
                activation,
                dropout: 0.125,
                attention_dropout: 0.25,
                layer_norm_epsilon: 1e-7,
                initializer_range: 0.03,
                max_positions: 200,
                vocabulary: 1016,
                rope_theta: if architecture == Architecture::Modern { 5000.0 } else { 10_000.0 },
                ..shape(architecture)
            };
            let labels = ["x".to_owned(), "y".to_owned(), "z".to_owned()].to_vec();
            for head in [
                Head::MaskedLm,
                Head::None,
                Head::TokenClassifier { labels: labels.clone() },
                Head::SequenceClassifier { labels: labels.clone(), pooling: Pooling::Cls },
                Head::SequenceClassifier { labels: labels.clone(), pooling: Pooling::Mean },
                Head::MultipleChoice { pooling: Pooling::Cls },
                Head::MultipleChoice { pooling: Pooling::Mean },
            ] {
                assert_eq!(from_config_json(&config_json(&shape, &head)).unwrap(), (shape.clone(), head));
            }
        }
    }
}

#[test]
fn many_labels_keep_their_order() {
    let head = Head::TokenClassifier { labels: (0..25).map(|i| format!("T{}", 99 - i)).collect() };
    let text = config_json(&shape(Architecture::Bert), &head);
    assert_eq!(from_config_json(&text).unwrap().1, head);
}

#[test]
fn electra_makes_one_vector_as_it_is_written() {
    let head = Head::MultipleChoice { pooling: Pooling::Cls };
    let shape = ModelShape { dropout: 0.25, ..shape(Architecture::Electra) };
    let written: Value = serde_json::from_str(&config_json(&shape, &head)).unwrap();
    assert_eq!(
        (&written["architectures"][0], &written["summary_last_dropout"]),
        (&json!("ElectraForMultipleChoice"), &json!(0.25))
    );
    assert_eq!(from_config_json(&written.to_string()).unwrap(), (shape, head.clone()));
    for (key, value) in [("summary_type", json!("mean")), ("summary_activation", Value::Null)] {
        let mut other = written.clone();
        other[key] = value;
        let error = from_config_json(&other.to_string()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        other.as_object_mut().unwrap().remove(key);
        assert_eq!(from_config_json(&other.to_string()).unwrap().1, head, "the default");
    }
}

#[test]
fn what_would_compute_something_else_is_refused() {
    use Architecture::{Bert, Modern};
    for (architecture, key, value) in [
        (Bert, "model_type", json!("mpnet")),
        (Bert, "position_embedding_type", json!("relative_key")),
        (Bert, "hidden_act", json!("silu")),
        (Bert, "is_decoder", json!(true)),
        (Bert, "add_cross_attention", json!(true)),
        (Bert, "tie_word_embeddings", json!(false)),
        (Modern, "hidden_activation", json!("silu")),
        (Modern, "classifier_activation", json!("relu")),
        (Modern, "norm_bias", json!(true)),
        (Modern, "attention_bias", json!(true)),
        (Modern, "mlp_bias", json!(true)),
        (Modern, "decoder_bias", json!(false)),
        (Modern, "classifier_pooling", json!("max")),
        // Four layers: too short, one that is not known, and no pattern.
        (Modern, "layer_types", json!(["full_attention", "sliding_attention"])),
        (Modern, "layer_types", json!(["full_attention", "chunked_attention", "full_attention", "full_attention"])),
        (Modern, "layer_types", json!(["sliding_attention", "full_attention", "full_attention", "full_attention"])),
        (Modern, "rope_scaling", json!({ "type": "linear", "factor": 2.0 })),
    ] {
        match from_config_json(&edited(architecture, key, value.clone())) {
            Err(ModelError::UnsupportedConfig { key: named, value: shown, .. }) => {
                assert_eq!(named, key);
                assert_eq!(shown, value.to_string(), "{key}");
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    let yarn = json!({ "full_attention": { "rope_type": "yarn", "rope_theta": 1.0 } });
    let error = from_config_json(&edited(Modern, "rope_parameters", yarn)).unwrap_err().to_string();
    assert!(error.contains("rope_type` = \"yarn\""), "{error}");
}

#[test]
fn local_attention_survives() {
    for (layers, global_every) in [(4, 2), (22, 3), (2, 3), (3, 3)] {
        let local = LocalAttention { global_every, window: 64, rope_theta: 9000.0 };
        let shape =
            ModelShape { layers, rope_theta: 80_000.0, local_attention: Some(local), ..shape(Architecture::Modern) };
        let text = config_json(&shape, &Head::MaskedLm);
        assert_eq!(from_config_json(&text).unwrap(), (shape.clone(), Head::MaskedLm));
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let kinds: Vec<bool> =
            config["layer_types"].as_array().unwrap().iter().map(|kind| kind == "sliding_attention").collect();
        assert_eq!(kinds, (0..layers).map(|layer| layer % global_every != 0).collect::<Vec<_>>());
        // transformers 5 does not write the number.
        config.as_object_mut().unwrap().remove("global_attn_every_n_layers");
        let (read, _) = from_config_json(&config.to_string()).unwrap();
        let is_local = |shape: &ModelShape, layer| shape.local_attention.unwrap().is_local(layer);
        assert!((0..layers).all(|layer| is_local(&read, layer) == is_local(&shape, layer)), "{layers} layers");
    }
    let yarn = json!({ "sliding_attention": { "rope_type": "yarn" } });
    let mut config: Value = serde_json::from_str(&edited(Architecture::Modern, "rope_parameters", yarn)).unwrap();
    config.as_object_mut().unwrap().remove("layer_types");
    config["global_attn_every_n_layers"] = json!(3);
    let error = from_config_json(&config.to_string()).unwrap_err().to_string();
    assert!(error.contains("rope_parameters.sliding_attention.rope_type` = \"yarn\""), "{error}");
}

/// As released for transformers 4: no layer_types, no rope_parameters.
#[test]
fn older_modern_configs_are_understood() {
    let text = |every: i64, local_theta: Value| {
        json!({
            "model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": 100, "hidden_size": 32,
            "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48, "global_rope_theta": 7000.0,
            "global_attn_every_n_layers": every, "local_rope_theta": local_theta,
        })
        .to_string()
    };
    let (shape, head) = from_config_json(&text(1, json!(10_000.0))).unwrap();
    assert_eq!((shape.rope_theta, shape.layers, head), (7000.0, 4, Head::MaskedLm));
    assert_eq!(shape.local_attention, None);
    for (said, is) in [(json!(500.0), 500.0), (Value::Null, 7000.0)] {
        let (shape, _) = from_config_json(&text(3, said)).unwrap();
        let local = LocalAttention { global_every: 3, window: 128, rope_theta: is };
        assert_eq!(shape.local_attention, Some(local));
    }
}

/// ModernBERT-base as it was published.
#[test]
fn the_published_modern_bert_is_understood() {
    let text = r#"{
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": false, "classifier_dropout": 0.0,
        "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": true, "deterministic_flash_attn": false,
        "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "gradient_checkpointing": false, "hidden_activation": "gelu",
        "hidden_size": 768, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "intermediate_size": 1152,
        "layer_norm_eps": 1e-05, "local_attention": 128, "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192, "mlp_bias": false, "mlp_dropout": 0.0, "model_type": "modernbert",
        "norm_bias": false, "norm_eps": 1e-05, "num_attention_heads": 12, "num_hidden_layers": 22,
        "pad_token_id": 50283, "position_embedding_type": "absolute", "sep_token_id": 50282,
        "tie_word_embeddings": true, "torch_dtype": "float32", "vocab_size": 50368
    }"#;
    let (shape, head) = from_config_json(text).unwrap();
    assert_eq!((shape.layers, shape.hidden, shape.vocabulary, shape.max_positions), (22, 768, 50_368, 8192));
    assert_eq!((shape.intermediate, shape.rope_theta, shape.layer_norm_epsilon), (1152, 160_000.0, 1e-5));
    let local = LocalAttention { global_every: 3, window: 128, rope_theta: 10_000.0 };
    assert_eq!((shape.local_attention, head), (Some(local), Head::MaskedLm));
}

#[test]
fn nonsense_is_named() {
    let error = |text: &str| from_config_json(text).unwrap_err().to_string();
    assert!(error("{").starts_with("config.json: "));
    assert!(error("version https://git-lfs.github.com/spec/v1\noid").contains("`git lfs pull`"));
    assert!(error(&edited(Architecture::Bert, "hidden_size", json!("wide"))).contains("`hidden_size` = \"wide\""));
    assert!(error(&edited(Architecture::Bert, "num_hidden_layers", json!(0))).contains("`num_hidden_layers` = 0"));
}

#[test]
fn special_tokens_come_from_the_tokenizer() {
    for architecture in [Architecture::Bert, Architecture::Modern] {
        let files = side_files(&shape(architecture), &Head::MaskedLm, TOKENIZER.as_bytes()).unwrap();
        let json = |name| -> Value { serde_json::from_slice(&files.iter().find(|f| f.0 == name).unwrap().1).unwrap() };
        assert_eq!(json("config.json")["pad_token_id"], 3);
        // transformers' own default is an id beyond a small vocabulary, on which it stops.
        let absent = if architecture == Architecture::Modern { "sep_token_id" } else { "nothing" };
        assert_eq!(json("config.json")[absent], Value::Null);
        assert_eq!(json("special_tokens_map.json"), json!({ "pad_token": "[PAD]", "cls_token": "[CLS]" }));
        assert_eq!(json("tokenizer_config.json")["model_max_length"], 512);
        assert_eq!(json("tokenizer.json")["model"]["vocab"]["x"], 8);
    }
}
