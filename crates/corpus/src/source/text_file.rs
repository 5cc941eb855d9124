//! CSV, JSON lines and word/tag files, parsed whole: labelled data is small.

use super::choices;
use super::conll::conll;
use super::squad::{self, squad};
use super::{Columns, no_column, refuse_pointer};
use crate::{CorpusError, ErrorKind, Place, Spot};
use arrow::array::{ArrayRef, LargeListBuilder, LargeStringBuilder, RecordBatch};
use config::DataFormat;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The rows of a file.
pub(super) struct Parsed {
    /// Columns in the source's order, as LargeUtf8 or lists of it.
    pub(super) batch: RecordBatch,
    pub(super) spots: Spots,
}

/// Where each row stands.
pub(super) enum Spots {
    /// Its line, from 1, or the first of its lines.
    Lines(Vec<u64>),
    /// The lines of its words, from 1.
    Words(Vec<Vec<u64>>),
    /// As in [`Spot::Question`].
    Questions(Vec<String>),
}

impl Spots {
    /// Of a word of a row, where words have lines of their own, else of the row. None: there is no such row.
    pub(super) fn of(&self, row: u64, word: usize) -> Option<Spot> {
        let row = row as usize;
        match self {
            Self::Lines(lines) => lines.get(row).copied().map(Spot::Line),
            Self::Words(lines) => lines.get(row)?.get(word).copied().map(Spot::Line),
            Self::Questions(questions) => questions.get(row).cloned().map(Spot::Question),
        }
    }
}

/// Reads a whole file.
pub(super) fn parse(name: &str, bytes: &[u8], format: DataFormat, columns: &Columns) -> Result<Parsed, CorpusError> {
    match format {
        DataFormat::Csv => csv(name, bytes, columns),
        DataFormat::Jsonl if columns.answers => squad::lines(name, bytes, columns),
        DataFormat::Jsonl if columns.choices.len() == 1 => choices::lines(name, bytes, columns),
        DataFormat::Jsonl => jsonl(name, bytes, columns),
        DataFormat::WordTag => word_tag(name, bytes, columns),
        DataFormat::Squad => squad(name, bytes, columns),
        DataFormat::Conll => conll(name, bytes, columns),
        DataFormat::Parquet => unreachable!("Parquet is not parsed whole"),
    }
}

pub(super) fn broken(name: &str, line: u64, message: impl std::fmt::Display, help: &str) -> CorpusError {
    CorpusError::new(ErrorKind::Corrupt, Place::line(name, line), message.to_string(), help)
}

/// The text of a file, whatever its format.
pub(super) fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, CorpusError> {
    refuse_pointer(ErrorKind::Corrupt, name, bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + line_ends(&bytes[..error.valid_up_to()]);
        broken(name, line, "not UTF-8", "convert the file, for example with `iconv -f LATIN1 -t UTF-8`")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The objects of JSON lines, each with the number of its line.
pub(super) fn objects(name: &str, text: &str) -> impl Iterator<Item = Result<(u64, Map<String, Value>), CorpusError>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(move |(number, line)| match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(object) => Ok((number, object)),
        Err(error) => {
            Err(broken(name, number, wrong_json("line", line, &error).1, "each line must be one JSON object"))
        }
    })
}

/// The line of `text`, from 1, on which its JSON is wrong; and what is, with the column. serde_json says it all in one,
/// and counts bytes. `whole` is what the text is: a line, a file.
pub(super) fn wrong_json(whole: &str, text: &str, error: &serde_json::Error) -> (u64, String) {
    let (line, column, said) = (error.line(), error.column(), error.to_string());
    if error.is_eof() {
        return (line as u64, format!("the {whole} is cut off"));
    }
    let what = said.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&said);
    let wrong = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let column = wrong.char_indices().take_while(|(at, _)| *at < column).count();
    (line as u64, format!("{} at column {column}", plainly(what)))
}

