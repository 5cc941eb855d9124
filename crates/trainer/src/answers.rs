//! From the scores of an answer's first and last token to the answer.
//!
//! As in BERT (Devlin 2018, `run_squad.py`): the best pair of a first and a last token over all windows of the passage,
//! against the score of `[CLS]`, which stands for no answer. All pairs that a passage has are looked at, not only those of
//! the best few beginnings and ends.

use config::AnswerRule;
use corpus::{Batch, Example, Labels, Window};
use std::collections::HashMap;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A part of the passage that may be the answer, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Bytes of the passage; empty where there is no answer.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The sum of the scores of first and last token.
    pub score: f64,
    /// Among the candidates that are told.
    pub probability: f64,
}

/// What was found for a question.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The passage.
    pub example: Arc<Example>,
    /// The answer is that there is none.
    pub none: bool,
    /// The best first. Where there may be no answer, that is among them, as an empty part.
    pub candidates: Vec<Candidate>,
}

impl Answered {
    /// The text of a candidate.
    pub fn text(&self, candidate: &Candidate) -> &str {
        self.example.passage[candidate.start..candidate.end].trim()
    }

    /// The answer; empty if there is none.
    pub fn answer(&self) -> &str {
        if self.none { "" } else { self.best().map_or("", |best| self.text(best)) }
    }

    /// The best candidate that is a part of the passage.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.start < candidate.end)
    }
}

/// Collects windows until a question is complete. They must come in order.
pub struct Finder {
    rule: AnswerRule,
    most: usize,
    current: Option<Current>,
}

struct Current {
    window: Window,
    /// Each part of the passage once, with its best score.
    found: HashMap<(usize, usize), f64>,
    /// The least of the windows' scores of no answer, as in `run_squad.py`.
    none: f64,
}

impl Finder {
    /// Tells `most` candidates of a question.
    pub fn new(rule: AnswerRule, most: usize) -> Self {
        Self { rule, most: most.max(1), current: None }
    }

    /// Takes the windows of a batch, with `[rows, length, 2]` scores. Answers the questions that are complete, because
    /// windows of another followed.
    pub fn add(&mut self, batch: &Batch, scores: &Tensor) -> Vec<Answered> {
        let Labels::Answer { windows, .. } = &batch.labels else { unreachable!("a batch of questions") };
        let mut flat = vec![0.0_f32; scores.numel()];
        let count = flat.len();
        scores.to_kind(Kind::Float).to_device(Device::Cpu).contiguous().view([-1]).copy_data(&mut flat, count);
        let mut complete = Vec::new();
        for (window, scores) in windows.iter().zip(flat.chunks(2 * batch.sequence_length)) {
            if self.current.as_ref().is_some_and(|current| !current.window.goes_on(window)) {
                complete.extend(self.finish());
            }
            let found = HashMap::new();
            let current =
                self.current.get_or_insert_with(|| Current { window: window.clone(), found, none: f64::INFINITY });
            current.take(window, scores, self.rule, self.most);
        }
        complete
    }

    /// The last question.
    pub fn finish(&mut self) -> Option<Answered> {
        let Current { window, found, none } = self.current.take()?;
        let mut candidates: Vec<Candidate> =
            found.into_iter().map(|((start, end), score)| Candidate { start, end, score, probability: 0.0 }).collect();
        // Equal scores: the earlier and shorter one, whatever the order of the map.
        let order = |a: &Candidate, b: &Candidate| {
            b.score.total_cmp(&a.score).then_with(|| (a.start, a.end).cmp(&(b.start, b.end)))
        };
        candidates.sort_by(order);
        candidates.truncate(self.most);
        let best = candidates.first().map(|best| best.score);
        let is_none = match (self.rule.no_answer_threshold, best) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(threshold), Some(best)) => none - best > threshold,
        };
        if self.rule.no_answer_threshold.is_some() {
            candidates.push(Candidate { start: 0, end: 0, score: none, probability: 0.0 });
            candidates.sort_by(order);
        }
        let highest = candidates.first().map_or(0.0, |best| best.score);
        let total: f64 = candidates.iter().map(|candidate| (candidate.score - highest).exp()).sum();
        for candidate in &mut candidates {
            candidate.probability = (candidate.score - highest).exp() / total;
        }
        Some(Answered { example: window.example, none: is_none, candidates })
    }
}

