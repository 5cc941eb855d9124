//! The tasks: their examples, and how they are written down for a run.

use super::Name;
use super::cloze::Prompt;
use crate::cluster::set;
use crate::corpora;
use crate::corpora::choices::{self, Choice};
use crate::corpora::labelled::{self, Question, Split, Text};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "english",
            Self::Chinese => "chinese",
        }
    }
}

pub enum Examples {
    Texts(Split<Text>),
    /// `word/tag` lines.
    Tagged(Split<String>),
    /// SQuAD's JSON.
    Answers(Split<Question>),
    /// JSON lines.
    Choices(Split<Choice>),
}

impl Examples {
    /// How many can be trained on.
    pub fn train(&self) -> usize {
        match self {
            Self::Texts(split) => split.train.len(),
            Self::Tagged(split) => split.train.len(),
            Self::Answers(split) => split.train.len(),
            Self::Choices(split) => split.train.len(),
        }
    }
}

pub struct Task {
    /// As it is typed.
    pub name: &'static str,
    pub title: &'static str,
    pub language: Language,
    pub examples: Examples,
    pub labels: Vec<String>,
    /// What is compared.
    pub metric: &'static str,
}

/// Where a size's examples lie.
pub struct Files {
    pub train: PathBuf,
    pub test: PathBuf,
}

const ACCURACY: &str = "eval/accuracy";

impl Task {
    pub fn load(name: Name, corpora: &Path) -> Result<Self> {
        use Language::{Chinese, English};
        let texts = Examples::Texts;
        let (name, title, language, examples, metric) = match name {
            Name::EnglishSentiment => {
                let mut reviews = corpora::prepare(corpora, usize::MAX)?.reviews;
                let text = |(text, label): (String, String)| Text { text, pair: None, label };
                let test = reviews.split_off(reviews.len() - 1500).into_iter().map(text).collect();
                let train = reviews.into_iter().map(text).collect();
                ("english-sentiment", "Sentiment of film reviews", English, texts(Split { train, test }), ACCURACY)
            }
            Name::Spam => ("spam", "Spam among mails", English, texts(labelled::spam(corpora)?), ACCURACY),
            Name::BrownPos => {
                let mut train = corpora::prepare(corpora, usize::MAX)?.tagged;
                let test = train.split_off(train.len() - 1500);
                let examples = Examples::Tagged(Split { train, test });
                ("brown-pos", "Parts of speech of the Brown corpus", English, examples, ACCURACY)
            }
            Name::Privacy => {
                let title = "Does this sentence of a privacy policy answer the question?";
                ("privacy", title, English, texts(labelled::privacy(corpora)?), ACCURACY)
            }
            Name::Answers => {
                let examples = Examples::Answers(labelled::answers(corpora)?);
                ("answers", "Questions on passages", English, examples, "eval/f1")
            }
            Name::ChineseSentiment => {
                let examples = texts(labelled::chinese_reviews(corpora)?);
                ("chinese-sentiment", "Sentiment of reviews in Chinese", Chinese, examples, ACCURACY)
            }
            Name::ChinesePos => {
                let examples = Examples::Tagged(labelled::chinese_tagged(corpora)?);
                ("chinese-pos", "Parts of speech of People's Daily", Chinese, examples, ACCURACY)
            }
            Name::ChineseNames => {
                let examples = Examples::Tagged(labelled::chinese_names(corpora)?);
                ("chinese-names", "Names in People's Daily", Chinese, examples, "eval/entity_f1")
            }
            Name::Sayings => {
                let title = "Which second part belongs to a saying's first?";
                ("sayings", title, Chinese, texts(labelled::sayings(corpora)?), ACCURACY)
            }
            Name::Senses | Name::Distil => bail!("{name:?} has no labelled examples"),
            Name::Choices => {
                let examples = Examples::Choices(choices::questions(corpora)?);
                ("choices", "Which of a few choices answers the question?", English, examples, ACCURACY)
            }
        };
        let labels = labels(&examples);
        Ok(Self { name, title, language, examples, labels, metric })
    }

