//! Labels on standard output, and how many are right.

use super::{Item, Labelled};
use crate::cli::Problem;
use serde_json::{Map, Value, json};
use std::io::Write;
use trainer::metrics::Confusion;

/// Prints labels as text or as JSON lines, and counts them.
pub(super) struct Printer {
    labels: Vec<String>,
    json: bool,
    counts: Option<Confusion>,
}

impl Printer {
    /// `labelled`: whether the right labels are known.
    pub(super) fn new(labels: Vec<String>, json: bool, labelled: bool) -> Self {
        let counts = labelled.then(|| Confusion::new(labels.len()));
        Self { labels, json, counts }
    }

    /// One line for each text.
    pub(super) fn print(&mut self, items: &[Item], labelled: &[Labelled]) -> Result<(), Problem> {
        let mut out = std::io::stdout().lock();
        for (item, labelled) in items.iter().zip(labelled) {
            let best = best(&labelled.scores);
            self.count(item, best)?;
            let line = if self.json {
                self.json_line(item, labelled, best).to_string()
            } else {
                let pair = item.pair.as_ref().map(|pair| format!("\t{pair}")).unwrap_or_default();
                format!("{}\t{:.4}\t{}{pair}", self.labels[best], labelled.scores[best], item.text)
            };
            writeln!(out, "{line}").map_err(failed)?;
        }
        out.flush().map_err(failed)
    }

    /// What all of them together are.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        let Some(counts) = self.counts.as_ref().filter(|counts| counts.total() > 0) else { return Ok(()) };
        let (accuracy, f1, mcc) = (counts.accuracy(), counts.macro_f1(), counts.matthews());
        let line = if self.json {
            json!({ "metrics": { "texts": counts.total(), "accuracy": accuracy, "macro_f1": f1, "mcc": mcc } })
                .to_string()
        } else {
            format!("{} texts: accuracy {accuracy:.4}, macro F1 {f1:.4}, MCC {mcc:.4}", counts.total())
        };
        writeln!(std::io::stdout().lock(), "{line}").map_err(failed)
    }

    fn count(&mut self, item: &Item, best: usize) -> Result<(), Problem> {
        let (Some(counts), Some((truth, number))) = (&mut self.counts, &item.truth) else { return Ok(()) };
        let index = self.labels.iter().position(|label| label == truth).ok_or_else(|| {
            let text = format!("text {number}: `{truth}` is none of the labels {}", self.labels.join(", "));
            Problem::input(text).with_help("correct the line, or give the label its words with --label")
        })?;
        counts.add(index, best);
        Ok(())
    }

    fn json_line(&self, item: &Item, labelled: &Labelled, best: usize) -> Value {
        let scores: Map<String, Value> =
            self.labels.iter().cloned().zip(labelled.scores.iter().map(|score| json!(score))).collect();
        let mut line = json!({
            "text": item.text,
            "label": self.labels[best],
            "score": labelled.scores[best],
            "scores": scores,
            "cut": labelled.cut,
        });
        if let Some(pair) = &item.pair {
            line["pair"] = json!(pair);
        }
        if let Some((truth, _)) = &item.truth {
            line["truth"] = json!(truth);
        }
        line
    }
}

fn failed(error: std::io::Error) -> Problem {
    Problem::failure(format!("the output cannot be written: {error}"))
}

/// The first of the greatest.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(truth: &str) -> Item {
        Item { text: "a film".into(), pair: None, truth: Some((truth.into(), 7)) }
    }

    #[test]
    fn lines_are_counted_and_strange_labels_named() {
        let mut printer = Printer::new(vec!["no".into(), "yes".into()], true, true);
        let yes = || Labelled { scores: vec![0.25, 0.75], cut: false };
        printer.print(&[item("yes"), item("no"), item("yes")], &[yes(), yes(), yes()]).ok().unwrap();
        let counts = printer.counts.as_ref().unwrap();
        assert_eq!((counts.total(), counts.accuracy()), (3, 2.0 / 3.0));
        let (message, help) = printer.print(&[item("maybe")], &[yes()]).err().unwrap().into_text_and_help();
        assert!(message.contains("text 7: `maybe` is none of the labels no, yes") && help.is_some(), "{message}");
        let line = printer.json_line(&item("no"), &yes(), 1);
        assert_eq!(
            (&line["label"], &line["scores"]["no"], &line["truth"]),
            (&json!("yes"), &json!(0.25), &json!("no"))
        );
        assert_eq!(best(&[0.5, 0.5]), 0);
    }
}
