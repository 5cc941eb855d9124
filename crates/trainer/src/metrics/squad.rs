//! Exact match and F1 of answers, as SQuAD's evaluation scripts compute them (`evaluate-v1.1.py`, `evaluate-v2.0.py`).

use std::collections::HashMap;
use unicode_general_category::{GeneralCategory, get_general_category};

/// Which script: they differ where an answer comes to nothing once it is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// v1.1: every question has an answer.
    Answered,
    /// v2.0: no answer is one, too.
    MayLackAnswer,
}

/// Lower case, without punctuation, without the articles a, an and the, words parted by one space.
pub fn normalised(answer: &str) -> String {
    let plain: String = answer.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    // `re.sub(r"\b(a|an|the)\b", " ", …)`: words of letters and digits, by Python's `str.isalnum`.
    let mut kept = String::with_capacity(plain.len());
    let mut word = String::new();
    for letter in plain.chars().map(Some).chain([None]) {
        match letter {
            Some(letter) if is_word(letter) => word.push(letter),
            other => {
                kept.push_str(if matches!(word.as_str(), "a" | "an" | "the") { " " } else { &word });
                word.clear();
                kept.extend(other);
            }
        }
    }
    kept.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether the answers are the same once normalised.
pub fn exact_match(truth: &str, predicted: &str) -> bool {
    normalised(truth) == normalised(predicted)
}

/// The harmonic mean of precision and recall over words.
pub fn f1(truth: &str, predicted: &str, script: Script) -> f64 {
    let (truth, predicted) = (normalised(truth), normalised(predicted));
    let (truth, predicted): (Vec<&str>, Vec<&str>) = (
        truth.split(' ').filter(|w| !w.is_empty()).collect(),
        predicted.split(' ').filter(|w| !w.is_empty()).collect(),
    );
    if script == Script::MayLackAnswer && (truth.is_empty() || predicted.is_empty()) {
        return f64::from(u8::from(truth == predicted));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &truth {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in &predicted {
        if let Some(times) = left.get_mut(word).filter(|times| **times > 0) {
            *times -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let precision = f64::from(same) / predicted.len() as f64;
    let recall = f64::from(same) / truth.len() as f64;
    (2.0 * precision * recall) / (precision + recall)
}

/// The better of both scores over all answers that would be right: exact match (0 or 1) and F1. No answer is told by an
/// empty text, and by an empty list.
pub fn best(truths: &[String], predicted: &str, script: Script) -> (f64, f64) {
    let mut truths: Vec<&str> = truths.iter().map(String::as_str).collect();
    if script == Script::MayLackAnswer {
        truths.retain(|truth| !normalised(truth).is_empty());
        if truths.is_empty() {
            truths.push("");
        }
    }
    let mut found = (0.0, 0.0);
    for truth in truths {
        found.0 = f64::max(found.0, f64::from(u8::from(exact_match(truth, predicted))));
        found.1 = f64::max(found.1, f1(truth, predicted, script));
    }
    found
}

/// Fraction bits of [`AnswerCounts`]' sums: 2^20 questions fit, and nobody is shown so many digits.
const FRACTION_BITS: i32 = 42;

/// Scores of many questions. Sums of the fields are those of all questions: integers, so that it does not matter in which
/// order they are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerCounts {
    /// With an answer: questions, exact matches, and the sum of F1 in fixed point.
    pub answered: [i64; 3],
    /// The same of those without one.
    pub unanswered: [i64; 3],
}

impl AnswerCounts {
    /// Counts one question.
    pub fn add(&mut self, truths: &[String], predicted: &str, script: Script) {
        let (exact, f1) = best(truths, predicted, script);
        let has_answer = script == Script::Answered || !truths.is_empty();
        let counts = if has_answer { &mut self.answered } else { &mut self.unanswered };
        counts[0] += 1;
        counts[1] += exact as i64;
        counts[2] += (f1 * f64::from(FRACTION_BITS).exp2()).round() as i64;
    }

    /// Exact match and F1 of all, each of 100, as the scripts print them.
    pub fn all(&self) -> (f64, f64) {
        let sum = |at: usize| self.answered[at] + self.unanswered[at];
        scores([sum(0), sum(1), sum(2)])
    }

    /// The same of the questions that have an answer; None if there are none.
    pub fn with_answer(&self) -> Option<(f64, f64)> {
        (self.answered[0] > 0).then(|| scores(self.answered))
    }

    /// The same of those that have none: their F1 is their exact match.
    pub fn without_answer(&self) -> Option<(f64, f64)> {
        (self.unanswered[0] > 0).then(|| scores(self.unanswered))
    }
}

fn scores([questions, exact, f1]: [i64; 3]) -> (f64, f64) {
    let questions = questions.max(1) as f64;
    (100.0 * exact as f64 / questions, 100.0 * (f1 as f64 / f64::from(FRACTION_BITS).exp2()) / questions)
}

/// Python's `str.isalnum`, for which combining vowels are no letters.
fn is_word(letter: char) -> bool {
    use GeneralCategory::{NonspacingMark, SpacingMark};
    letter.is_alphanumeric() && !matches!(get_general_category(letter), NonspacingMark | SpacingMark)
}

/// Python's `str.isspace`.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}
