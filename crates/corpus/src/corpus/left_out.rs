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

/// What is told of them, if there are any. Files to learn from, or to measure on, of which nothing else is left are refused.
pub(super) fn told(corpus: &Corpus, kind: ObjectiveKind) -> Result<Option<String>, CorpusError> {
    if !kind.is_supervised() {
        return Ok(None);
    }
    let names: Vec<String> = corpus.columns().names().map(|name| format!("`{name}`")).collect();
    let nothing = format!("nothing in {}", names.join(" or "));
    let (mut first, mut count, mut all): (Option<Place>, u64, u64) = (None, 0, 0);
    for held_out in [false, true] {
        let (mut its_first, mut its_count, mut its_rows): (Option<Place>, u64, u64) = (None, 0, 0);
        for unit in row_groups(&corpus.files).filter(|unit| corpus.files[unit.file as usize].held_out == held_out) {
            let left_out = left_out(kind, corpus.columns(), &corpus.source().read(&unit)?)
                .map_err(|message| CorpusError::new(ErrorKind::Type, corpus.place(&unit, None), message, LABEL_HELP))?;
            if let (None, Some(row)) = (&its_first, left_out.iter().position(|is| *is)) {
                its_first = Some(corpus.place(&unit, Some(row as u64)));
            }
            its_count += left_out.iter().filter(|is| **is).count() as u64;
            its_rows += unit.rows;
        }
        if let Some(place) = its_first.clone().filter(|_| its_count == its_rows) {
            let key = if held_out { "data.eval_paths" } else { "data.paths" };
            let message = format!("this row and all others of `{key}` ({its_count}) have {nothing}");
            let help = format!("name the columns that hold them in `[data]`, or other files in `{key}`");
            return Err(CorpusError::new(ErrorKind::Empty, place, message, help));
        }
        first = first.or(its_first);
        (count, all) = (count + its_count, all + its_rows);
    }
    Ok(first.map(|first| format!("{count} of {all} rows have {nothing} and are left out; the first: {first}")))
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
