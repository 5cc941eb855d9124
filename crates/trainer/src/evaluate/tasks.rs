//! What is measured of answers and of numbers: it takes all windows of a question, and all samples.

use crate::metrics::correlation::{pearson, spearman};
use crate::metrics::squad::{AnswerCounts, Script};
use config::ObjectiveConfig;
use corpus::{Batch, Labels};

/// For each batch the number of the share it belongs to. The batches of one share are computed by one member, since the
/// windows of a question are looked at together.
pub(super) fn shares(batches: &[Batch]) -> Vec<usize> {
    let windows = |batch: &Batch| match &batch.labels {
        Labels::Answer { windows, .. } => windows.first().cloned().zip(windows.last().cloned()),
        _ => None,
    };
    let mut shares: Vec<usize> = Vec::with_capacity(batches.len());
    for (index, batch) in batches.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| windows(&batches[before]));
        let goes_on = before.zip(windows(batch)).is_some_and(|((_, last), (first, _))| first.goes_on(&last));
        let share = match shares.last() {
            None => 0,
            Some(share) if goes_on => *share,
            Some(share) => share + 1,
        };
        shares.push(share);
    }
    shares
}

/// By which script answers are counted.
pub(super) fn script(objective: &ObjectiveConfig) -> Script {
    if objective.no_answer_threshold.is_some() { Script::MayLackAnswer } else { Script::Answered }
}

/// Exact match and F1, of 100 as the scripts have it.
pub(super) fn report_answers(counts: &AnswerCounts, script: Script, push: &mut impl FnMut(&str, f64)) {
    let (exact, f1) = counts.all();
    push("exact_match", exact);
    push("f1", f1);
    if script == Script::Answered {
        return;
    }
    if let Some((exact, f1)) = counts.with_answer() {
        push("has_answer_exact_match", exact);
        push("has_answer_f1", f1);
    }
    if let Some((exact, _)) = counts.without_answer() {
        push("no_answer_exact_match", exact);
    }
}

/// Correlations, where there are any.
pub(super) fn report_numbers(batches: &[Batch], predicted: &[f64], push: &mut impl FnMut(&str, f64)) {
    let mut truth = Vec::with_capacity(predicted.len());
    for batch in batches {
        if let Labels::Score(scores) = &batch.labels {
            truth.extend_from_slice(scores);
        }
    }
    for (name, value) in [("pearson", pearson(&truth, predicted)), ("spearman", spearman(&truth, predicted))] {
        if let Some(value) = value {
            push(name, value);
        }
    }
}
