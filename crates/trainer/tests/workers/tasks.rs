//! Questions and answers, numbers, pairs that match and choices: learned on a small set, and exactly so by any number of
//! workers.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::finetuning;

const QUESTIONS: &str = "paths = [\"questions.json\"]\nunit_rows = 4\ngroup_column = \"title\"";
const SCORED: &str = "paths = [\"scored.jsonl\"]\nlabel_column = \"score\"\nunit_rows = 4";
const CHOICES: &str = "paths = [\"choices.jsonl\"]\npair_column = \"question\"\nchoice_columns = [\"choices\"]\n\
                       label_column = \"right\"\nunit_rows = 4";
const PAIRS: &str = "paths = [\"pairs.jsonl\"]\npair_column = \"other\"\nunit_rows = 8";

fn long(config: &str, steps: u32) -> String {
    config.replace("steps = 40", &format!("steps = {steps}"))
}

/// The same weights and the same numbers by one, two and three workers.
fn exact(config: &str) {
    let short = long(config, 6).replace("every_steps = 0", "every_steps = 3");
    let (expected, alone) = undisturbed(&short, 1);
    for workers in [2, 3] {
        let (digest, cluster) = undisturbed(&short, workers);
        assert_eq!(digest, expected, "{workers} workers");
        assert_eq!(alone.timeless(), cluster.timeless(), "{workers} workers");
    }
    let mut first = Cluster::new(&short, 2);
    first.assign(&[0, 1], &Plan { pause_after: Some(2), ..Plan::default() });
    first.verdict(0);
    first.verdict(1);
    first.assign(&[1], &Plan::default());
    assert_eq!(first.digest(&[1]), expected, "one of two goes on");
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    cluster.metric(0, &format!("eval/{name}")).unwrap_or_else(|| panic!("no eval/{name}"))
}

#[test]
fn answers_are_found_in_long_passages() {
    let config = finetuning(QUESTIONS, "kind = \"answer\"\nstride = 8\nmax_answer_length = 4", "");
    let (_, cluster) = undisturbed(&long(&config, 200), 2);
    let (exact_match, f1) = (metric(&cluster, "exact_match"), metric(&cluster, "f1"));
    assert!(exact_match > 80.0 && f1 >= exact_match && f1 <= 100.0, "{exact_match}, {f1}");
}

#[test]
fn that_there_is_no_answer_is_learned_too() {
    let data = QUESTIONS.replace("questions", "questions-v2");
    let config = finetuning(&data, "kind = \"answer\"\nno_answer_threshold = 0.0", "");
    let (_, cluster) = undisturbed(&long(&config, 250), 2);
    for name in ["exact_match", "has_answer_exact_match", "no_answer_exact_match", "has_answer_f1"] {
        assert!(metric(&cluster, name) > 70.0, "{name}: {}", metric(&cluster, name));
    }
}

#[test]
fn answers_are_exact() {
    exact(&finetuning(
        &QUESTIONS.replace("questions", "questions-v2"),
        "kind = \"answer\"\nno_answer_threshold = 0.0",
        "",
    ));
}

#[test]
fn numbers_are_learned_and_exact() {
    let config = finetuning(SCORED, "kind = \"classify\"\nregression = true\npooling = \"mean\"", "");
    let (_, cluster) = undisturbed(&long(&config, 150), 2);
    let (pearson, spearman) = (metric(&cluster, "pearson"), metric(&cluster, "spearman"));
    assert!(pearson > 0.8 && spearman > 0.8, "{pearson}, {spearman}");
    exact(&config);
}

#[test]
fn pairs_are_told_from_other_pairs_and_exactly() {
    let config = finetuning(PAIRS, "kind = \"match\"", "").replace("micro_batch = 4", "micro_batch = 8");
    let (_, before) = undisturbed(&long(&config, 1), 1);
    let (_, cluster) = undisturbed(&long(&config, 150), 2);
    let (first, accuracy) = (metric(&before, "loss"), metric(&cluster, "accuracy"));
    assert!(accuracy > 0.8 && metric(&cluster, "loss") < first, "{accuracy}, {first}");
    exact(&config);
}

#[test]
fn choices_are_learned_and_exactly() {
    let config = finetuning(CHOICES, "kind = \"choose\"", "").replace("micro_batch = 4", "micro_batch = 3");
    let (_, before) = undisturbed(&long(&config, 1), 1);
    let (_, cluster) = undisturbed(&long(&config, 150), 2);
    let (first, accuracy) = (metric(&before, "loss"), metric(&cluster, "accuracy"));
    assert!(accuracy > 0.8 && metric(&cluster, "loss") < first, "{accuracy}, {first}");
    exact(&config);
    // Without padding, with dropout, a layer that is frozen, and groups of texts kept together; and with adapters.
    let unpadded = config.replace("sequence_length = 32", "sequence_length = 32\npadding = \"unpadded\"");
    exact(
        &unpadded
            .replace("heads = 2", "heads = 2\ndropout = 0.1\nfrozen_layers = 1")
            .replace("unit_rows", "group_column = \"kind\"\nunit_rows"),
    );
    exact(&format!("{config}[lora]\nrank = 2\n"));
}

#[test]
fn the_words_of_prompts_are_learned_and_exactly() {
    let data = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"\nunit_rows = 4";
    let words = "{ class0 = [\"waa\"], class1 = [\"wcb\", \"wca\"], class2 = [\"wec\"] }";
    let config =
        finetuning(data, &format!("kind = \"cloze\"\nprompt = \"{{text}} . [MASK] .\"\nverbalizers = {words}"), "");
    let (_, cluster) = undisturbed(&long(&config, 150), 2);
    let (accuracy, f1) = (metric(&cluster, "accuracy"), metric(&cluster, "macro_f1"));
    assert!(accuracy > 0.8 && f1 > 0.8, "{accuracy}, {f1}");
    exact(&config);
}
