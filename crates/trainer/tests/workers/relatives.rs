//! ALBERT, ELECTRA, DistilBERT and RoBERTa: bit-identical for every number of workers, and resumable, like BERT.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::{finetuning, pretraining};
use crate::process::{self, Verdict};
use model::safetensors_io;
use std::path::Path;

/// A short run of another architecture and objective.
fn short(architecture: &str, objective: &str, extra: &str) -> String {
    let config = pretraining(extra).replace("steps = 30", "steps = 8").replace("every_steps = 15", "every_steps = 4");
    let config = config.replace("kind = \"mlm_nsp\"", objective);
    assert!(config.contains(objective), "{config}");
    let with = format!("[model]\narchitecture = \"{architecture}\"");
    let config = config.replacen("[model]", &with, 1);
    assert!(config.contains(&with), "{config}");
    config
}

fn names(checkpoint: &Path, file: &str) -> Vec<String> {
    let files = process::read(checkpoint).files;
    let tensors = safetensors_io::read(&files[file]).unwrap();
    tensors.into_iter().map(|(name, _)| name).collect()
}

/// The same run on one worker, on two, and on two that go on from the checkpoint of the first half.
fn same_for_any_number(config: &str, parent: Option<&Path>) -> Cluster {
    let plan = || Plan { parent: parent.map(Path::to_owned), ..Plan::default() };
    let mut alone = Cluster::new(config, 1);
    alone.assign(&[0], &plan());
    let expected = alone.digest(&[0]);
    let mut pair = Cluster::new(config, 2);
    pair.assign(&[0, 1], &plan());
    assert_eq!(pair.digest(&[0, 1]), expected);
    assert_eq!(alone.timeless(), pair.timeless(), "every number of every step is the same");
    let mut first = Cluster::new(config, 1);
    first.assign(&[0], &Plan { pause_after: Some(4), ..plan() });
    assert_eq!(first.verdict(0), Verdict::Paused(4));
    let mut second = Cluster::new(config, 2);
    second.assign(&[0, 1], &Plan { attempt: 1, restore: Some(first.checkpoint(4)), ..plan() });
    assert_eq!(second.digest(&[0, 1]), expected, "two go on from the checkpoint of step 4");
    alone
}

fn metrics(cluster: &Cluster, names: &[&str]) {
    for name in names {
        assert!(cluster.metric(0, name).is_some_and(f64::is_finite), "{name} is missing");
    }
}

#[test]
fn albert_learns_words_and_the_order_of_sentences() {
    let config = short("albert", "kind = \"mlm_sop\"\nngram_max = 3\nwhole_word = true", "");
    let config = config.replacen("[model]", "[model]\nembedding = 16", 1);
    let cluster = same_for_any_number(&config, None);
    metrics(&cluster, &["train/mlm_loss", "train/sop_loss", "eval/sop_accuracy", "eval/mlm_accuracy"]);
    assert!(cluster.metric(0, "train/nsp_loss").is_none());
    let found = names(&cluster.checkpoint(8), "model.safetensors");
    assert!(
        found.iter().all(|name| ["albert.", "predictions.", "sop_classifier."].iter().any(|it| name.starts_with(it)))
    );
}

#[test]
fn electra_learns_from_its_generator_and_keeps_it_beside_itself() {
    let config = short("electra", "kind = \"replaced_tokens\"\nmask_token_share = 0.85\nrandom_token_share = 0.0", "");
    let config = config.replacen("[model]", "[model]\nembedding = 16\ngenerator_hidden = 8\ngenerator_heads = 1", 1);
    let cluster = same_for_any_number(&config, None);
    metrics(&cluster, &["train/mlm_loss", "train/replaced_loss", "eval/replaced_accuracy", "eval/mlm_accuracy"]);
    let loss = |name: &str| cluster.metric(0, &format!("eval/{name}")).unwrap();
    assert!((loss("loss") - loss("mlm_loss") - 50.0 * loss("replaced_loss")).abs() < 1e-9);
    let checkpoint = cluster.checkpoint(8);
    let model = names(&checkpoint, "model.safetensors");
    let prefixes = ["electra.", "discriminator_predictions."];
    assert!(model.iter().all(|name| prefixes.iter().any(|it| name.starts_with(it))), "{model:?}");
    let generator = names(&checkpoint, "generator.safetensors");
    assert!(!generator.is_empty() && generator.iter().all(|name| name.starts_with("generator")), "{generator:?}");
}

