//! A unit's columns in the few types that the rest of the room knows.

use arrow::array::{Array, ArrayRef, AsArray, LargeListArray, LargeStringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use std::sync::Arc;

/// The text column.
pub(crate) enum TextRows {
    Text(LargeStringArray),
    /// Token ids, made elsewhere.
    Ids(LargeListArray),
    /// Lists of text: words to tag.
    Words,
}

impl TextRows {
    /// Whatever text or list type a file has; an error is what is wrong with it.
    pub(crate) fn of(array: &ArrayRef) -> Result<Self, String> {
        let element = match array.data_type() {
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => field.data_type(),
            _ => return Ok(Self::Text(text(array)?)),
        };
        if element.is_integer() { Ok(Self::Ids(list_of(array, DataType::Int64)?)) } else { Ok(Self::Words) }
    }
}

/// Any column of text, whole numbers or booleans, as text.
pub(crate) fn text(array: &ArrayRef) -> Result<LargeStringArray, String> {
    let array = cast(array, &DataType::LargeUtf8).map_err(|error| error.to_string())?;
    Ok(array.as_string::<i64>().clone())
}

/// Any list of text or whole numbers, as a list of text.
pub(crate) fn text_lists(array: &ArrayRef) -> Result<LargeListArray, String> {
    list_of(array, DataType::LargeUtf8)
}

fn list_of(array: &ArrayRef, element: DataType) -> Result<LargeListArray, String> {
    let wanted = DataType::LargeList(Arc::new(Field::new_list_field(element, true)));
    let array = cast(array, &wanted).map_err(|error| error.to_string())?;
    Ok(array.as_list::<i64>().clone())
}

/// Whether a column can hold answers: `text` and `answer_start`, two lists (Hugging Face's `datasets`) or a list of both.
pub(crate) fn are_answers(data_type: &DataType) -> bool {
    let fields = match data_type {
        DataType::Struct(fields) => fields,
        DataType::List(field) | DataType::LargeList(field) => match field.data_type() {
            DataType::Struct(fields) => fields,
            _ => return false,
        },
        _ => return false,
    };
    ["text", "answer_start"].iter().all(|name| fields.iter().any(|field| field.name() == name))
}

/// Whether a column can hold choices that have labels of their own: two lists, `text` and `label` (`datasets`).
pub(crate) fn are_choices(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else { return false };
    ["text", "label"].iter().all(|name| fields.iter().any(|field| field.name() == name))
}

/// Such a column, of lists of text.
pub(crate) fn choice_lists(texts: LargeListArray, labels: LargeListArray) -> ArrayRef {
    let field = |name: &str, lists: &LargeListArray| Arc::new(Field::new(name, lists.data_type().clone(), true));
    let (text, label) = (field("text", &texts), field("label", &labels));
    Arc::new(StructArray::from(vec![(text, Arc::new(texts) as ArrayRef), (label, Arc::new(labels) as ArrayRef)]))
}

/// The answers of each row: text and first character.
pub(crate) struct AnswerRows {
    texts: LargeListArray,
    starts: LargeListArray,
    whole: ArrayRef,
}

impl AnswerRows {
    /// Whatever layout a file has; an error is what is wrong with it.
    pub(crate) fn of(array: &ArrayRef) -> Result<Self, String> {
        let lists = |answers: &StructArray, name: &str| {
            answers.column_by_name(name).cloned().ok_or_else(|| format!("the answers have no `{name}`"))
        };
        let (texts, starts) = match array.data_type() {
            DataType::Struct(_) => {
                let answers = array.as_struct();
                (lists(answers, "text")?, lists(answers, "answer_start")?)
            }
            DataType::List(field) | DataType::LargeList(field) if matches!(field.data_type(), DataType::Struct(_)) => {
                let element = Arc::new(Field::new_list_field(field.data_type().clone(), true));
                let all = cast(array, &DataType::LargeList(element)).map_err(|error| error.to_string())?;
                let all = all.as_list::<i64>();
                let answers = all.values().as_struct();
                let list = |name: &str| -> Result<ArrayRef, String> {
                    let values = lists(answers, name)?;
                    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
                    let list = LargeListArray::try_new(field, all.offsets().clone(), values, all.nulls().cloned());
                    Ok(Arc::new(list.map_err(|error| error.to_string())?))
                };
                (list("text")?, list("answer_start")?)
            }
            other => return Err(format!("{other} holds no answers")),
        };
        let (texts, starts) = (list_of(&texts, DataType::LargeUtf8)?, list_of(&starts, DataType::Int64)?);
        Ok(Self { texts, starts, whole: array.clone() })
    }

    /// Those of one row; none where the column is null. An error is what is wrong with them.
    pub(crate) fn row(&self, row: usize) -> Result<Vec<(String, i64)>, String> {
        if self.whole.is_null(row) || self.texts.is_null(row) {
            return Ok(Vec::new());
        }
        let (texts, starts) = (self.texts.value(row), self.starts.value(row));
        if texts.len() != starts.len() || self.starts.is_null(row) || texts.null_count() + starts.null_count() > 0 {
            return Err(format!("{} texts and {} starts of answers, or a null among them", texts.len(), starts.len()));
        }
        let texts = texts.as_string::<i64>();
        let starts = starts.as_primitive::<Int64Type>();
        Ok((0..texts.len()).map(|at| (texts.value(at).to_owned(), starts.value(at))).collect())
    }
}

/// The ids of one row of a list of ids; the error is the first value that is no id below `size`.
pub(crate) fn append_ids(lists: &LargeListArray, row: usize, size: usize, out: &mut Vec<u32>) -> Result<(), String> {
    let values = lists.value(row);
    let values = values.as_primitive::<Int64Type>();
    for at in 0..values.len() {
        if values.is_null(at) {
            return Err("null".to_owned());
        }
        match u32::try_from(values.value(at)) {
            Ok(id) if (id as usize) < size => out.push(id),
            _ => return Err(values.value(at).to_string()),
        }
    }
    Ok(())
}