/// What serde says of a wrong type, in words of JSON.
fn plainly(said: &str) -> String {
    const WORDS: [(&str, &str); 7] = [
        ("map", "an object"),
        ("a map", "an object"),
        ("sequence", "a list"),
        ("a sequence", "a list"),
        ("i64", "a whole number"),
        ("a string", "a text in quotes"),
        ("a boolean", "true or false"),
    ];
    let parts = |prefix: &str| said.strip_prefix(prefix)?.rsplit_once(", expected ");
    let named = parts("invalid type: ").or_else(|| parts("invalid value: "));
    // An object with keys of its own may be read of a list too, if it is as long.
    let named = named.or_else(|| parts("invalid length ").map(|(_, wanted)| ("sequence", wanted)));
    let Some((found, wanted)) = named else { return said.to_owned() };
    let wanted = if wanted.starts_with("struct ") { "a map" } else { wanted };
    let kinds = ["integer ", "floating point ", "string ", "boolean "];
    let found = kinds.iter().find_map(|kind| found.strip_prefix(*kind)).unwrap_or(found);
    let [found, wanted] =
        [found, wanted].map(|theirs| WORDS.iter().find(|(word, _)| *word == theirs).map_or(theirs, |(_, ours)| *ours));
    format!("{found} instead of {wanted}")
}

pub(super) fn finish(columns: &Columns, arrays: Vec<ArrayRef>, spots: Spots) -> Parsed {
    let names = columns.names().chain(columns.label.is_none().then_some("tags"));
    let batch = RecordBatch::try_from_iter_with_nullable(names.zip(arrays).map(|(name, array)| (name, array, true)))
        .expect("the arrays were filled row by row");
    Parsed { batch, spots }
}

