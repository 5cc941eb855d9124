//! Predictions on standard output.

use super::Text;
use super::answers::{Answerer, Asked};
use super::choices::{Posed, choose};
use super::model::{Prediction, Predictor, best};
use crate::cli::Problem;
use crate::loaded::Cuts;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Prints predictions as text or as JSON lines.
pub struct Printer {
    json: bool,
    cuts: Cuts,
}

impl Printer {
    /// Lines for people, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json, cuts: Cuts::default() }
    }

    /// One line for each text.
    pub fn print(&mut self, predictor: &Predictor, texts: &[Text]) -> Result<(), Problem> {
        let labels = predictor.labels();
        let (predictions, cut) = predictor.predict(texts)?;
        self.cuts.count(cut.iter().copied());
        write(texts.iter().zip(predictions.iter().zip(cut)).map(|(text, (said, cut))| {
            if self.json { json_line(text, labels, said, cut).to_string() } else { plain(text, labels, said) }
        }))
    }

    /// What was found for each question.
    pub(super) fn answers(&mut self, answerer: &Answerer, asked: &[Asked]) -> Result<(), Problem> {
        write(self.answer_lines(answerer, asked)?.into_iter())
    }

    fn answer_lines(&mut self, answerer: &Answerer, asked: &[Asked]) -> Result<Vec<String>, Problem> {
        let (answered, cut) = (answerer.answer(asked)?, answerer.cut(asked)?);
        self.cuts.count(cut.iter().copied());
        let lines = asked.iter().zip(answered.iter().zip(cut)).map(|(asked, (answered, cut))| {
            if self.json { answerer.json(asked, answered, cut).to_string() } else { answerer.plain(asked, answered) }
        });
        Ok(lines.collect())
    }

    /// What is chosen for each text; `rows` choices go into one forward pass, or those of one text.
    pub(super) fn choices(&mut self, predictor: &Predictor, posed: &[Posed], rows: usize) -> Result<(), Problem> {
        let chosen = choose(predictor, posed, rows)?;
        self.cuts.count(chosen.iter().map(|chosen| chosen.cut));
        write(
            posed.iter().zip(&chosen).map(
                |(posed, chosen)| {
                    if self.json { posed.json(chosen).to_string() } else { posed.plain(chosen) }
                },
            ),
        )
    }

    /// Warns of texts that had more than these `tokens`.
    pub(super) fn finish(&self, tokens: usize) {
        self.cuts.tell(tokens);
    }

    /// Warns of questions that had more than these `tokens`.
    pub(super) fn finish_questions(&self, tokens: usize) {
        self.cuts.tell_of_questions(tokens);
    }
}

fn write(lines: impl Iterator<Item = String>) -> Result<(), Problem> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}").map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
    }
    let _ = out.flush();
    Ok(())
}

fn plain(text: &Text, labels: &[String], prediction: &Prediction) -> String {
    let Text { first, second } = text;
    let second = second.as_ref().map(|second| format!("\t{second}")).unwrap_or_default();
    match prediction {
        Prediction::Class(probabilities) => {
            let (label, probability) = best(probabilities).unwrap_or_default();
            format!("{}\t{probability:.4}\t{first}{second}", labels[label])
        }
        Prediction::Number(number) | Prediction::Similarity(number) => format!("{number:.4}\t{first}{second}"),
        Prediction::Tags(words) => {
            let tagged = words.iter().map(|(word, tag)| format!("{word}/{}", tag.map_or("?", |(tag, _)| &labels[tag])));
            tagged.collect::<Vec<_>>().join(" ")
        }
    }
}

/// `cut`: some of the text did not fit.
fn json_line(text: &Text, labels: &[String], prediction: &Prediction, cut: bool) -> Value {
    let mut line = json!({ "text": text.first, "cut": cut });
    if let Some(second) = &text.second {
        line["pair"] = json!(second);
    }
    match prediction {
        Prediction::Class(probabilities) => {
            let (label, score) = best(probabilities).unwrap_or_default();
            let scores: Map<String, Value> =
                labels.iter().zip(probabilities).map(|(label, score)| (label.clone(), json!(score))).collect();
            (line["label"], line["score"], line["scores"]) = (json!(labels[label]), json!(score), json!(scores));
        }
        Prediction::Tags(words) => {
            let tags: Vec<Value> = words
                .iter()
                .map(|(word, tag)| {
                    let label = tag.map(|(tag, _)| labels[tag].as_str());
                    json!({ "word": word, "tag": label, "score": tag.map(|(_, score)| score) })
                })
                .collect();
            line["tags"] = json!(tags);
        }
        Prediction::Number(number) => line["number"] = json!(number),
        Prediction::Similarity(cosine) => line["similarity"] = json!(cosine),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use crate::predict::answers::tests::{asked, options};
    use config::Reading;
    use model::Head;
    use tch::Device;

    #[test]
    fn a_question_that_is_cut_says_so_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::QuestionAnswering);
        let reading = Reading { max_question_length: Some(2), ..Reading::default() };
        let predictor = Predictor::open(folder.path(), None, Some(&reading), Device::Cpu).ok().unwrap();
        let answerer = options().answerer(&predictor, 4).ok().unwrap();
        assert_eq!(answerer.question_length(), 2);
        // Two tokens, of a passage of any length; and three.
        let all = [asked("the wind", &"the sea ".repeat(20)), asked("the wind ship", "the sea")];
        let mut printer = Printer::new(true);
        let lines = printer.answer_lines(&answerer, &all).ok().unwrap();
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["cut"], &lines[1]["cut"]), (&json!(false), &json!(true)));
        assert_eq!(lines[1]["question"], "the wind ship");
        let mut expected = Cuts::default();
        expected.count([false, true]);
        assert_eq!(printer.cuts, expected);
    }

    #[test]
    fn lines_say_what_was_predicted() {
        let labels = ["neg".to_owned(), "pos".to_owned()];
        let text = |first: &str, second: Option<&str>| Text { first: first.into(), second: second.map(str::to_owned) };
        let class = Prediction::Class(vec![0.25, 0.75]);
        assert_eq!(plain(&text("a film", None), &labels, &class), "pos\t0.7500\ta film");
        let line = json_line(&text("a film", None), &labels, &class, false);
        assert_eq!((&line["text"], &line["scores"]["neg"]), (&json!("a film"), &json!(0.25)));
        assert_eq!(line["cut"], json!(false));
        assert_eq!(line.get("pair"), None);
        let pair = text("why?", Some("so"));
        assert_eq!(plain(&pair, &labels, &class), "pos\t0.7500\twhy?\tso");
        assert_eq!(json_line(&pair, &labels, &class, false)["pair"], "so");
        let number = Prediction::Number(-1.5);
        assert_eq!(plain(&text("a film", None), &[], &number), "-1.5000\ta film");
        let line = json!({"text": "why?", "pair": "so", "number": -1.5, "cut": true});
        assert_eq!(json_line(&pair, &[], &number, true), line);
        assert_eq!(json_line(&pair, &[], &Prediction::Similarity(0.5), false)["similarity"], json!(0.5));
        let tags = Prediction::Tags(vec![("a".into(), Some((1, 0.9))), ("b".into(), None)]);
        assert_eq!(plain(&text("a b", None), &labels, &tags), "a/pos b/?");
        let line = json_line(&text("a b", None), &labels, &tags, false);
        assert_eq!(line["tags"][1], json!({"word": "b", "tag": null, "score": null}));
    }
}
