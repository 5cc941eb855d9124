//! Rows of labelled data that lack a text or a label, which nothing is learned from: how many, and the first.

use super::{LABEL_HELP, row_groups};
use crate::choices::ChoiceRows;
use crate::documents::is_filled;
use crate::rows;
use crate::source::Columns;
use crate::{Corpus, CorpusError, ErrorKind, Place};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use config::ObjectiveKind;

/// What is told of them, if there are any, and what is wrong where nothing else is left to measure on. Where nothing is left
/// to learn from, that is an error.
pub(super) fn told(corpus: &Corpus, kind: ObjectiveKind) -> Result<(Vec<String>, Option<CorpusError>), CorpusError> {
    let (mut warnings, mut unmeasured) = (Vec::new(), None);
    if !kind.is_supervised() {
        return Ok((warnings, unmeasured));
    }
    let columns = corpus.columns();
    let label = columns.label.as_deref().filter(|_| kind != ObjectiveKind::Answer);
    let looked_at = [Some(columns.text.as_str()), columns.pair.as_deref()].into_iter().flatten();
    let looked_at = looked_at.chain(columns.choices.iter().map(String::as_str)).chain(label);
    let names: Vec<String> = looked_at.map(|name| format!("`{name}`")).collect();
    let nothing = format!("nothing in {}", names.join(" or "));
    for (held_out, key, whose) in [(false, "data.paths", ""), (true, "data.eval_paths", " of `data.eval_paths`")] {
        let (mut first, mut count, mut all): (Option<Place>, u64, u64) = (None, 0, 0);
        for unit in row_groups(&corpus.files).filter(|unit| corpus.files[unit.file as usize].held_out == held_out) {
            let left_out = left_out(kind, columns, &corpus.source().read(&unit)?)
                .map_err(|message| CorpusError::new(ErrorKind::Type, corpus.place(&unit, None), message, LABEL_HELP))?;
            if let (None, Some(row)) = (&first, left_out.iter().position(|is| *is)) {
                first = Some(corpus.place(&unit, Some(row as u64)));
            }
            count += left_out.iter().filter(|is| **is).count() as u64;
            all += unit.rows;
        }
        let Some(first) = first else { continue };
        warnings.push(format!("{count} of {all} rows{whose} have {nothing} and are left out; the first: {first}"));
        if count == all {
            let message = format!("this row and all others of `{key}` ({count}) have {nothing}");
            let help = format!("name the columns that hold them in `[data]`, or other files in `{key}`");
            let error = CorpusError::new(ErrorKind::Empty, first, message, help);
            if !held_out {
                return Err(error);
            }
            unmeasured = Some(error);
        }
    }
    Ok((warnings, unmeasured))
}

/// For each row of labelled data whether it lacks a text or a label: no sample is made of such a row. An error is what is
/// wrong with a column.
pub(crate) fn left_out(kind: ObjectiveKind, columns: &Columns, batch: &RecordBatch) -> Result<Vec<bool>, String> {
    let label = batch.column(batch.num_columns() - 1);
    let texts = &batch.columns()[..1 + usize::from(columns.pair.is_some())];
    let nulls = |columns: &[ArrayRef]| -> Vec<NullBuffer> {
        columns.iter().filter_map(|column| column.logical_nulls()).collect()
    };
    let (text_nulls, label_nulls) = (nulls(texts), nulls(std::slice::from_ref(label)));
    let no_text = |row: usize| text_nulls.iter().any(|nulls| nulls.is_null(row));
    let no_label = |row: usize| label_nulls.iter().any(|nulls| nulls.is_null(row));
    let rows = 0..batch.num_rows();
    Ok(match kind {
        ObjectiveKind::Tag => {
            let (words, tags) = (rows::text_lists(&texts[0])?, rows::text_lists(label)?);
            rows.map(|row| !is_filled(&words, row) || !is_filled(&tags, row)).collect()
        }
        ObjectiveKind::Answer => {
            let passages = rows::text(&texts[0])?;
            rows.map(|row| no_text(row) || passages.value(row).trim().is_empty()).collect()
        }
        ObjectiveKind::Choose => {
            let all = ChoiceRows::of(columns.choices_of(batch))?;
            rows.map(|row| no_text(row) || no_label(row) || all.row(row).is_none()).collect()
        }
        ObjectiveKind::Match => rows.map(no_text).collect(),
        _ => rows.map(|row| no_text(row) || no_label(row)).collect(),
    })
}

/// The other rows.
pub(super) fn used(kind: ObjectiveKind, columns: &Columns, batch: &RecordBatch) -> Result<Vec<usize>, String> {
    let left_out = left_out(kind, columns, batch)?;
    Ok((0..batch.num_rows()).filter(|row| !left_out[*row]).collect())
}
