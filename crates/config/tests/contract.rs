//! The config keys that every run has, which scripts rely on: none may go, and `--set` changes each.

#![allow(clippy::unwrap_used)]

use config::{Override, json_schema, load_checked};
use std::path::Path;

/// Each with a value that goes with the rest of configs/bert-base-8gpu.toml.
const KEYS: [(&str, &str); 67] = [
    ("run.name", "\"other\""),
    ("run.kind", "\"pretrain\""),
    ("run.steps", "17"),
    ("run.seed", "18"),
    ("run.precision", "\"bfloat16\""),
    ("run.min_workers", "2"),
    ("run.max_workers", "7"),
    ("data.paths", "[\"/corpus.parquet\"]"),
    ("data.column", "\"body\""),
    ("tokenizer.path", "\"/vocab.txt\""),
    ("model.architecture", "\"bert\""),
    ("model.size", "\"tiny\""),
    ("model.layers", "3"),
    ("model.hidden", "96"),
    ("model.heads", "6"),
    ("model.intermediate", "100"),
    ("model.vocabulary", "1000"),
    ("model.max_positions", "256"),
    ("model.activation", "\"relu\""),
    ("model.dropout", "0.2"),
    ("model.attention_dropout", "0.3"),
    ("model.layer_norm_epsilon", "0.001"),
    ("model.initializer_range", "0.05"),
    ("model.initializer", "\"truncated_normal\""),
    ("model.rope_theta", "500.0"),
    ("objective.kind", "\"mlm\""),
    ("objective.mask_rate", "0.3"),
    ("objective.mask_token_share", "0.5"),
    ("objective.random_token_share", "0.2"),
    ("objective.whole_word", "true"),
    ("objective.short_sequence_probability", "0.4"),
    ("objective.max_predictions", "9"),
    ("objective.labels", "[\"a\", \"b\"]"),
    ("objective.pooling", "\"mean\""),
    ("objective.tag_scheme", "\"bio\""),
    ("batch.slots", "16"),
    ("batch.micro_batch", "3"),
    ("batch.accumulate", "2"),
    ("batch.sequence_length", "64"),
    ("reduce.mode", "\"fast\""),
    ("reduce.compression", "\"none\""),
    ("reduce.backend", "\"gloo\""),
    ("optimizer.kind", "\"lamb\""),
    ("optimizer.learning_rate", "0.5"),
    ("optimizer.beta1", "0.8"),
    ("optimizer.beta2", "0.9"),
    ("optimizer.epsilon", "0.25"),
    ("optimizer.weight_decay", "0.5"),
    ("optimizer.bias_correction", "true"),
    ("optimizer.clip_norm", "2.5"),
    ("optimizer.muon_learning_rate", "0.75"),
    ("optimizer.muon_momentum", "0.5"),
    ("optimizer.muon_iterations", "4"),
    ("schedule.warmup", "0.125"),
    ("schedule.decay", "\"cosine\""),
    ("schedule.hold", "0.5"),
    ("schedule.power", "2.0"),
    ("schedule.final_ratio", "0.25"),
    ("checkpoint.every_steps", "123"),
    ("checkpoint.keep_latest", "4"),
    ("checkpoint.keep_best", "2"),
    ("eval.every_steps", "77"),
    ("eval.samples", "64"),
    ("init.from", "\"run:latest\""),
    ("data.unit_rows", "64"),
    ("data.eval_fraction", "0.25"),
    ("tokenizer.lowercase", "false"),
];

#[test]
fn every_key_of_the_contract_is_there_and_can_be_set() {
    let schema = json_schema();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/bert-base-8gpu.toml");
    for (key, value) in KEYS {
        let (section, name) = key.split_once('.').unwrap();
        let definition = schema["properties"][section]["$ref"].as_str().unwrap().trim_start_matches("#/$defs/");
        assert!(schema["$defs"][definition]["properties"].get(name).is_some(), "{key} has gone");
        let set: Override = format!("{key}={value}").parse().unwrap();
        let config = load_checked(&file, std::slice::from_ref(&set)).unwrap_or_else(|error| panic!("{error}"));
        let resolved: toml::Table = config::to_toml(&config).parse().unwrap();
        assert_eq!(resolved[section][name], set.value, "{key}");
    }
}
