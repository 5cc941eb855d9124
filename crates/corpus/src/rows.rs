//! A unit's columns in the few types that the rest of the room knows.

use arrow::array::{Array, ArrayRef, AsArray, LargeListArray, LargeStringArray};
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
