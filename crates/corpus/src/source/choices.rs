//! Multiple choice as JSON lines: a text, the list of its choices, and which one is right.

use super::text_file::{Parsed, Spots, broken, finish, objects, scalar, utf8};
use super::{Columns, no_column};
use crate::CorpusError;
use crate::rows::choice_lists;
use arrow::array::{ArrayRef, LargeListBuilder, LargeStringBuilder};
use serde_json::Value;
use std::sync::Arc;

const HELP: &str = "write the choices as a list of texts, or as {\"text\": […], \"label\": […]}";

/// One JSON object a line. The choices are `["…", "…"]`, or `{"text": ["…", "…"], "label": ["A", "B"]}` (Hugging Face's
/// `datasets` of CommonsenseQA, ARC and OpenBookQA).
pub(super) fn lines(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    let names: Vec<&str> = columns.names().collect();
    let mut plain: Vec<LargeStringBuilder> = names.iter().map(|_| LargeStringBuilder::new()).collect();
    let [mut texts, mut labels] = [(); 2].map(|()| LargeListBuilder::new(LargeStringBuilder::new()));
    let is_choice = |column: &str| columns.choices.iter().any(|choice| choice == column);
    // A line may leave something out, but not every line: then the name is wrong.
    let mut seen = vec![false; names.len()];
    let mut keys: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for object in objects(name, utf8(name, bytes)?) {
        let (number, object) = object?;
        lines.push(number);
        for ((column, plain), seen) in names.iter().zip(&mut plain).zip(&mut seen) {
            let value = object.get(*column).unwrap_or(&Value::Null);
            *seen |= object.contains_key(*column);
            if is_choice(column) {
                let read = read(value).ok_or_else(|| broken(name, number, format!("`{column}` is {value}"), HELP))?;
                append(&mut texts, read.as_ref().map(|(texts, _)| texts));
                append(&mut labels, read.as_ref().and_then(|(_, labels)| labels.as_ref()));
                continue;
            }
            match value {
                Value::Null => plain.append_null(),
                value => plain.append_value(scalar(value).ok_or_else(|| {
                    let help = "name another column, or write this one as that type";
                    broken(name, number, format!("`{column}` is {value}; needed is text"), help)
                })?),
            }
        }
        if keys.is_empty() {
            keys = object.keys().cloned().collect();
        }
    }
    if let Some((column, _)) = names.iter().zip(&seen).find(|(_, seen)| !**seen && !keys.is_empty()) {
        return Err(no_column(name, column, &keys.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let mut lists = Some(choice_lists(texts.finish(), labels.finish()));
    let arrays = names.iter().zip(&mut plain).map(|(column, plain)| match lists.take_if(|_| is_choice(column)) {
        Some(lists) => lists,
        None => Arc::new(plain.finish()) as ArrayRef,
    });
    Ok(finish(columns, arrays.collect(), Spots::Lines(lines)))
}

type List = Vec<Option<String>>;

/// The texts, and their labels where they have any; None within: there is nothing. None: it is something else.
fn read(value: &Value) -> Option<Option<(List, Option<List>)>> {
    let list = |value: &Value| -> Option<List> {
        let one = |item: &Value| if item.is_null() { Some(None) } else { scalar(item).map(Some) };
        value.as_array()?.iter().map(one).collect()
    };
    match value {
        Value::Null => Some(None),
        Value::Array(_) => Some(Some((list(value)?, None))),
        Value::Object(lists) => Some(Some((list(lists.get("text")?)?, Some(list(lists.get("label")?)?)))),
        _ => None,
    }
}

fn append(builder: &mut LargeListBuilder<LargeStringBuilder>, list: Option<&List>) {
    for item in list.into_iter().flatten() {
        builder.values().append_option(item.as_deref());
    }
    builder.append(list.is_some());
}
