//! Predictions on standard output.

use super::model::{Prediction, Predictor, best};
use crate::cli::Problem;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Prints predictions as text or as JSON lines.
pub struct Printer {
    json: bool,
}

impl Printer {
    /// Lines for people, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// One line for each text.
    pub fn print(&mut self, predictor: &Predictor, texts: &[String]) -> Result<(), Problem> {
        let labels = predictor.labels();
        let mut out = std::io::stdout().lock();
        for (text, prediction) in texts.iter().zip(predictor.predict(texts)?) {
            let line = if self.json {
                json_line(text, labels, &prediction).to_string()
            } else {
                plain(text, labels, &prediction)
            };
            if let Err(error) = writeln!(out, "{line}") {
                return Err(Problem::failure(format!("the output cannot be written: {error}")));
            }
        }
        let _ = out.flush();
        Ok(())
    }
}

fn plain(text: &str, labels: &[String], prediction: &Prediction) -> String {
    match prediction {
        Prediction::Class(probabilities) => {
            let (label, probability) = best(probabilities).unwrap_or_default();
            format!("{}\t{probability:.4}\t{text}", labels[label])
        }
        Prediction::Tags(words) => {
            let tagged = words.iter().map(|(word, tag)| format!("{word}/{}", tag.map_or("?", |(tag, _)| &labels[tag])));
            tagged.collect::<Vec<_>>().join(" ")
        }
    }
}

fn json_line(text: &str, labels: &[String], prediction: &Prediction) -> Value {
    match prediction {
        Prediction::Class(probabilities) => {
            let (label, score) = best(probabilities).unwrap_or_default();
            let scores: Map<String, Value> =
                labels.iter().zip(probabilities).map(|(label, score)| (label.clone(), json!(score))).collect();
            json!({ "text": text, "label": labels[label], "score": score, "scores": scores })
        }
        Prediction::Tags(words) => {
            let tags: Vec<Value> = words
                .iter()
                .map(|(word, tag)| {
                    let label = tag.map(|(tag, _)| labels[tag].as_str());
                    json!({ "word": word, "tag": label, "score": tag.map(|(_, score)| score) })
                })
                .collect();
            json!({ "text": text, "tags": tags })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_predicted() {
        let labels = ["neg".to_owned(), "pos".to_owned()];
        let class = Prediction::Class(vec![0.25, 0.75]);
        assert_eq!(plain("a film", &labels, &class), "pos\t0.7500\ta film");
        assert_eq!(json_line("a film", &labels, &class)["scores"]["neg"], 0.25);
        let tags = Prediction::Tags(vec![("a".into(), Some((1, 0.9))), ("b".into(), None)]);
        assert_eq!(plain("a b", &labels, &tags), "a/pos b/?");
        assert_eq!(json_line("a b", &labels, &tags)["tags"][1], json!({"word": "b", "tag": null, "score": null}));
    }
}