impl Current {
    /// `scores`: `[length, 2]`.
    fn take(&mut self, window: &Window, scores: &[f32], rule: AnswerRule, most: usize) {
        let (begins, ends) = (|at: usize| f64::from(scores[2 * at]), |at: usize| f64::from(scores[2 * at + 1]));
        self.none = self.none.min(begins(0) + ends(0));
        let (first, tokens) = (window.first, window.tokens.clone());
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for start in 0..tokens.len() {
            for end in start..tokens.len().min(start + rule.length_max) {
                pairs.push((begins(first + start) + ends(first + end), start, end));
            }
        }
        let order =
            |a: &(f64, usize, usize), b: &(f64, usize, usize)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
        if pairs.len() > most {
            pairs.select_nth_unstable_by(most, order);
            pairs.truncate(most);
        }
        for (score, start, end) in pairs {
            let offsets = &window.example.offsets;
            let part = (offsets[tokens.start + start].start, offsets[tokens.start + end].end);
            let known = self.found.entry(part).or_insert(f64::NEG_INFINITY);
            *known = known.max(score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "0 1 2 …": token n is byte 2 n.
    fn example(tokens: usize) -> Arc<Example> {
        let passage = (0..tokens).map(|token| (token % 10).to_string()).collect::<Vec<_>>().join(" ");
        let offsets = (0..tokens).map(|token| 2 * token..2 * token + 1).collect();
        Arc::new(Example { passage, offsets, answers: Vec::new() })
    }

    fn batch(windows: Vec<Window>, length: usize) -> Batch {
        let rows = windows.len();
        let zeros = vec![0; rows];
        Batch {
            samples: rows,
            sequence_length: length,
            ids: vec![0; rows * length],
            segment_ids: None,
            mask: None,
            labels: Labels::Answer { starts: zeros.clone(), ends: zeros, windows },
        }
    }

    /// Two windows of six tokens of a passage of eight, behind `[CLS] question [SEP]`: positions 3 to 8 of nine and one.
    fn scores(ours: &[(usize, usize, usize, f32)]) -> Tensor {
        let mut flat = vec![0.0_f32; 2 * 10 * 2];
        for (window, position, which, score) in ours {
            flat[(window * 10 + position) * 2 + which] = *score;
        }
        Tensor::from_slice(&flat).view([2, 10, 2])
    }

    fn found(rule: AnswerRule, ours: &[(usize, usize, usize, f32)]) -> Answered {
        let example = example(8);
        let window = |tokens: std::ops::Range<usize>| Window { example: example.clone(), first: 3, tokens };
        let mut finder = Finder::new(rule, 3);
        assert!(finder.add(&batch(vec![window(0..6), window(2..8)], 10), &scores(ours)).is_empty());
        finder.finish().unwrap()
    }

    const RULE: AnswerRule = AnswerRule { length_max: 3, no_answer_threshold: None };

    #[test]
    fn the_best_part_over_all_windows_is_the_answer() {
        // 2 3 in the first window, 6 7 in the second.
        let all = [(0, 5, 0, 2.0), (0, 6, 1, 2.0), (1, 7, 0, 3.0), (1, 8, 1, 3.0)];
        let answered = found(RULE, &all);
        assert_eq!((answered.answer(), answered.candidates.len()), ("6 7", 3));
        assert!(answered.candidates[0].probability > 0.5);
        // Padding and the question are no parts of the passage, and ends before beginnings none either.
        let outside = [&all[..], &[(0, 1, 0, 9.0), (1, 9, 1, 9.0), (0, 8, 0, 2.5), (0, 3, 1, 2.5)]].concat();
        assert_eq!(found(RULE, &outside).answer(), "6 7");
        // Too long: 0 to 5.
        let long = found(RULE, &[(0, 3, 0, 5.0), (0, 8, 1, 5.0)]);
        assert!(long.candidates.iter().all(|candidate| candidate.end - candidate.start <= 5), "{:?}", long.candidates);
    }

    #[test]
    fn a_part_that_two_windows_have_is_told_once() {
        let answered = found(RULE, &[(0, 6, 0, 2.0), (0, 6, 1, 2.0), (1, 4, 0, 3.0), (1, 4, 1, 3.0)]);
        let threes = answered.candidates.iter().filter(|candidate| answered.text(candidate) == "3");
        assert_eq!(threes.map(|candidate| candidate.score).collect::<Vec<_>>(), [6.0]);
    }

    #[test]
    fn there_is_no_answer_where_its_score_is_higher_by_more_than_the_threshold() {
        let both = [(0, 0, 0, 3.0), (0, 0, 1, 3.0), (1, 0, 0, 4.0), (1, 0, 1, 4.0), (0, 5, 0, 2.0), (0, 6, 1, 2.0)];
        let with = |threshold| found(AnswerRule { no_answer_threshold: Some(threshold), ..RULE }, &both);
        // The least of 6 and 8 is 2 more than 4.
        assert_eq!((with(1.9).answer(), with(2.1).answer()), ("", "2 3"));
        assert!(with(1.9).none && !with(2.1).none);
        assert_eq!(with(1.9).best().map(|best| best.score), Some(4.0));
        assert_eq!(found(RULE, &both).answer(), "2 3");
    }

    #[test]
    fn questions_follow_each_other() {
        let [one, other] = [example(8), example(8)];
        let window = |example: &Arc<Example>| Window { example: example.clone(), first: 3, tokens: 0..6 };
        let mut finder = Finder::new(RULE, 3);
        let complete =
            finder.add(&batch(vec![window(&one), window(&other)], 10), &scores(&[(0, 3, 0, 1.0), (1, 4, 0, 1.0)]));
        assert_eq!(complete.len(), 1);
        assert!(Arc::ptr_eq(&complete[0].example, &one));
        assert!(Arc::ptr_eq(&finder.finish().unwrap().example, &other) && finder.finish().is_none());
    }
}
