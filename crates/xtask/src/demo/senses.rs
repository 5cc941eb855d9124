//! `cargo xtask demo senses`: a word's vectors tell its senses apart where they come from a model that reads the sentence,
//! and cannot where a word has one vector.
//!
//! Sentences from the corpora with a word of two senses, sorted by hand. For each, the sentence in which the word's own
//! vector is most like it should have the same sense.

use super::{Language, Scale, folder, pretrain};
use crate::building::Binaries;
use crate::cluster::Cluster;
use crate::corpora;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

struct Word {
    word: &'static str,
    language: Language,
    /// `sense <tab> sentence`
    sentences: &'static str,
}

const WORDS: [Word; 3] = [
    Word { word: "bank", language: Language::English, sentences: include_str!("senses/bank.tsv") },
    Word { word: "cell", language: Language::English, sentences: include_str!("senses/cell.tsv") },
    Word { word: "苹果", language: Language::Chinese, sentences: include_str!("senses/apple.tsv") },
];

/// What came of one word and one model.
struct Row {
    word: &'static str,
    model: &'static str,
    /// Sentences whose nearest one has their sense.
    right: usize,
    sentences: usize,
    /// Those of the commoner sense: what guessing gets.
    most: usize,
    /// Mean cosine of the word's vectors in two sentences of one sense, and of two.
    within: f64,
    across: f64,
    /// Word2Vec's neighbours of the word, whatever the sentence.
    neighbours: Vec<String>,
}

