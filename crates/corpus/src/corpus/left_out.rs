//! Rows of labelled data that lack a text or a label, which nothing is learned from: how many, and the first.

use super::LABEL_HELP;
use crate::choices::ChoiceRows;
use crate::documents::is_filled;
use crate::plan::Unit;
use crate::rows;
use crate::{Corpus, CorpusError, ErrorKind, Place};
use arrow::array::{Array, RecordBatch};
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
            let lacking = lacking(corpus, kind, &corpus.source().read(&unit)?)
                .map_err(|message| CorpusError::new(ErrorKind::Type, corpus.place(&unit, None), message, LABEL_HELP))?;
            if let (None, Some(row)) = (&first, lacking.first()) {
                first = Some(corpus.place(&unit, Some(*row as u64)));
            }
            (count, all) = (count + lacking.len(), all + rows);
        }
    }
    let Some(first) = first else { return Ok(None) };
    let names: Vec<String> = corpus.columns().names().map(|name| format!("`{name}`")).collect();
    let names = names.join(" or ");
    Ok(Some(format!("{count} of {all} rows have nothing in {names} and are left out; the first: {first}")))
}

/// The rows that [`crate::prepare`] skips.
fn lacking(corpus: &Corpus, kind: ObjectiveKind, batch: &RecordBatch) -> Result<Vec<usize>, String> {
    let columns = corpus.columns();
    let label = batch.column(batch.num_columns() - 1);
    let texts = &batch.columns()[..1 + usize::from(columns.pair.is_some())];
    let no_text = |row: usize| texts.iter().any(|column| column.is_null(row));
    let rows = 0..batch.num_rows();
    Ok(match kind {
        ObjectiveKind::Tag => {
            let (words, tags) = (rows::text_lists(&texts[0])?, rows::text_lists(label)?);
            rows.filter(|row| !is_filled(&words, *row) || !is_filled(&tags, *row)).collect()
        }
        ObjectiveKind::Answer => {
            let passages = rows::text(&texts[0])?;
            rows.filter(|row| no_text(*row) || passages.value(*row).trim().is_empty()).collect()
        }
        ObjectiveKind::Choose => {
            let all = ChoiceRows::of(columns.choices_of(batch))?;
            rows.filter(|row| no_text(*row) || label.is_null(*row) || all.row(*row).is_none()).collect()
        }
        ObjectiveKind::Match => rows.filter(|row| no_text(*row)).collect(),
        _ => rows.filter(|row| no_text(*row) || label.is_null(*row)).collect(),
    })
}
