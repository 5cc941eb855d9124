//! Fine-tuning of a part of a model: frozen layers, rates that fall layer by layer.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::{finetuning, pretraining};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

const LABELLED: &str = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"\nunit_rows = 4";

fn config(model: &str, optimizer: &str) -> String {
    finetuning(LABELLED, "kind = \"classify\"", "run:test")
        .replace("steps = 40", "steps = 8")
        .replace("every_steps = 0", "every_steps = 4")
        .replace("max_positions = 64", &format!("max_positions = 64\ndropout = 0.1\n{model}"))
        .replace("[optimizer]", &format!("[optimizer]\n{optimizer}"))
}

fn parent() -> Cluster {
    undisturbed(&pretraining("").replace("steps = 30", "steps = 2"), 1).1
}

/// A run of so many workers from the parent.
fn from(parent: &Path, config: &str, workers: usize) -> (String, Cluster) {
    let mut cluster = Cluster::new(config, workers);
    let members: Vec<usize> = (0..workers).collect();
    cluster.assign(&members, &Plan { parent: Some(parent.to_owned()), ..Plan::default() });
    (cluster.digest(&members), cluster)
}

fn weights(folder: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    model::safetensors_io::read(&bytes).unwrap().into_iter().collect()
}

fn optimizer_files(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("optimizer-"));
    let names = |path: PathBuf| model::safetensors_io::read(&std::fs::read(path).unwrap()).unwrap();
    files.flat_map(names).map(|(name, _)| name).collect()
}

/// One, two and three workers; two of which one goes on alone; and one that reads the other's checkpoint.
fn exact(parent: &Path, config: &str) -> Cluster {
    let (expected, alone) = from(parent, config, 1);
    for workers in [2, 3] {
        let (digest, cluster) = from(parent, config, workers);
        assert_eq!(digest, expected, "{workers} workers");
        assert_eq!(alone.timeless(), cluster.timeless(), "{workers} workers");
    }
    let mut first = Cluster::new(config, 2);
    let plan = Plan { parent: Some(parent.to_owned()), pause_after: Some(3), ..Plan::default() };
    first.assign(&[0, 1], &plan);
    first.verdict(0);
    first.verdict(1);
    let stored = first.checkpoint(3);
    let joiner = first.add_worker();
    first.assign(&[1, joiner], &Plan::default());
    assert_eq!(first.digest(&[1, joiner]), expected, "one of two goes on with another");
    let mut other = Cluster::new(config, 2);
    other.assign(&[0, 1], &Plan { restore: Some(stored), ..Plan::default() });
    assert_eq!(other.digest(&[0, 1]), expected, "from the checkpoint");
    alone
}

#[test]
fn frozen_layers_stay_as_they_are_bit_for_bit() {
    let parent = parent();
    let before = weights(&parent.checkpoint(2));
    for (model, optimizer) in [
        ("frozen_layers = 1", "layer_decay = 0.8"),
        ("frozen_layers = 1", "ema_decay = 0.9"),
        ("frozen_layers = 2", "kind = \"muon\""),
        ("frozen_layers = 0", "kind = \"lamb\""),
    ] {
        let cluster = exact(&parent.checkpoint(2), &config(model, optimizer));
        let layers: i64 = model.rsplit(' ').next().unwrap().parse().unwrap();
        let is_frozen = |name: &str| {
            name.contains("embeddings") || (0..layers).any(|layer| name.contains(&format!("encoder.layer.{layer}.")))
        };
        let moments = optimizer_files(&cluster.checkpoint(8));
        let mut changed = 0;
        for (name, after) in weights(&cluster.checkpoint(8)) {
            let frozen = is_frozen(&name);
            let same = before.get(&name).is_some_and(|before| before.equal(&after));
            assert!(same || !frozen, "{name} changed with {model}");
            changed += usize::from(!same);
            let kept = moments.iter().any(|moment| moment.ends_with(&format!(".{name}")));
            assert_eq!(kept, !frozen, "the optimizer's memory of {name}");
        }
        assert!(changed > 2, "{changed} parameters were trained");
    }
}

