//! Labels that cannot be right, all found before the first step: each row is named, and what to do.

use super::{LABEL_HELP, left_out, row_groups};
use crate::answers::locate;
use crate::choices::ChoiceRows;
use crate::rows::{self, AnswerRows};
use crate::source::Columns;
use crate::{Corpus, CorpusError, ErrorKind, Place};
use arrow::array::{Array, AsArray, RecordBatch};
use config::{CheckedConfig, ObjectiveKind, TagScheme};
use std::collections::HashMap;

/// Different faults that are named; of more only the number is told.
const NAMED: usize = 10;

/// Numbers are learned by their squared error: beyond this its gradient nears what a fixed-point sum holds.
const NUMBER_MAX: f64 = 30.0;

/// What is wrong with a row, and what to do.
pub(crate) type Fault = (String, String);

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Faults {
    /// Each once: where it is first, and how often there is the same.
    named: Vec<(Place, Fault, usize)>,
    /// Those that are not named.
    more: usize,
}

impl Faults {
    /// Keeps one more; `place` is asked for where it is to be named.
    pub(crate) fn push(&mut self, place: impl FnOnce() -> Place, fault: Fault) {
        if let Some((.., count)) = self.named.iter_mut().find(|(_, named, _)| *named == fault) {
            *count += 1;
        } else if self.named.len() < NAMED {
            self.named.push((place(), fault, 1));
        } else {
            self.more += 1;
        }
    }

    /// An error that names them, if there are any.
    pub(crate) fn into_result(mut self) -> Result<(), CorpusError> {
        if self.named.is_empty() {
            return Ok(());
        }
        let times = |count: usize| if count > 1 { format!(" ({count} times, first here)") } else { String::new() };
        let (place, (mut message, mut help), count) = self.named.remove(0);
        message.push_str(&times(count));
        for (place, (other, its_help), count) in self.named {
            // What helps several of them in a row is said once, behind the last.
            if its_help != help {
                message.push_str(&format!("\n  help: {}", std::mem::replace(&mut help, its_help)));
            }
            message.push_str(&format!("\n{place}: {other}{}", times(count)));
        }
        if self.more > 0 {
            message.push_str(&format!("\n  and {} more", self.more));
        }
        Err(CorpusError::new(ErrorKind::Value, place, message, help))
    }
}

