//! Accuracy, F1, Matthews' correlation and entity scores against scikit-learn and seqeval (fixtures/metrics).

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

use serde::Deserialize;
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
