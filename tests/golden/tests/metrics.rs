//! Accuracy, F1, Matthews' correlation, entity scores, answers and correlations against scikit-learn, seqeval, SQuAD's
//! scripts and scipy (fixtures/metrics).

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

use serde::Deserialize;
use std::collections::BTreeMap;
use trainer::metrics::correlation::{pearson, spearman};
use trainer::metrics::squad::{AnswerCounts, Script, normalised};
use trainer::metrics::{Confusion, EntityCounts};

#[derive(Deserialize)]
struct Fixture {
    classes: Vec<Classes>,
    entities: Vec<Entities>,
}

#[derive(Deserialize)]
struct Classes {
    classes: usize,
    truth: Vec<usize>,
    predicted: Vec<usize>,
    accuracy: f64,
    macro_f1: f64,
    mcc: f64,
}

#[derive(Deserialize)]
struct Entities {
    truth: Vec<Vec<String>>,
    predicted: Vec<Vec<String>>,
    precision: f64,
    recall: f64,
    f1: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/metrics/metrics.json")).unwrap()
}

fn close(name: &str, case: usize, ours: f64, expected: f64) {
    assert!((ours - expected).abs() < 1e-12, "{name} of case {case}: {ours}, expected {expected}");
}

#[test]
fn classes_as_scikit_learn_counts_them() {
    for (case, it) in fixture().classes.into_iter().enumerate() {
        let mut confusion = Confusion::new(it.classes);
        for (&truth, &predicted) in it.truth.iter().zip(&it.predicted) {
            confusion.add(truth, predicted);
        }
        close("accuracy", case, confusion.accuracy(), it.accuracy);
        close("macro F1", case, confusion.macro_f1(), it.macro_f1);
        close("MCC", case, confusion.matthews(), it.mcc);
    }
}

#[test]
fn entities_as_seqeval_counts_them() {
    for (case, it) in fixture().entities.into_iter().enumerate() {
        let mut counts = EntityCounts::default();
        for (truth, predicted) in it.truth.iter().zip(&it.predicted) {
            let [truth, predicted] = [truth, predicted].map(|tags| tags.iter().map(String::as_str).collect::<Vec<_>>());
            counts.add(&truth, &predicted);
        }
        close("precision", case, counts.precision(), it.precision);
        close("recall", case, counts.recall(), it.recall);
        close("F1", case, counts.f1(), it.f1);
    }
}

#[derive(Deserialize)]
struct Tasks {
    normalised: Vec<(String, String)>,
    answered: Questions,
    may_lack_answer: Questions,
    numbers: Vec<Numbers>,
}

#[derive(Deserialize)]
struct Questions {
    questions: Vec<(Vec<String>, String)>,
    scores: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Numbers {
    truth: Vec<f64>,
    predicted: Vec<f64>,
    pearson: f64,
    spearman: f64,
}

fn tasks() -> Tasks {
    serde_json::from_str(include_str!("../fixtures/metrics/tasks.json")).unwrap()
}

#[test]
fn answers_are_normalised_as_squads_scripts_do_it() {
    for (answer, expected) in tasks().normalised {
        assert_eq!(normalised(&answer), expected, "{answer:?}");
    }
}

#[test]
fn answers_as_squads_scripts_count_them() {
    let counted = |it: &Questions, script| {
        let mut counts = AnswerCounts::default();
        for (truths, predicted) in &it.questions {
            counts.add(truths, predicted, script);
        }
        counts
    };
    // A hundred of a hundred has two digits more than a share.
    let close = |name: &str, ours: f64, of: &Questions| {
        let expected = of.scores[name];
        assert!((ours - expected).abs() < 1e-10, "{name}: {ours}, expected {expected}");
    };
    let Tasks { answered, may_lack_answer, .. } = tasks();
    let (exact, f1) = counted(&answered, Script::Answered).all();
    close("exact_match", exact, &answered);
    close("f1", f1, &answered);
    let counts = counted(&may_lack_answer, Script::MayLackAnswer);
    let ((exact, f1), (exact_of_some, f1_of_some)) = (counts.all(), counts.with_answer().unwrap());
    close("exact_match", exact, &may_lack_answer);
    close("f1", f1, &may_lack_answer);
    close("has_answer_exact_match", exact_of_some, &may_lack_answer);
    close("has_answer_f1", f1_of_some, &may_lack_answer);
    close("no_answer_exact_match", counts.without_answer().unwrap().0, &may_lack_answer);
    assert!(f1 > 20.0 && f1 < 80.0 && exact < f1, "{exact}, {f1}: the fixture tells something apart");
}

#[test]
fn correlations_as_scipy_computes_them() {
    for (case, it) in tasks().numbers.into_iter().enumerate() {
        close("Pearson", case, pearson(&it.truth, &it.predicted).unwrap(), it.pearson);
        close("Spearman", case, spearman(&it.truth, &it.predicted).unwrap(), it.spearman);
    }
}