/// Looks at every label of `corpus`, held-out ones included. What may be meant is told, not refused.
pub(super) fn refuse(corpus: &Corpus, config: &CheckedConfig) -> Result<Vec<String>, CorpusError> {
    let kind = config.objective.kind;
    let mut warnings = Vec::new();
    if !kind.is_supervised() || kind == ObjectiveKind::Match {
        return Ok(warnings);
    }
    let mut faults = Faults::default();
    let finds_classes = kind == ObjectiveKind::Classify && config.objective.labels.is_empty();
    let mut largest = 0.0_f64;
    let mut stray: Option<(Place, String, u64)> = None;
    // Where the config gives none they are those of the training files: other files must not have more.
    let mut seen: HashMap<String, u64> = corpus.labels.iter().map(|label| (label.clone(), 0)).collect();
    for unit in row_groups(&corpus.files) {
        let batch = corpus.source.read(&unit)?;
        let trained = !corpus.files[unit.file as usize].held_out;
        let wrong = |message: String| CorpusError::new(ErrorKind::Type, corpus.place(&unit, None), message, LABEL_HELP);
        let rows = left_out::used(kind, corpus.columns(), &batch).map_err(wrong)?;
        match kind {
            ObjectiveKind::Answer => {
                let unanswered = config.objective.no_answer_threshold.is_some();
                answers(&batch, &rows, unanswered, |row, fault| faults.push(|| corpus.place(&unit, Some(row)), fault))
                    .map_err(wrong)?;
            }
            ObjectiveKind::Choose => {
                choices(&batch, &rows, corpus.columns(), |row, fault| {
                    faults.push(|| corpus.place(&unit, Some(row)), fault);
                })
                .map_err(wrong)?;
            }
            _ => {
                let mut look = |row: u64, word: usize, label: &str| {
                    let fault = if config.objective.regression {
                        number(label).map(|number| largest = largest.max(number.abs())).err()
                    } else if kind == ObjectiveKind::Tag && !config.objective.tag_scheme.has(label) {
                        Some(no_bio_tag(label))
                    } else if label.trim().is_empty() && !seen.contains_key(label) {
                        Some(no_label(kind))
                    } else if finds_classes && has_fraction(label) {
                        Some(no_class(label))
                    } else {
                        match seen.get_mut(label) {
                            Some(times) => {
                                *times += u64::from(trained);
                                None
                            }
                            None => Some(corpus.unknown_label(label)),
                        }
                    };
                    if let Some(fault) = fault {
                        faults.push(|| corpus.place_of_word(&unit, row, word), fault);
                    }
                };
                labels(&batch, &rows, kind == ObjectiveKind::Tag, &mut look).map_err(wrong)?;
                if kind == ObjectiveKind::Tag {
                    uneven(&batch, &rows, |row, fault| faults.push(|| corpus.place(&unit, Some(row)), fault))
                        .map_err(wrong)?;
                    if config.objective.tag_scheme == TagScheme::Bio {
                        let mut look = |row: u64, word: usize, tag: &str| {
                            stray
                                .get_or_insert_with(|| (corpus.place_of_word(&unit, row, word), tag.to_owned(), 0))
                                .2 += 1;
                        };
                        strays(&batch, &rows, &mut look).map_err(wrong)?;
                    }
                }
            }
        }
    }
    faults.into_result()?;
    if largest > NUMBER_MAX {
        warnings.push(format!(
            "labels go up to {largest}: scale them to a few units, or the squared error makes gradients that exact mode \
             cannot hold, and steps are skipped"
        ));
    }
    if let Some((one, other)) = alike(&corpus.labels).filter(|_| finds_classes) {
        warnings.push(format!(
            "the labels `{one}` and `{other}` differ in case or outer spaces alone, and are two classes"
        ));
    }
    if let Some((place, tag, count)) = stray {
        warnings.push(format!(
            "{place}: `{tag}` follows no tag of its kind ({}), and is counted as the beginning of a span: let spans begin \
             with B-",
            if count > 1 { format!("{count} such tags, the first here") } else { "the only such tag".to_owned() }
        ));
    }
    let unused: Vec<&str> = corpus.labels.iter().filter(|label| seen[*label] == 0).map(String::as_str).collect();
    if unused.is_empty() {
        return Ok(warnings);
    }
    let unused = unused.join("`, `");
    let what = if kind == ObjectiveKind::Tag { "no word" } else { "no row" };
    warnings.push(format!("{what} of the training data has the label `{unused}`, so it cannot be learned"));
    Ok(warnings)
}

fn no_label(kind: ObjectiveKind) -> Fault {
    let help = match kind {
        ObjectiveKind::Tag => "give each word a tag",
        _ => "write it, or leave the row out: null, in CSV a field of nothing at all",
    };
    ("the label is empty".to_owned(), help.to_owned())
}

/// Two labels that are likely meant to be one.
fn alike(labels: &[String]) -> Option<(&str, &str)> {
    let mut known: HashMap<String, &str> = HashMap::new();
    labels.iter().find_map(|label| Some((known.insert(label.trim().to_lowercase(), label)?, label.as_str())))
}

/// Whether a label is likelier a number to learn than a class.
fn has_fraction(label: &str) -> bool {
    label.trim().parse::<f64>().is_ok_and(|number| number.fract().abs() > 0.0)
}

fn no_class(label: &str) -> Fault {
    let help = "set objective.regression = true to learn numbers, or list the classes in objective.labels".to_owned();
    (format!("`{label}` is a number with a fraction, not a class"), help)
}

fn no_bio_tag(tag: &str) -> Fault {
    let help = "correct it, or set objective.tag_scheme = \"plain\"".to_owned();
    (format!("`{tag}` is no tag of `bio`, which are O, B-X and I-X"), help)
}

/// A label that is a number.
pub(crate) fn number(label: &str) -> Result<f64, Fault> {
    let parsed = label.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    parsed.ok_or_else(|| {
        let help = "correct the row, or leave out objective.regression to learn classes";
        (format!("`{label}` is no number"), help.to_owned())
    })
}

