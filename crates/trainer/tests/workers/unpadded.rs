//! Rows without padding, local attention and layers that are run again: exact for every number of workers, and what they
//! stand for computes the same.

use crate::cluster::{Cluster, undisturbed};
use crate::data::{finetuning, pretraining};

/// With rows of all lengths.
fn short(config: &str) -> String {
    let config = config.replace("steps = 30", "steps = 8").replace("every_steps = 15", "every_steps = 8");
    config.replace("[objective]", "[objective]\nshort_sequence_probability = 0.5")
}

fn unpadded(config: &str) -> String {
    assert_eq!(config.matches("sequence_length = 32").count(), 1);
    config.replace("sequence_length = 32", "sequence_length = 32\npadding = \"unpadded\"")
}

fn checkpointed(config: &str) -> String {
    config.replace("[run]", "[run]\nactivation_checkpointing = true")
}

/// ModernBERT with a window of 8 tokens in every second layer, and dropout.
fn modern() -> String {
    let local = "architecture = \"modern\"\nglobal_attn_every_n_layers = 2\nlocal_attention = 8\ndropout = 0.1";
    pretraining("").replace("mlm_nsp", "mlm").replace("dropout = 0.1", local)
}

#[test]
fn without_padding_any_number_of_workers_ends_with_the_same_bits() {
    for config in [short(&pretraining("")), short(&modern())] {
        let config = unpadded(&config);
        let (one, alone) = undisturbed(&config, 1);
        let (three, cluster) = undisturbed(&config, 3);
        assert_eq!(three, one);
        let logs = [&alone, &cluster].map(Cluster::timeless);
        assert_eq!(logs[0], logs[1], "every number of every step is the same");
    }
}

#[test]
fn without_padding_a_run_learns_what_it_learns_with_it() {
    for config in [pretraining(""), modern()] {
        // Dropout hits other weights.
        let config = short(&config).replace("dropout = 0.1", "dropout = 0.0");
        let (padded_digest, padded) = undisturbed(&config, 1);
        let (digest, cluster) = undisturbed(&unpadded(&config), 1);
        assert_ne!(digest, padded_digest, "the key is read");
        let losses = |cluster: &Cluster| -> Vec<f64> {
            let log = cluster.log(0);
            let all = log.iter().flat_map(|line| &line.metrics);
            all.filter(|(name, _)| name.ends_with("loss")).map(|(_, value)| *value).collect()
        };
        let (found, expected) = (losses(&cluster), losses(&padded));
        assert!(found.len() > 8 && found.len() == expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} and not {expected}");
        }
    }
}

#[test]
fn layers_that_are_run_again_leave_the_bits_as_they_are() {
    for config in [short(&pretraining("")), short(&modern()), unpadded(&short(&modern()))] {
        let (plain, _) = undisturbed(&config, 1);
        let (again, _) = undisturbed(&checkpointed(&config), 2);
        assert_eq!(again, plain, "{config}");
    }
    // DDP's hooks find the gradients, too.
    let fast = short(&pretraining("[reduce]\nmode = \"fast\""));
    assert_eq!(undisturbed(&checkpointed(&fast), 2).0, undisturbed(&fast, 2).0);
}

#[test]
fn labelled_samples_need_no_padding() {
    const TEXTS: &str = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"\nunit_rows = 4";
    const WORDS: &str = "paths = [\"plainly-tagged.txt\"]\nformat = \"word-tag\"\nunit_rows = 4";
    for (data, objective) in [
        (TEXTS, "kind = \"classify\""),
        (TEXTS, "kind = \"classify\"\npooling = \"mean\""),
        (WORDS, "kind = \"tag\"\ntag_scheme = \"bio\""),
    ] {
        let config = unpadded(&finetuning(data, objective, "").replace("steps = 40", "steps = 100"));
        let (one, alone) = undisturbed(&config, 1);
        assert_eq!(undisturbed(&config, 2).0, one, "{objective}");
        let accuracy = alone.metric(0, "eval/accuracy").unwrap();
        assert!(accuracy > 0.9, "{objective}: {accuracy}");
    }
}

/// All of configs/long-sequences.toml on rows of 512 tokens: windows of 64 in layers that are run again, accumulated.
#[test]
fn rows_of_512_tokens_go_through_local_layers_alike_for_any_number_of_workers() {
    let long = unpadded(&checkpointed(&short(&modern())))
        .replace("sequence_length = 32", "sequence_length = 512")
        .replace("max_positions = 64", "max_positions = 512")
        .replace("local_attention = 8", "local_attention = 64")
        .replace("unit_rows = 8", "unit_rows = 20")
        .replace("eval_fraction = 0.1", "eval_fraction = 0.2")
        .replace("steps = 8", "steps = 3");
    let (one, alone) = undisturbed(&long, 1);
    assert_eq!(undisturbed(&long, 2).0, one);
    let loss = alone.metric(0, "eval/loss").unwrap();
    assert!(loss.is_finite() && loss < 66_f64.ln() + 0.5, "{loss}");
    // The network is one that sees less than all.
    assert_ne!(undisturbed(&long.replace("local_attention = 64", "local_attention = 16"), 1).0, one);
}