#[test]
fn a_student_learns_from_a_checkpoint() {
    let (_, teacher) = undisturbed(&short("bert", "kind = \"mlm\"", ""), 1);
    let teacher = teacher.checkpoint(8);
    let distill = "[distill]\nteacher = \"run:test\"";
    let config = short("distilbert", "kind = \"distill\"", distill).replacen("layers = ", "layers = 1 # ", 1);
    let cluster = same_for_any_number(&config, Some(&teacher));
    metrics(&cluster, &["train/mlm_loss", "train/divergence_loss", "train/cosine_loss", "eval/mlm_accuracy"]);
    let part = |name: &str| cluster.metric(0, &format!("eval/{name}_loss")).unwrap();
    let expected = 2.0 * part("mlm") + 20.0 * part("divergence") + part("cosine");
    assert!((cluster.metric(0, "eval/loss").unwrap() - expected).abs() < 1e-9);
    let found = names(&cluster.checkpoint(8), "model.safetensors");
    assert!(found.iter().all(|name| name.starts_with("distilbert.") || name.starts_with("vocab_")), "{found:?}");

    // Where the predictions are compared makes a difference, and so does which layers are taken.
    let masked = config.replace(distill, &format!("{distill}\nover = \"masked\"\nlayers = [1]"));
    let mut other = Cluster::new(&masked, 1);
    other.assign(&[0], &Plan { parent: Some(teacher.clone()), ..Plan::default() });
    let digest = other.digest(&[0]);
    let mut same = Cluster::new(&config, 1);
    same.assign(&[0], &Plan { parent: Some(teacher.clone()), ..Plan::default() });
    assert_ne!(same.digest(&[0]), digest);

    // Words that are others to the teacher are refused before a student learns nonsense from it.
    let foreign = tempfile::tempdir().unwrap();
    for (name, bytes) in process::read(&teacher).files {
        std::fs::write(foreign.path().join(name), bytes).unwrap();
    }
    let words = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\nwind\n";
    let other = corpus::Tokenizer::from_bytes("vocab.txt", words, true).unwrap();
    std::fs::write(foreign.path().join("tokenizer.json"), other.bytes()).unwrap();
    let mut student = Cluster::new(&config, 1);
    student.assign(&[0], &Plan { parent: Some(foreign.path().to_owned()), ..Plan::default() });
    let Verdict::Fatal(reason) = student.verdict(0) else { panic!("it was accepted") };
    assert!(reason.contains("distill.teacher") && reason.contains("does not belong to the model"), "{reason}");

    // A teacher of another size is refused.
    let mut wider = Cluster::new(&config.replace("hidden = 32", "hidden = 64"), 1);
    wider.assign(&[0], &Plan { parent: Some(teacher), ..Plan::default() });
    let Verdict::Fatal(reason) = wider.verdict(0) else { panic!("it was accepted") };
    assert!(reason.contains("model.hidden: 64, but the model of distill.teacher has 32"), "{reason}");
}

/// As `config`, with byte-level pieces.
fn byte_level(config: &str) -> String {
    let (words, bytes) = ("path = \"vocab.txt\"", "path = \"byte-level/vocab.json\"");
    assert!(config.contains(words), "{config}");
    config.replace(words, bytes)
}

#[test]
fn roberta_learns_words_and_then_classes() {
    let objective = "kind = \"mlm\"\npacking = \"full-sentences\"\nwhole_word = true";
    let config = byte_level(&short("roberta", objective, ""));
    let cluster = same_for_any_number(&config, None);
    metrics(&cluster, &["train/mlm_loss", "eval/mlm_loss", "eval/mlm_accuracy"]);
    assert!(cluster.metric(0, "train/nsp_loss").is_none());
    let checkpoint = cluster.checkpoint(8);
    let found = names(&checkpoint, "model.safetensors");
    assert!(found.iter().all(|name| name.starts_with("roberta.") || name.starts_with("lm_head.")), "{found:?}");
    let written: serde_json::Value = serde_json::from_slice(&process::read(&checkpoint).files["config.json"]).unwrap();
    assert_eq!((&written["max_position_embeddings"], &written["pad_token_id"]), (&66.into(), &1.into()));

    let data = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"";
    let tuning = byte_level(&finetuning(data, "kind = \"classify\"", "run:test")).replace("steps = 40", "steps = 6");
    let mut digests = Vec::new();
    for workers in [vec![0], vec![0, 1]] {
        let mut cluster = Cluster::new(&tuning, workers.len());
        cluster.assign(&workers, &Plan { parent: Some(checkpoint.clone()), ..Plan::default() });
        digests.push(cluster.digest(&workers));
        let found = names(&cluster.checkpoint(6), "model.safetensors");
        assert!(found.contains(&"classifier.out_proj.weight".to_owned()), "{found:?}");
        assert!(!found.iter().any(|name| name.contains("pooler")), "{found:?}");
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn spans_are_learned_from_what_stands_beside_them() {
    let objective = "kind = \"mlm\"\nmasking = \"span\"\nspan_boundary = true\npacking = \"doc-sentences\"";
    let config = short("bert", objective, "");
    let cluster = same_for_any_number(&config, None);
    metrics(&cluster, &["train/mlm_loss", "train/span_boundary_loss", "eval/span_boundary_accuracy"]);
    let loss = |name: &str| cluster.metric(0, &format!("eval/{name}")).unwrap();
    assert!((loss("loss") - loss("mlm_loss") - loss("span_boundary_loss")).abs() < 1e-9);
    let checkpoint = cluster.checkpoint(8);
    let model = names(&checkpoint, "model.safetensors");
    assert!(model.iter().all(|name| name.starts_with("bert.") || name.starts_with("cls.predictions.")), "{model:?}");
    let head = names(&checkpoint, "span_boundary.safetensors");
    assert!(head.len() == 10 && head.iter().all(|name| name.starts_with("span_boundary.")), "{head:?}");

    // The other loss reaches the encoder.
    let mut without = Cluster::new(&config.replace("span_boundary = true\n", ""), 1);
    without.assign(&[0], &Plan::default());
    without.digest(&[0]);
    assert!(without.metric(0, "eval/mlm_loss") != cluster.metric(0, "eval/mlm_loss"));
}