/// Every label of `rows` with its row and, where words have labels, its word.
pub(super) fn labels(
    batch: &RecordBatch,
    rows: &[usize],
    tagged: bool,
    look: &mut impl FnMut(u64, usize, &str),
) -> Result<(), String> {
    let column = batch.column(batch.num_columns() - 1);
    if !tagged {
        let labels = rows::text(column)?;
        rows.iter().for_each(|&row| look(row as u64, 0, labels.value(row)));
        return Ok(());
    }
    let lists = rows::text_lists(column)?;
    for &row in rows {
        for (word, label) in lists.value(row).as_string::<i64>().iter().enumerate() {
            if let Some(label) = label {
                look(row as u64, word, label);
            }
        }
    }
    Ok(())
}

/// Those of `rows` whose words and tags are not as many.
fn uneven(batch: &RecordBatch, rows: &[usize], mut fault: impl FnMut(u64, Fault)) -> Result<(), String> {
    let words = rows::text_lists(batch.column(0))?;
    let tags = rows::text_lists(batch.column(batch.num_columns() - 1))?;
    for &row in rows {
        if let Err(wrong) = one_tag_each(&words.value(row), &tags.value(row)) {
            fault(row as u64, wrong);
        }
    }
    Ok(())
}

/// Whether each word of a row has a tag.
pub(crate) fn one_tag_each(words: &dyn Array, tags: &dyn Array) -> Result<(), Fault> {
    if words.len() == tags.len() && words.null_count() + tags.null_count() == 0 {
        return Ok(());
    }
    let message = format!("{} words and {} tags, or a null among them", words.len(), tags.len());
    Err((message, "give each word one tag".to_owned()))
}

/// Tags of `rows` that say they continue a span, where none of their kind stands before them.
fn strays(batch: &RecordBatch, rows: &[usize], look: &mut impl FnMut(u64, usize, &str)) -> Result<(), String> {
    let lists = rows::text_lists(batch.column(batch.num_columns() - 1))?;
    for &row in rows {
        let tags = lists.value(row);
        let mut before = "";
        for (word, tag) in tags.as_string::<i64>().iter().enumerate() {
            let tag = tag.unwrap_or_default();
            if tag.strip_prefix("I-").is_some_and(|kind| before.get(2..) != Some(kind)) {
                look(row as u64, word, tag);
            }
            before = tag;
        }
    }
    Ok(())
}

/// Those of `rows` whose answers cannot be.
fn answers(
    batch: &RecordBatch,
    rows: &[usize],
    may_lack: bool,
    mut fault: impl FnMut(u64, Fault),
) -> Result<(), String> {
    let passages = rows::text(batch.column(0))?;
    let answers = AnswerRows::of(batch.column(batch.num_columns() - 1))?;
    for &row in rows {
        let found = match answers.row(row) {
            Ok(found) => found,
            Err(message) => {
                fault(row as u64, (message, "give each answer its text and its first character".to_owned()));
                continue;
            }
        };
        if found.is_empty() && !may_lack {
            fault(row as u64, no_answer());
            continue;
        }
        let found: Vec<(&str, i64)> = found.iter().map(|(text, start)| (text.as_str(), *start)).collect();
        if let Err(wrong) = locate(passages.value(row), &found) {
            fault(row as u64, wrong);
        }
    }
    Ok(())
}

/// Those of `rows` whose choices, or which of them is right, cannot be.
fn choices(
    batch: &RecordBatch,
    rows: &[usize],
    columns: &Columns,
    mut fault: impl FnMut(u64, Fault),
) -> Result<(), String> {
    let all = ChoiceRows::of(columns.choices_of(batch))?;
    let labels = rows::text(batch.column(batch.num_columns() - 1))?;
    for &row in rows {
        if let Some(Err(wrong)) =
            all.row(row).map(|choices| choices.checked(labels.value(row), columns.first_choice).map(drop))
        {
            fault(row as u64, wrong);
        }
    }
    Ok(())
}

/// For a question that has none where all must have one.
pub(crate) fn no_answer() -> Fault {
    let help = "set objective.no_answer_threshold = 0.0 to learn that questions may have none, or leave the row out";
    ("the question has no answer".to_owned(), help.to_owned())
}

impl Corpus {
    /// What is told of a label that is none of the run's.
    pub(crate) fn unknown_label(&self, label: &str) -> Fault {
        let known: Vec<&str> = self.labels.iter().take(20).map(String::as_str).collect();
        let key = if self.columns.verbalized { "[objective.verbalizers]" } else { "`objective.labels`" };
        let help = format!("correct the row, or add it to {key}; known: {}", known.join(", "));
        (format!("`{label}` is none of the {} labels", self.labels.len()), help)
    }
}
