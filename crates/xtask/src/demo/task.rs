//! The tasks: their examples, and how they are written down for a run.

use super::Name;
use crate::cluster::set;
use crate::corpora::labelled::{self, Split, Text};
use crate::corpora;
use anyhow::Result;
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
}

impl Examples {
    /// How many can be trained on.
    pub fn train(&self) -> usize {
        match self {
            Self::Texts(split) => split.train.len(),
            Self::Tagged(split) => split.train.len(),
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
        };
        let labels = labels(&examples);
        Ok(Self { name, title, language, examples, labels, metric })
    }

    /// configs/NAME.toml
    pub fn config(&self) -> &'static str {
        match self.examples {
            Examples::Texts(_) => "demo-classify",
            Examples::Tagged(_) => "demo-tag",
        }
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
        let ending = if matches!(self.examples, Examples::Texts(_)) { "jsonl" } else { "txt" };
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

fn labels(examples: &Examples) -> Vec<String> {
    let labels: BTreeSet<&str> = match examples {
        Examples::Texts(split) => split.train.iter().chain(&split.test).map(|text| text.label.as_str()).collect(),
        Examples::Tagged(split) => {
            let words = split.train.iter().chain(&split.test).flat_map(|line| line.split(' '));
            words.filter_map(|word| word.rsplit_once('/')).map(|(_, tag)| tag).collect()
        }
    };
    labels.into_iter().map(str::to_owned).collect()
}
