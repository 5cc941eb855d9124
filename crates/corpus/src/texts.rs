//! All texts of a corpus, one after the other: for what reads it once and keeps no cursor.

use crate::rows::TextRows;
use crate::source::{FileSource, UnitSource};
use crate::{CorpusError, ErrorKind, plan};

/// Rows read at once.
const READ_ROWS: u64 = 4096;

/// Calls `each` with every text of the first column, in the order of files and rows. Null rows are left out.
pub fn for_each_text(files: &FileSource, each: &mut dyn FnMut(&str)) -> Result<(), CorpusError> {
    let row_groups = files.files().iter().enumerate().flat_map(|(file, it)| {
        it.row_group_rows.iter().enumerate().map(move |(group, rows)| (file as u32, group as u32, *rows))
    });
    for unit in plan::cut(row_groups, READ_ROWS) {
        let wrong = |message: String| {
            CorpusError::new(ErrorKind::Type, files.place(&unit, None), message, "name a column that holds text")
        };
        let TextRows::Text(texts) = TextRows::of(files.read(&unit)?.column(0)).map_err(wrong)? else {
            return Err(wrong("the column holds lists, not text".to_owned()));
        };
        texts.iter().flatten().for_each(&mut *each);
    }
    Ok(())
}
