//! Rows of labelled data that lack a text or a label, which nothing is learned from: how many, and the first.

use super::LABEL_HELP;
use crate::choices::ChoiceRows;
use crate::documents::is_filled;
use crate::plan::Unit;
use crate::rows;
use crate::source::Columns;
use crate::{Corpus, CorpusError, ErrorKind, Place};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use config::ObjectiveKind;

/// What is told of them, if there are any.
pub(super) fn told(corpus: &Corpus, kind: ObjectiveKind) -> Result<Option<String>, CorpusError> {
    if !kind.is_supervised() {
        return Ok(None);
    }
    let (mut first, mut count, mut all): (Option<Place>, usize, u64) = (None, 0, 0);
    for (file, it) in corpus.files().iter().enumerate() {
        for (group, &rows) in it.row_group_rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            let unit = Unit { file: file as u32, row_group: group as u32, first_row: 0, rows };
            let left_out = left_out(kind, corpus.columns(), &corpus.source().read(&unit)?)
                .map_err(|message| CorpusError::new(ErrorKind::Type, corpus.place(&unit, None), message, LABEL_HELP))?;
            if let (None, Some(row)) = (&first, left_out.iter().position(|is| *is)) {
                first = Some(corpus.place(&unit, Some(row as u64)));
            }
            (count, all) = (count + left_out.iter().filter(|is| **is).count(), all + rows);
        }
    }
    let Some(first) = first else { return Ok(None) };
    let names: Vec<String> = corpus.columns().names().map(|name| format!("`{name}`")).collect();
    let names = names.join(" or ");
    Ok(Some(format!("{count} of {all} rows have nothing in {names} and are left out; the first: {first}")))
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