pub fn run(binaries: &Binaries, corpora: &Path, scale: &Scale, fresh: bool) -> Result<()> {
    let mut rows = Vec::new();
    for language in [Language::English, Language::Chinese] {
        let out = folder(scale, language, fresh)?;
        let mut cluster = Cluster::start(binaries, &out)?;
        let run = pretrain(&mut cluster, language, corpora, scale, &out)?;
        let vectors = static_vectors(&cluster, language, corpora, &out)?;
        let mut models = vec![("pretrained here", ["--checkpoint".to_owned(), run])];
        if language == Language::English {
            let minilm = corpora::prepare(corpora, usize::MAX)?.minilm;
            models.push(("MiniLM", ["--model".to_owned(), minilm.display().to_string()]));
        }
        for word in WORDS.iter().filter(|word| word.language == language) {
            for (model, source) in &models {
                rows.push(word.look(&cluster, (model, source), &vectors, &out)?);
            }
        }
    }
    let text = table(&rows);
    println!("\n{text}");
    let path = folder(scale, Language::English, false)?.join("senses.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Word2Vec on what the encoder was pretrained on.
fn static_vectors(cluster: &Cluster<'_>, language: Language, corpora: &Path, out: &Path) -> Result<PathBuf> {
    let path = out.join("word2vec.txt");
    if path.exists() {
        return Ok(path);
    }
    println!("== Word2Vec on {} text", language.name());
    let corpus = out.join("corpus.parquet").display().to_string();
    let output = path.display().to_string();
    let mut arguments = vec!["word2vec", "train", "--corpus", &corpus, "--out", &output];
    let dictionary = out.join("dictionary.txt").display().to_string();
    if language == Language::Chinese {
        let tagged = corpora::labelled::chinese_tagged(corpora)?;
        let words = tagged.train.iter().flat_map(|line| line.split(' ')).filter_map(|word| word.rsplit_once('/'));
        let words: BTreeSet<&str> = words.map(|(word, _)| word).filter(|word| word.chars().count() > 1).collect();
        fs::write(&dictionary, words.into_iter().collect::<Vec<_>>().join("\n"))?;
        arguments.extend(["--dictionary", &dictionary]);
    }
    cluster.worker(&arguments)?;
    Ok(path)
}

impl Word {
    fn look(
        &self,
        cluster: &Cluster<'_>,
        (model, source): (&'static str, &[String; 2]),
        vectors: &Path,
        out: &Path,
    ) -> Result<Row> {
        let sentences: Vec<(&str, &str)> = self.sentences.lines().filter_map(|line| line.split_once('\t')).collect();
        let file = out.join(format!("senses-{}.txt", self.word));
        fs::write(&file, sentences.iter().map(|(_, sentence)| format!("{sentence}\n")).collect::<String>())?;
        let (file, vectors) = (file.display().to_string(), vectors.display().to_string());
        let top = sentences.len().to_string();
        let mut arguments = vec!["embed", "--explain", self.word, "--file", &file, "--vectors", &vectors];
        arguments.extend(["--top-k", &top, "--json", &source[0], &source[1]]);
        let explained: Value = serde_json::from_str(&cluster.worker(&arguments)?)?;
        let row = self.row(model, &sentences, &explained)?;
        println!(
            "  {}, {model}: the nearest of {} sentences has the same sense for {}",
            self.word, row.sentences, row.right
        );
        Ok(row)
    }

    fn row(&self, model: &'static str, sentences: &[(&str, &str)], explained: &Value) -> Result<Row> {
        let senses: BTreeMap<&str, &str> = sentences.iter().map(|(sense, sentence)| (*sentence, *sense)).collect();
        let sense = |value: &Value| {
            let text = value["text"].as_str().unwrap_or_default();
            senses.get(text).copied().with_context(|| format!("`{text}` is none of the sentences"))
        };
        let texts = explained["texts"].as_array().context("explain shows texts")?;
        let (mut right, mut within, mut across) = (0, Vec::new(), Vec::new());
        for text in texts {
            let own = sense(text)?;
            for (rank, other) in text["nearest"].as_array().into_iter().flatten().enumerate() {
                let same = sense(other)? == own;
                right += usize::from(rank == 0 && same);
                let cosine = other["cosine"].as_f64().context("a cosine is a number")?;
                if same { within.push(cosine) } else { across.push(cosine) }
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (sense, _) in sentences {
            *counts.entry(sense).or_default() += 1;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let neighbours = explained["word2vec"]["nearest_words"].as_array().into_iter().flatten();
        Ok(Row {
            word: self.word,
            model,
            right,
            sentences: texts.len(),
            most: counts.into_values().max().unwrap_or(0),
            within: mean(&within),
            across: mean(&across),
            neighbours: neighbours.filter_map(|near| near["word"].as_str()).take(5).map(str::to_owned).collect(),
        })
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = "Senses of one word (`cargo xtask demo senses`):\n\n\
                    | word | vectors of | nearest has the same sense | guessing | cosine within a sense | across |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} of {} | {} | {:.3} | {:.3} |",
            row.word, row.model, row.right, row.sentences, row.most, row.within, row.across
        )
        .expect("a string takes it");
    }
    let mut told = BTreeSet::new();
    for row in rows.iter().filter(|row| told.insert(row.word)) {
        let neighbours = if row.neighbours.is_empty() {
            "none: it does not know the word".to_owned()
        } else {
            row.neighbours.join(", ")
        };
        writeln!(text, "\nWord2Vec has one vector for {} in all of them; its neighbours: {neighbours}.", row.word)
            .expect("a string takes it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_sentence_has_its_word_and_one_of_two_senses() {
        for word in &WORDS {
            let mut senses = BTreeSet::new();
            let mut sentences = BTreeSet::new();
            for line in word.sentences.lines() {
                let (sense, sentence) = line.split_once('\t').unwrap();
                assert!(sentence.to_lowercase().contains(word.word), "{line}");
                senses.insert(sense);
                assert!(sentences.insert(sentence), "{line} is there twice");
            }
            assert_eq!(senses.len(), 2, "{}", word.word);
        }
    }

    #[test]
    fn the_nearest_sentence_is_counted_by_its_sense() {
        let sentences = [("river", "a"), ("river", "b"), ("money", "c")];
        let near = |text: &str, cosine: f64| json!({ "text": text, "cosine": cosine });
        let explained = json!({
            "texts": [
                { "text": "a", "nearest": [near("b", 0.9), near("c", 0.1)] },
                { "text": "b", "nearest": [near("a", 0.9), near("c", 0.3)] },
                { "text": "c", "nearest": [near("b", 0.3), near("a", 0.1)] },
            ],
            "word2vec": { "nearest_words": [{ "word": "shore", "cosine": 0.5 }] },
        });
        let row = WORDS[0].row("m", &sentences, &explained).unwrap();
        assert_eq!((row.right, row.sentences, row.most), (2, 3, 2));
        assert!((row.within - 0.9).abs() < 1e-9 && (row.across - 0.2).abs() < 1e-9);
        let text = table(&[row]);
        assert!(text.contains("| bank | m | 2 of 3 | 2 | 0.900 | 0.200 |") && text.contains("shore"), "{text}");
    }
}