    /// configs/NAME.toml
    pub fn config(&self) -> &'static str {
        match self.examples {
            Examples::Texts(_) => "demo-classify",
            Examples::Tagged(_) => "demo-tag",
            Examples::Answers(_) => "demo-answers",
            Examples::Choices(_) => "demo-choices",
        }
    }

    /// The task as a question to a model of masked words.
    pub fn prompt(&self) -> Option<Prompt> {
        let words: [(_, &[_]); 2] = [("negative", &["bad", "poor"]), ("positive", &["good", "great"])];
        (self.name == "english-sentiment").then_some(Prompt { template: "{text} It was [MASK].", words })
    }

    /// What distinguishes the task from its config.
    pub fn settings(&self) -> Vec<[String; 2]> {
        match &self.examples {
            Examples::Texts(split) if split.train.first().is_some_and(|text| text.pair.is_some()) => {
                vec![set("data.pair_column", "pair")]
            }
            Examples::Tagged(_) if self.metric != ACCURACY => vec![set("objective.tag_scheme", "bio")],
            _ => Vec::new(),
        }
    }

    /// Writes so many examples, and so many of those that are held out.
    pub fn write(&self, size: usize, held_out: usize, out: &Path) -> Result<Files> {
        let ending = match self.examples {
            Examples::Texts(_) | Examples::Choices(_) => "jsonl",
            Examples::Tagged(_) => "txt",
            Examples::Answers(_) => "json",
        };
        let train = out.join(format!("{}-{size}.{ending}", self.name));
        let test = out.join(format!("{}-test.{ending}", self.name));
        match &self.examples {
            Examples::Texts(split) => {
                fs::write(&train, lines(&split.train[..size]))?;
                fs::write(&test, lines(&split.test[..held_out.min(split.test.len())]))?;
            }
            Examples::Tagged(split) => {
                fs::write(&train, split.train[..size].join("\n"))?;
                fs::write(&test, split.test[..held_out.min(split.test.len())].join("\n"))?;
            }
            Examples::Answers(split) => {
                fs::write(&train, squad(&split.train[..size]))?;
                fs::write(&test, squad(&split.test[..held_out.min(split.test.len())]))?;
            }
            Examples::Choices(split) => {
                fs::write(&train, chosen(&split.train[..size]))?;
                fs::write(&test, chosen(&split.test[..held_out.min(split.test.len())]))?;
            }
        }
        Ok(Files { train, test })
    }
}

fn lines(texts: &[Text]) -> String {
    let row = |text: &Text| {
        let mut row = json!({ "text": text.text, "label": text.label });
        if let Some(pair) = &text.pair {
            row["pair"] = json!(pair);
        }
        row.to_string() + "\n"
    };
    texts.iter().map(row).collect()
}

fn chosen(rows: &[Choice]) -> String {
    let row = |row: &Choice| {
        let Choice { text, question, choices, right } = row;
        // A number alone might be the text of another choice, too.
        let labels: Vec<String> = (0..choices.len()).map(|number| number.to_string()).collect();
        let choices = json!({ "text": choices, "label": labels });
        json!({ "text": text, "question": question, "choices": choices, "right": right }).to_string() + "\n"
    };
    rows.iter().map(row).collect()
}

/// SQuAD v2.0's JSON, a paragraph for each question.
fn squad(questions: &[Question]) -> String {
    let paragraph = |(number, asked): (usize, &Question)| {
        let start = |answer: &str| asked.passage.split(answer).next().unwrap_or_default().chars().count();
        let answers: Vec<_> =
            asked.answer.iter().map(|answer| json!({ "text": answer, "answer_start": start(answer) })).collect();
        let question = json!({
            "id": number.to_string(),
            "question": asked.question,
            "is_impossible": answers.is_empty(),
            "answers": answers,
        });
        json!({ "context": asked.passage, "qas": [question] })
    };
    let paragraphs: Vec<_> = questions.iter().enumerate().map(paragraph).collect();
    json!({ "version": "v2.0", "data": [{ "title": "questions", "paragraphs": paragraphs }] }).to_string()
}

fn labels(examples: &Examples) -> Vec<String> {
    let labels: BTreeSet<&str> = match examples {
        Examples::Texts(split) => split.train.iter().chain(&split.test).map(|text| text.label.as_str()).collect(),
        Examples::Tagged(split) => {
            let words = split.train.iter().chain(&split.test).flat_map(|line| line.split(' '));
            words.filter_map(|word| word.rsplit_once('/')).map(|(_, tag)| tag).collect()
        }
        Examples::Answers(_) | Examples::Choices(_) => BTreeSet::new(),
    };
    labels.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_begins_where_it_first_stands() {
        let question = |answer: Option<&str>| Question {
            passage: "Ein Öl, ein Öl.".to_owned(),
            question: "Was?".to_owned(),
            answer: answer.map(str::to_owned),
        };
        let text = squad(&[question(Some("Öl")), question(None)]);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let paragraphs = &read["data"][0]["paragraphs"];
        assert_eq!(paragraphs[0]["qas"][0]["answers"], json!([{ "text": "Öl", "answer_start": 4 }]));
        assert_eq!(paragraphs[1]["qas"][0]["is_impossible"], json!(true));
    }
}
