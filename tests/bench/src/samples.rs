//! A corpus whose every sequence is full, so that tokens per second mean the same on both sides.

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;

/// As many words as the quickstart's vocabulary has.
const WORDS: usize = 8_192;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Writes `corpus.jsonl` and `vocab.txt` into `folder`. Every word is one token.
pub fn write(folder: &Path) -> Result<()> {
    write_documents(folder, 2_000, 40)
}

/// The same with so many documents of so many sentences, which have 16 words on average.
pub fn write_documents(folder: &Path, documents: usize, sentences: usize) -> Result<()> {
    let words = write_vocabulary(folder)?;
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut corpus = String::new();
    for _ in 0..documents {
        let mut text = String::new();
        for _ in 0..sentences {
            for _ in 0..random.random_range(8..24) {
                text.push_str(&words[random.random_range(0..words.len())]);
                text.push(' ');
            }
            text.push_str(".\\n");
        }
        writeln!(corpus, r#"{{"text": "{text}"}}"#)?;
    }
    std::fs::write(folder.join("corpus.jsonl"), corpus)?;
    Ok(())
}

/// Writes `labelled.jsonl`, texts of as many tokens as `lengths` says, evenly, `[CLS]` and `[SEP]` included, with one
/// of two labels, and `vocab.txt`.
pub fn write_labelled(folder: &Path, texts: usize, lengths: RangeInclusive<usize>) -> Result<()> {
    let words = write_vocabulary(folder)?;
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let mut lines = String::new();
    for number in 0..texts {
        let length = random.random_range(lengths.clone()) - 2;
        let text: Vec<&str> = (0..length).map(|_| words[random.random_range(0..words.len())].as_str()).collect();
        let label = ["negative", "positive"][number % 2];
        writeln!(lines, r#"{{"text": "{}", "label": "{label}"}}"#, text.join(" "))?;
    }
    std::fs::write(folder.join("labelled.jsonl"), lines)?;
    Ok(())
}

/// Answers the words.
fn write_vocabulary(folder: &Path) -> Result<Vec<String>> {
    let words: Vec<String> = (0..WORDS - SPECIAL.len() - 1).map(word).collect();
    let mut vocabulary = SPECIAL.join("\n");
    vocabulary.push_str("\n.\n");
    vocabulary.push_str(&words.join("\n"));
    std::fs::write(folder.join("vocab.txt"), vocabulary + "\n")?;
    Ok(words)
}

/// `index` in letters; no word begins another.
fn word(index: usize) -> String {
    let letter = |digit: usize| char::from(b'a' + (digit % 26) as u8);
    [index / 676, index / 26, index].map(letter).into_iter().collect()
}