fn csv(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    if columns.tagged || columns.answers || columns.choices.len() == 1 {
        let (what, help) = if columns.tagged {
            ("words and tags", "write the sentences as word-tag, CoNLL, JSONL or Parquet")
        } else if !columns.answers {
            ("choices", "name the columns that hold a choice each in `data.choice_columns`, or write JSONL or Parquet")
        } else {
            ("answers", "write the questions as SQuAD's JSON, JSONL or Parquet")
        };
        return Err(CorpusError::new(ErrorKind::Type, name, format!("CSV has no lists of {what}"), help));
    }
    let help = "quote fields that hold commas, quotes or line ends";
    let text = utf8(name, bytes)?.as_bytes();
    refuse_lost_quotes(name, text)?;
    // The line on which a record begins. What the reader says is where it began to look for it: at empty lines, or at
    // the `\n` of the `\r\n` before.
    let (mut line, mut counted) = (1, 0);
    let mut line_of = |position: Option<&::csv::Position>| {
        let from = position.map_or(0, |position| position.byte() as usize);
        let start = from + text[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        line += line_ends(&text[counted..start]);
        counted = start;
        line
    };
    let mut reader = ::csv::ReaderBuilder::new().from_reader(text);
    let header = reader.headers().map_err(|error| csv_error(name, 1, &error, help))?.clone();
    let known: Vec<&str> = header.iter().collect();
    let indices = columns
        .names()
        .map(|column| known.iter().position(|other| *other == column).ok_or_else(|| no_column(name, column, &known)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut builders: Vec<LargeStringBuilder> = indices.iter().map(|_| LargeStringBuilder::new()).collect();
    let mut record = ::csv::StringRecord::new();
    let mut lines = Vec::new();
    while reader.read_record(&mut record).map_err(|error| csv_error(name, line_of(error.position()), &error, help))? {
        lines.push(line_of(record.position()));
        for (builder, index) in builders.iter_mut().zip(&indices) {
            builder.append_option(record.get(*index).filter(|field| !field.is_empty()));
        }
    }
    let arrays = builders.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
    Ok(finish(columns, arrays, Spots::Lines(lines)))
}

/// Refuses a quote that begins a field and is not closed where the field ends. The reader goes on to the next quote,
/// wherever that is, and makes one text of all lines between.
fn refuse_lost_quotes(name: &str, text: &[u8]) -> Result<(), CorpusError> {
    let help = "close it where the field ends, or leave it out; inside a quoted field write each quote twice";
    let mut bytes = text.iter().copied().peekable();
    let (mut line, mut begins) = (1, true);
    while let Some(byte) = bytes.next() {
        line += u64::from(byte == b'\n');
        if byte != b'"' || !begins {
            begins = matches!(byte, b',' | b'\r' | b'\n');
            continue;
        }
        let opened = line;
        loop {
            match bytes.next() {
                // Two are one of the text.
                Some(b'"') if bytes.next_if_eq(&b'"').is_none() => break,
                Some(byte) => line += u64::from(byte == b'\n'),
                None => return Err(broken(name, opened, "a quote that opens here never closes", help)),
            }
        }
        if !matches!(bytes.peek(), None | Some(b',' | b'\r' | b'\n')) {
            let closes = if line == opened { "closes".to_owned() } else { format!("closes on line {line}") };
            return Err(broken(name, opened, format!("a quote that opens here {closes}, with text behind it"), help));
        }
        begins = false;
    }
    Ok(())
}

fn csv_error(name: &str, line: u64, error: &::csv::Error, help: &str) -> CorpusError {
    match error.kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            broken(name, line, format!("{len} fields where the header has {expected_len}"), help)
        }
        _ => broken(name, line, error, help),
    }
}

fn jsonl(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    let mut texts: Vec<LargeStringBuilder> = columns.names().map(|_| LargeStringBuilder::new()).collect();
    let mut lists: Vec<LargeListBuilder<LargeStringBuilder>> =
        columns.names().map(|_| LargeListBuilder::new(LargeStringBuilder::new())).collect();
    let mut seen = vec![false; texts.len()];
    let mut keys: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for object in objects(name, utf8(name, bytes)?) {
        let (number, object) = object?;
        lines.push(number);
        for (at, column) in columns.names().enumerate() {
            let tagged = columns.tagged && columns.group.as_deref() != Some(column);
            let value = object.get(column).unwrap_or(&Value::Null);
            seen[at] |= object.contains_key(column);
            let wrong = |wanted: &str| {
                let help = "name another column, or write this one as that type";
                broken(name, number, format!("`{column}` is {value}; needed is {wanted}"), help)
            };
            match (tagged, value) {
                (true, Value::Array(items)) => {
                    for item in items {
                        lists[at].values().append_value(scalar(item).ok_or_else(|| wrong("a list of text"))?);
                    }
                    lists[at].append(true);
                }
                (true, Value::Null) => lists[at].append(false),
                (true, _) => return Err(wrong("a list of text")),
                (false, Value::Null) => texts[at].append_null(),
                (false, value) => texts[at].append_value(scalar(value).ok_or_else(|| wrong("text"))?),
            }
        }
        if keys.is_empty() {
            keys = object.keys().cloned().collect();
        }
    }
    if let Some((column, _)) = columns.names().zip(&seen).find(|(_, seen)| !**seen && !keys.is_empty()) {
        return Err(no_column(name, column, &keys.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let arrays = columns.names().zip(texts.iter_mut().zip(&mut lists)).map(|(column, (texts, lists))| {
        let tagged = columns.tagged && columns.group.as_deref() != Some(column);
        if tagged { Arc::new(lists.finish()) as ArrayRef } else { Arc::new(texts.finish()) as ArrayRef }
    });
    Ok(finish(columns, arrays.collect(), Spots::Lines(lines)))
}

/// A JSON scalar as text: labels are often numbers or booleans.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// `The/at Fulton/np said/vbd`: a word may hold slashes, a tag may not. The People's Daily brackets compounds,
/// `[中央/n 电台/n]nt`; the brackets are dropped.
fn word_tag(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    if !columns.tagged {
        return Err(CorpusError::new(
            ErrorKind::Type,
            name,
            "a word/tag file holds tags, and this run does not learn tags",
            "set objective.kind = \"tag\", or give another file",
        ));
    }
    let mut words = LargeListBuilder::new(LargeStringBuilder::new());
    let mut tags = LargeListBuilder::new(LargeStringBuilder::new());
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(utf8(name, bytes)?.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        lines.push(number);
        for token in line.split_whitespace() {
            let parts = token.rsplit_once('/').filter(|(word, tag)| !word.is_empty() && !tag.is_empty());
            let (word, tag) = parts.ok_or_else(|| {
                let message = format!("`{token}` is no word/tag");
                broken(name, number, message, "write one sentence a line, each token as word/tag")
            })?;
            let tag = tag.split_once(']').map_or(tag, |(tag, _)| tag);
            let word = word.strip_prefix('[').filter(|rest| !rest.is_empty()).unwrap_or(word);
            words.values().append_value(word);
            tags.values().append_value(tag);
        }
        words.append(true);
        tags.append(true);
    }
    let names = Columns { text: "words".into(), tagged: true, ..Columns::default() };
    Ok(finish(&names, vec![Arc::new(words.finish()), Arc::new(tags.finish())], Spots::Lines(lines)))
}
