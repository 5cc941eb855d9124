//! Questions, passages, and where in them the answers stand.

use crate::{CorpusError, Tokenizer};
use config::AnswerWindows;
use std::ops::Range;
use std::sync::Arc;

/// A question's passage, as tokens and as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The passage.
    pub passage: String,
    /// For each token of the passage, the bytes that it stands for.
    pub offsets: Vec<Range<usize>>,
    /// What would be right; empty: the question has no answer.
    pub answers: Vec<String>,
}

/// A part of a passage in one row of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Shared by all windows of one question.
    pub example: Arc<Example>,
    /// Where the passage begins in the row.
    pub first: usize,
    /// Which tokens of the passage are there.
    pub tokens: Range<usize>,
}

impl Window {
    /// Whether it is of the same question as `other`: of one and the same row of the data.
    pub fn goes_on(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.example, &other.example)
    }
}

/// The windows of a passage of so many tokens, by BERT's rule (Devlin 2018, `run_squad.py`): each begins `stride` tokens
/// after the one before, and the first that reaches the end is the last.
pub(crate) fn windows(tokens: usize, room: usize, stride: usize) -> impl Iterator<Item = Range<usize>> {
    let count = if tokens <= room { 1 } else { 1 + (tokens - room).div_ceil(stride) };
    (0..count).map(move |window| window * stride..tokens.min(window * stride + room))
}

/// A question with its passage, in tokens.
pub(crate) struct Question {
    pub(crate) question: Vec<u32>,
    pub(crate) passage: Vec<u32>,
    /// Between the two.
    pub(crate) separators: usize,
    pub(crate) example: Arc<Example>,
    /// First and last token of the answer that is learned.
    answer: Option<(usize, usize)>,
}

impl Question {
    /// `answers` are ranges of bytes of the passage; the first is what is learned. None: the tokenizer keeps nothing of
    /// it.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        (question, passage): (&str, &str),
        answers: &[Range<usize>],
        rule: AnswerWindows,
    ) -> Result<Option<Self>, CorpusError> {
        let mut question = tokenizer.encode(question)?;
        question.truncate(rule.question_length);
        let (ids, offsets): (Vec<u32>, Vec<Range<usize>>) = tokenizer.encode_with_ranges(passage)?.into_iter().unzip();
        let mut answer = None;
        if let Some(range) = answers.first() {
            let first = offsets.iter().position(|token| token.end > range.start && token.start < range.end);
            let last = offsets.iter().rposition(|token| token.end > range.start && token.start < range.end);
            let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
            answer = Some((first, last));
        }
        let answers = answers.iter().map(|range| passage[range.clone()].to_owned()).collect();
        let example = Arc::new(Example { passage: passage.to_owned(), offsets, answers });
        let separators = tokenizer.separators_between();
        Ok(Some(Self { question, passage: ids, separators, example, answer }))
    }

    /// Its windows; and where in the row each has the whole answer, or 0 and 0, which is `[CLS]`, as in BERT.
    pub(crate) fn windows(&self, rule: AnswerWindows) -> impl Iterator<Item = (Window, [i64; 2])> {
        let first = self.question.len() + 1 + self.separators;
        let room = rule.sequence_length - first - 1;
        // A config that is checked counts on one separator; with two, windows must still leave nothing out.
        windows(self.passage.len(), room, rule.stride.min(room)).map(move |tokens| {
            let span = match self.answer {
                Some((start, end)) if tokens.start <= start && end < tokens.end => {
                    [start, end].map(|at| (at - tokens.start + first) as i64)
                }
                _ => [0, 0],
            };
            (Window { example: self.example.clone(), first, tokens }, span)
        })
    }
}

/// The bytes of `passage` where each answer stands; an answer is its text and its first character, from 0. The error
/// says what is wrong, and what to do.
pub(crate) fn locate(passage: &str, answers: &[(&str, i64)]) -> Result<Vec<Range<usize>>, (String, String)> {
    answers.iter().map(|&(text, start)| locate_one(passage, text, start)).collect()
}

fn locate_one(passage: &str, text: &str, start: i64) -> Result<Range<usize>, (String, String)> {
    const LEAVE_OUT: &str = "correct the answer's text, or leave the row out";
    if text.trim().is_empty() {
        let help = "give no answer at all where a question has none";
        return Err(("an answer is empty".to_owned(), help.to_owned()));
    }
    let at = usize::try_from(start).ok().and_then(|start| byte_of(passage, start));
    if let Some(at) = at
        && passage[at..].starts_with(text)
    {
        return Ok(at..at + text.len());
    }
    // The nearest place where it does stand.
    let places = passage.match_indices(text).map(|(byte, _)| passage[..byte].chars().count() as i64);
    Err(match places.min_by_key(|place| place.abs_diff(start)) {
        Some(place) => (
            format!("the answer `{text}` is not at character {start} of its passage"),
            format!("it is at {place}: correct `answer_start`, which counts characters from 0"),
        ),
        None => (format!("the answer `{text}` does not occur in its passage"), LEAVE_OUT.to_owned()),
    })
}

fn byte_of(text: &str, character: usize) -> Option<usize> {
    text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_cover_the_passage(tokens in 1usize..400, room in 1usize..100, stride in 1usize..100) {
            let stride = stride.min(room);
            let all: Vec<_> = windows(tokens, room, stride).collect();
            prop_assert_eq!(all[0].start, 0);
            prop_assert_eq!(all.last().unwrap().end, tokens);
            prop_assert!(all.iter().all(|window| !window.is_empty() && window.len() <= room));
            for pair in all.windows(2) {
                prop_assert_eq!(pair[1].start, pair[0].start + stride);
                prop_assert!(pair[1].start <= pair[0].end && pair[0].end < tokens, "none is superfluous");
            }
        }
    }

    #[test]
    fn answers_are_found_by_character() {
        let passage = "Über Köln fließt der Rhein. Köln";
        assert_eq!(locate(passage, &[("Köln", 5)]).map(|found| (found.len(), found[0].clone())), Ok((1, 6..11)));
        assert_eq!(locate(passage, &[("Köln", 28)]).unwrap()[0], passage.len() - 5..passage.len());
        let (message, help) = locate(passage, &[("Köln", 5), ("Köln", 27)]).unwrap_err();
        assert_eq!(message, "the answer `Köln` is not at character 27 of its passage");
        assert!(help.starts_with("it is at 28: correct `answer_start`"), "{help}");
        for (text, start) in [("Bonn", 5), ("Bonn", -1), ("Bonn", 1000)] {
            let (message, _) = locate(passage, &[(text, start)]).unwrap_err();
            assert_eq!(message, "the answer `Bonn` does not occur in its passage");
        }
        assert!(locate(passage, &[(" ", 4)]).unwrap_err().0.contains("empty"));
    }
}
