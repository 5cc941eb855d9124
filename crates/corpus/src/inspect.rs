//! What people ask of a corpus before they train on it: `coordinator data inspect` and `data plan`.

use crate::documents::is_filled;
use crate::plan::{Plan, Unit};
use crate::rows::TextRows;
use crate::source::{CorpusFile, UnitSource, place};
use crate::{CorpusError, ErrorKind, Tokenizer};
use arrow::array::Array;
use serde::Serialize;
use types::SlotId;

/// Row ranges looked at, spread evenly over the corpus.
const PROBES: u64 = 16;

/// Rows in each.
const PROBE_ROWS: u64 = 64;

/// Files, row groups and an estimate of what is in them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// In order.
    pub files: Vec<CorpusFile>,
    /// Of all files.
    pub rows: u64,
    /// Of all files, as stored.
    pub bytes: u64,
    /// Rows looked at for the estimates.
    pub sampled_rows: u64,
    /// Of those: null or empty.
    pub sampled_null_rows: u64,
    /// Mean tokens of a row looked at; None for text without a tokenizer.
    pub tokens_per_row: Option<f64>,
    /// Of all files.
    pub estimated_tokens: Option<u64>,
}

/// Looks at files and at a few of their rows.
pub fn inspect(
    files: &[CorpusFile],
    source: &dyn UnitSource,
    tokenizer: Option<&Tokenizer>,
) -> Result<Inspection, CorpusError> {
    let rows: u64 = files.iter().map(CorpusFile::rows).sum();
    let mut sampled_rows = 0;
    let mut sampled_null_rows = 0;
    let mut tokens = Some(0);
    for unit in probes(files, rows) {
        let batch = source.read(&unit)?;
        let wrong = |message| {
            CorpusError::new(ErrorKind::Type, place(files, &unit, None), message, "name a column of text or token ids")
        };
        let lists = |column| crate::rows::text_lists(column).map_err(wrong);
        sampled_rows += unit.rows;
        let column = TextRows::of(batch.column(0)).map_err(wrong)?;
        for row in 0..batch.num_rows() {
            let counted = match &column {
                TextRows::Text(texts) if texts.is_null(row) => None,
                TextRows::Text(texts) => Some(match tokenizer {
                    Some(tokenizer) => Some(tokenizer.encode(texts.value(row))?.len() as u64),
                    None => None,
                }),
                TextRows::Ids(ids) => is_filled(ids, row).then(|| Some(ids.value_length(row) as u64)),
                TextRows::Words => {
                    let words = lists(batch.column(0))?;
                    is_filled(&words, row).then(|| Some(words.value_length(row) as u64))
                }
            };
            match counted {
                None => sampled_null_rows += 1,
                Some(count) => tokens = tokens.zip(count).map(|(tokens, count)| tokens + count),
            }
        }
    }
    let tokens_per_row = tokens.filter(|_| sampled_rows > 0).map(|tokens| tokens as f64 / sampled_rows as f64);
    Ok(Inspection {
        files: files.to_vec(),
        rows,
        bytes: files.iter().map(|file| file.bytes).sum(),
        sampled_rows,
        sampled_null_rows,
        tokens_per_row,
        estimated_tokens: tokens_per_row.map(|mean| (mean * rows as f64).round() as u64),
    })
}

/// The row ranges that an estimate is made from.
fn probes(files: &[CorpusFile], rows: u64) -> Vec<Unit> {
    let mut probes = Vec::new();
    let mut passed = 0;
    for (file, it) in files.iter().enumerate() {
        for (row_group, group_rows) in it.row_group_rows.iter().enumerate() {
            for probe in 0..PROBES {
                let first = rows * probe / PROBES;
                if (passed..passed + group_rows).contains(&first) {
                    let first_row = first - passed;
                    let rows = PROBE_ROWS.min(group_rows - first_row).min((rows / PROBES).max(1));
                    probes.push(Unit { file: file as u32, row_group: row_group as u32, first_row, rows });
                }
            }
            passed += group_rows;
        }
    }
    probes.dedup();
    probes
}

/// One slot's turn, with the unit spelt out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TurnView {
    /// The slot's turn.
    pub turn: u64,
    /// The slot.
    pub slot: SlotId,
    /// The epoch that the turn falls into.
    pub epoch: u64,
    /// Index of the unit in the plan.
    pub unit: usize,
    /// Path or URL.
    pub file: String,
    /// Of the file.
    pub row_group: u32,
    /// Of the row group.
    pub first_row: u64,
    /// Of the unit.
    pub rows: u64,
}

/// The first `turns` turns of every slot, turn by turn.
pub fn first_turns(plan: &Plan, files: &[CorpusFile], turns: u64) -> Vec<TurnView> {
    let slots = move |turn| (0..plan.slots()).map(move |slot| (turn, SlotId(slot)));
    (0..turns)
        .flat_map(slots)
        .map(|(turn, slot)| {
            let dealt = plan.deal(slot, turn);
            let unit = plan.units()[dealt.unit];
            TurnView {
                turn,
                slot,
                epoch: dealt.epoch,
                unit: dealt.unit,
                file: files.get(unit.file as usize).map_or_else(String::new, |file| file.path.clone()),
                row_group: unit.row_group,
                first_row: unit.first_row,
                rows: unit.rows,
            }
        })
        .collect()
}
