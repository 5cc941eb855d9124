//! Fine-tuning from another run's checkpoint.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::{finetuning, pretraining};
use crate::process::Verdict;

const LABELLED: &str = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"\nunit_rows = 4";
const TAGGERS: [&str; 6] = ["accuracy", "macro_f1", "mcc", "entity_precision", "entity_recall", "entity_f1"];
const TAGGED: &str = "paths = [\"tagged.txt\"]\nformat = \"word-tag\"\nunit_rows = 4";

#[test]
fn a_classifier_learns_from_a_parents_encoder() {
    let short = pretraining("").replace("steps = 30", "steps = 4");
    let (_, parent) = undisturbed(&short, 1);
    let config = finetuning(LABELLED, "kind = \"classify\"", "run:test").replace("steps = 40", "steps = 120");
    let mut digests = Vec::new();
    for workers in [1, 2] {
        let mut cluster = Cluster::new(&config, workers);
        let members: Vec<usize> = (0..workers).collect();
        cluster.assign(&members, &Plan { parent: Some(parent.checkpoint(4)), ..Plan::default() });
        digests.push(cluster.digest(&members));
        let accuracy = cluster.metric(0, "eval/accuracy").unwrap();
        assert!(accuracy > 0.9, "three classes with words of their own: {accuracy}");
        assert!(cluster.metric(0, "eval/mcc").unwrap() > 0.8 && cluster.metric(0, "eval/macro_f1").unwrap() > 0.8);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn nothing_is_reported_of_held_out_rows_that_have_no_label() {
    let data = format!("{LABELLED}\neval_paths = [\"unlabelled.jsonl\"]");
    let config = finetuning(&data, "kind = \"classify\"", "").replace("eval_fraction = 0.2\n", "");
    let (_, cluster) = undisturbed(&config.replace("steps = 40", "steps = 2"), 1);
    assert!(cluster.metric(0, "train/loss").is_some());
    let reported = ["eval/loss", "eval/accuracy", "eval/macro_f1", "eval/mcc"].map(|name| cluster.metric(0, name));
    assert_eq!(reported, [None; 4], "an accuracy of nothing is not 0");
}

#[test]
fn a_tagger_reports_entities() {
    let (_, cluster) = undisturbed(&finetuning(TAGGED, "kind = \"tag\"\ntag_scheme = \"bio\"", ""), 2);
    let values = TAGGERS.map(|name| cluster.metric(1, &format!("eval/{name}")).unwrap());
    assert!(values.iter().all(|value| (0.0..=1.0).contains(value)), "{values:?}");
    assert!(values[0] > 0.6, "{values:?}");
}

#[test]
fn a_tagger_that_is_always_right_has_found_every_entity() {
    // Each word has one tag, wherever it is: that is learned without a mistake.
    let plain = TAGGED.replace("tagged", "plainly-tagged");
    let config = finetuning(&plain, "kind = \"tag\"\ntag_scheme = \"bio\"", "");
    let (_, cluster) = undisturbed(&config.replace("steps = 40", "steps = 150"), 2);
    let values = TAGGERS.map(|name| cluster.metric(1, &format!("eval/{name}")).unwrap());
    assert_eq!(values, [1.0; 6], "{TAGGERS:?}");
}

#[test]
fn a_parent_of_another_shape_is_refused() {
    let short = pretraining("").replace("steps = 30", "steps = 1");
    let (_, parent) = undisturbed(&short, 1);
    let config = finetuning(LABELLED, "kind = \"classify\"", "run:test").replace("hidden = 32", "hidden = 64");
    let mut cluster = Cluster::new(&config, 1);
    cluster.assign(&[0], &Plan { parent: Some(parent.checkpoint(1)), ..Plan::default() });
    let Verdict::Fatal(reason) = cluster.verdict(0) else { panic!("it was accepted") };
    assert!(reason.contains("model.hidden: 64, but the model of init.from has 32"), "{reason}");
}
