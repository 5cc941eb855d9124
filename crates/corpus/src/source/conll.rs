//! CoNLL's columns: a word a line with its tags beside it, an empty line between sentences.

use super::Columns;
use super::text_file::{Parsed, Spots, broken, finish, utf8};
use crate::{CorpusError, ErrorKind};
use arrow::array::{LargeListBuilder, LargeStringBuilder};
use std::sync::Arc;

/// The documents of CoNLL-2002 and 2003 begin with a line of this.
const DOCUMENT: &str = "-DOCSTART-";

/// Columns of CoNLL-U, in whose files what begins with `#` and has no columns is a comment.
const UNIVERSAL: usize = 10;

/// Columns are parted by tabs or by white space, all lines of a file alike. With tabs, a line that begins with `#` and has
/// none is a comment, and of ten columns those whose first is `1-2` or `8.1` are no words of the text (CoNLL-U).
pub(super) fn conll(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    if !columns.tagged {
        return Err(CorpusError::new(
            ErrorKind::Type,
            name,
            "a CoNLL file holds tags, and this run does not learn tags",
            "set objective.kind = \"tag\", or give another file",
        ));
    }
    let no_number = |column: &str, key: &str, default: &str| {
        let message = format!("`{column}` is no column: those of a CoNLL file have numbers");
        let help = format!("set `data.{key}` to the number of the column, from 1, or leave it out for the {default}");
        CorpusError::new(ErrorKind::Column, name, message, help)
    };
    let word_column = match columns.text.as_str() {
        DEFAULT_COLUMN => 1,
        named => number(named).ok_or_else(|| no_number(named, "column", "first"))?,
    };
    let tag_column = match &columns.label {
        None => None,
        Some(label) => Some(number(label).ok_or_else(|| no_number(label, "label_column", "last"))?),
    };
    let mut words = LargeListBuilder::new(LargeStringBuilder::new());
    let mut tags = LargeListBuilder::new(LargeStringBuilder::new());
    // The lines of the words of each sentence, and of the one at hand.
    let (mut lines, mut sentence) = (Vec::new(), Vec::new());
    // The columns of the first line, and its number.
    let mut width: Option<(usize, u64)> = None;
    let text = utf8(name, bytes)?;
    let tabbed = parted_by_tabs(name, text)?;
    // What is behind the last line ends a sentence, too.
    for (line_number, line) in (1..).zip(text.lines().chain([""])) {
        if !is_word(line) {
            if !sentence.is_empty() {
                words.append(true);
                tags.append(true);
                lines.push(std::mem::take(&mut sentence));
            }
            continue;
        }
        if tabbed && line.starts_with('#') && !line.contains('\t') {
            continue;
        }
        let cells: Vec<&str> = if tabbed {
            line.trim_end_matches(['\r', '\n']).split('\t').map(str::trim).collect()
        } else {
            line.split_whitespace().collect()
        };
        if tabbed && cells.len() == UNIVERSAL && cells[0].contains(['-', '.']) {
            continue;
        }
        let (expected, first_line) = *width.get_or_insert((cells.len(), line_number));
        if cells.len() != expected || cells.len() < 2 || cells.iter().any(|cell| cell.is_empty()) {
            let message = if cells.len() == expected && cells.len() > 1 {
                "a column is empty".to_owned()
            } else if cells.len() == expected {
                format!("only one column, where a word has its tags beside it: `{line}`")
            } else {
                format!("{} column(s) where line {first_line} has {expected}: `{line}`", cells.len())
            };
            let help = "give each word one line with the same columns, and an empty line between sentences";
            return Err(broken(name, line_number, message, help));
        }
        let cell = |column: usize, key: &str| {
            cells.get(column - 1).copied().ok_or_else(|| {
                let message = format!("there is no column {column}: the file has {expected}");
                broken(name, line_number, message, &format!("set `data.{key}` to 1 to {expected}"))
            })
        };
        words.values().append_value(cell(word_column, "column")?);
        tags.values().append_value(cell(tag_column.unwrap_or(expected), "label_column")?);
        sentence.push(line_number);
    }
    let names = Columns { text: "words".into(), tagged: true, ..Columns::default() };
    Ok(finish(&names, vec![Arc::new(words.finish()), Arc::new(tags.finish())], Spots::Words(lines)))
}

/// Whether the line holds a word or a comment.
fn is_word(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with(DOCUMENT)
}

/// Whether the columns are parted by tabs. A line that does it otherwise than most lines is refused; where as many do
/// either, the first one is right.
fn parted_by_tabs(name: &str, text: &str) -> Result<bool, CorpusError> {
    let (mut tabs, mut spaces) = (Vec::new(), Vec::new());
    for (number, line) in (1_u64..).zip(text.lines()).filter(|(_, line)| is_word(line)) {
        if line.trim().contains('\t') {
            tabs.push(number);
        } else if !line.starts_with('#') && line.split_whitespace().nth(1).is_some() {
            spaces.push(number);
        }
    }
    let (Some(tab), Some(space)) = (tabs.first(), spaces.first()) else { return Ok(!tabs.is_empty()) };
    let (line, message) = if (tabs.len(), space) > (spaces.len(), tab) {
        (space, format!("spaces between columns, and a tab on line {tab}"))
    } else {
        (tab, format!("a tab between columns, and spaces on line {space}"))
    };
    Err(broken(name, *line, message, "part the columns of all lines alike: with a tab, or with spaces"))
}

/// What `data.column` is where a config leaves it out.
const DEFAULT_COLUMN: &str = "text";

/// A column's number, from 1.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| *number > 0)
}