#[test]
fn frozen_layers_in_fast_mode_are_frozen_too() {
    let parent = parent();
    let exact = config("frozen_layers = 1", "");
    let fast = format!("{exact}[reduce]\nmode = \"fast\"\n");
    let [exact, fast] = [exact, fast].map(|config| weights(&from(&parent.checkpoint(2), &config, 2).1.checkpoint(8)));
    for (name, exact) in &exact {
        let difference = (exact - &fast[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-3, "{name}: {difference}");
        assert!(difference == 0.0 || !name.contains("embeddings"), "{name}: {difference}");
    }
}

#[test]
fn lower_layers_move_less_where_their_rate_is_lower() {
    let parent = parent();
    let before = weights(&parent.checkpoint(2));
    let moved = |optimizer: &str, part: &str| {
        let (_, cluster) = from(&parent.checkpoint(2), &config("", optimizer), 1);
        let after = weights(&cluster.checkpoint(8));
        let distances = before.iter().filter(|(name, _)| name.contains(part));
        distances.map(|(name, before)| (&after[name] - before).norm().double_value(&[])).sum::<f64>()
    };
    for part in ["embeddings", "layer.0", "layer.1"] {
        assert!(moved("layer_decay = 0.1", part) < 0.5 * moved("", part), "{part}");
    }
    let decayed = ["embeddings", "layer.0", "layer.1"].map(|part| moved("layer_decay = 0.1", part));
    assert!(decayed[0] < decayed[1] && 3.0 * decayed[1] < decayed[2], "{decayed:?}");
}

const LORA: &str = "[lora]\nrank = 2\nalpha = 8\ndropout = 0.1\ntargets = [\"query\", \"value\", \"feed_forward\"]\n";

#[test]
fn adapters_are_learned_and_leave_the_rest_as_it_is() {
    let parent = parent();
    let before = weights(&parent.checkpoint(2));
    for optimizer in ["layer_decay = 0.9", "kind = \"muon\""] {
        let cluster = exact(&parent.checkpoint(2), &format!("{}{LORA}", config("", optimizer)));
        let moments = optimizer_files(&cluster.checkpoint(8));
        assert!(moments.iter().any(|name| name.starts_with("weights.") && name.ends_with("query.lora_A.weight")));
        for (name, after) in weights(&cluster.checkpoint(8)) {
            assert!(!name.contains("lora"), "{name}: exported as Hugging Face's model");
            let targets = ["query.weight", "value.weight", "intermediate.dense.weight", "output.dense.weight"];
            let adapted = targets.iter().any(|target| name.ends_with(target)) && !name.contains("attention.output");
            let of_encoder = name.contains("encoder.layer") || name.contains("embeddings");
            let same = before.get(&name).is_some_and(|before| before.equal(&after));
            assert_eq!(same, of_encoder && !adapted, "{name}");
            let kept =
                moments.iter().any(|moment| moment.starts_with("exp_avg") && moment.ends_with(&format!(".{name}")));
            assert!(!kept || !of_encoder, "the optimizer's memory of {name}");
            assert_eq!(moments.contains(&format!("base.{name}")), adapted, "{name}");
        }
    }
}

#[test]
fn adapters_learn_classes() {
    let parent = parent();
    let lora =
        LORA.replace("rank = 2", "rank = 8").replace("[\"query\",", "[\"query\", \"key\", \"attention_output\",");
    let config = format!("{}{lora}", config("", "").replace("steps = 8", "steps = 200").replace("3e-3", "1e-2"));
    let (_, cluster) = from(&parent.checkpoint(2), &config, 2);
    let accuracy = cluster.metric(0, "eval/accuracy").unwrap();
    assert!(accuracy > 0.6, "three classes, of words that the embeddings know little of: {accuracy}");
}

#[test]
fn a_run_goes_on_from_what_adapters_made_of_a_model() {
    let parent = parent();
    let (_, first) = from(&parent.checkpoint(2), &format!("{}{LORA}", config("", "")), 1);
    let (_, second) = from(&first.checkpoint(8), &config("frozen_layers = 2", ""), 1);
    let [one, other] = [&first, &second].map(|cluster| weights(&cluster.checkpoint(8)));
    let query = "bert.encoder.layer.0.attention.self.query.weight";
    assert!(one[query].equal(&other[query]));
}

#[test]
fn layers_that_the_model_of_another_run_does_not_have_are_refused() {
    let parent = parent();
    let config = config("frozen_layers = 3", "").replace("\nlayers = 2", "");
    let mut cluster = Cluster::new(&config, 1);
    cluster.assign(&[0], &Plan { parent: Some(parent.checkpoint(2)), ..Plan::default() });
    let verdict = format!("{:?}", cluster.verdict(0));
    assert!(verdict.contains("Fatal") && verdict.contains("model.frozen_layers: 3 of the 2 layers"), "{verdict}");
}
