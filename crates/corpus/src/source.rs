//! Where a unit's rows come from. The implementation here reads files and object stores; the worker has another one
//! that asks the coordinator.

mod choices;
mod conll;
mod locate;
mod parquet_file;
mod pointer;
mod squad;
mod text_file;

use crate::plan::Unit;
use crate::{CorpusError, ErrorKind, Place, Spot, rows};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use config::{DataConfig, DataFormat, ObjectiveKind, RunConfig};
use locate::Located;
use parquet_file::ParquetFile;
pub use pointer::refuse_pointer;
use serde::{Deserialize, Serialize};
pub use squad::{SquadQuestion, squad_questions};
use std::collections::HashMap;
use text_file::Parsed;
pub use text_file::scalar;

/// Reads units. Blocking: an async caller goes through its blocking pool.
pub trait UnitSource: Send + Sync {
    /// The rows of `unit`: columns in the order text, pair, group, choices, label, each if configured.
    fn read(&self, unit: &Unit) -> Result<RecordBatch, CorpusError>;

    /// Where in its file a unit stands, or a row of it, from 0. Whoever does not have the file at hand counts rows.
    fn spot(&self, unit: &Unit, row: Option<u64>) -> Spot {
        counted(unit, row)
    }

    /// Where a word of a row stands, both from 0: on a line of its own in CoNLL's columns, else where the row does.
    fn spot_of_word(&self, unit: &Unit, row: u64, _word: usize) -> Spot {
        self.spot(unit, Some(row))
    }
}

/// One file of a corpus: what the plan is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusFile {
    /// Path or URL.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Rows of each row group; a file that is not Parquet has one.
    pub row_group_rows: Vec<u64>,
    /// From `data.eval_paths`.
    pub held_out: bool,
}

impl CorpusFile {
    /// All rows.
    pub fn rows(&self) -> u64 {
        self.row_group_rows.iter().sum()
    }
}

/// Which columns are read, and what they must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The text, or the token ids, or the words to tag.
    pub text: String,
    /// The second text.
    pub pair: Option<String>,
    /// Class or tags.
    pub label: Option<String>,
    /// The text column is a list of words and the label column a list of tags.
    pub tagged: bool,
    /// The text is a passage, the second text a question, and the label the answers.
    pub answers: bool,
    /// The label is a number.
    pub numbers: bool,
    /// The labels are those of `[objective.verbalizers]`, not of `objective.labels`.
    pub verbalized: bool,
    /// Rows with the same here stay together.
    pub group: Option<String>,
    /// One column of lists, or one for each choice.
    pub choices: Vec<String>,
    /// The number of the first choice in labels.
    pub first_choice: usize,
}

impl Columns {
    /// What a run's config asks for.
    pub fn of(config: &RunConfig) -> Self {
        let DataConfig { column, pair_column, label_column, group_column, choice_columns, first_choice, .. } =
            &config.data;
        let kind = config.objective.kind;
        let answers = kind == ObjectiveKind::Answer;
        let (pair, label) = match kind {
            ObjectiveKind::Classify | ObjectiveKind::Cloze | ObjectiveKind::Choose => {
                (pair_column.clone(), label_column.clone())
            }
            ObjectiveKind::Tag => (None, label_column.clone()),
            ObjectiveKind::Answer => {
                let named =
                    |column: &Option<String>, default: &str| column.clone().unwrap_or_else(|| default.to_owned());
                (Some(named(pair_column, "question")), Some(named(label_column, "answers")))
            }
            ObjectiveKind::Match => (pair_column.clone(), None),
            _ => (None, None),
        };
        Self {
            text: column.clone(),
            pair,
            label,
            tagged: kind == ObjectiveKind::Tag,
            answers,
            numbers: config.objective.regression,
            verbalized: kind == ObjectiveKind::Cloze,
            group: group_column.clone().filter(|_| kind.is_supervised()),
            choices: if kind == ObjectiveKind::Choose { choice_columns.clone() } else { Vec::new() },
            first_choice: *first_choice as usize,
        }
    }

    /// Of raw text.
    pub fn text(column: &str) -> Self {
        Self { text: column.to_owned(), ..Self::default() }
    }

    /// Those of a source's answer that hold choices: they come just before the label.
    pub(crate) fn choices_of<'a>(&self, batch: &'a RecordBatch) -> &'a [ArrayRef] {
        let end = batch.num_columns() - usize::from(self.label.is_some());
        &batch.columns()[end - self.choices.len()..end]
    }

    /// In the order in which a source answers them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let Self { text, pair, group, choices, label, .. } = self;
        let first = [Some(text), pair.as_ref(), group.as_ref()].into_iter().flatten();
        first.chain(choices).chain(label).map(String::as_str)
    }
}

/// Files on disk or in an object store, opened: footers read, columns checked.
pub struct FileSource {
    files: Vec<CorpusFile>,
    contents: Vec<Contents>,
    io: Io,
}

/// How a file's rows are reached.
enum Contents {
    Parquet(ParquetFile),
    /// Small formats are read whole when they are opened.
    Memory(Parsed),
}

/// The runtime that drives object stores. Shut down in the background, so that a source may be dropped anywhere.
struct Io(Option<tokio::runtime::Runtime>);

impl Io {
    fn new() -> Result<Self, CorpusError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("corpus-io")
            .enable_all()
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| {
            CorpusError::new(ErrorKind::Io, "corpus", format!("no thread for reading: {error}"), "raise `ulimit -u`")
        })
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("the runtime lives as long as the source").block_on(future)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl FileSource {
    /// Opens everything that `paths` and `eval_paths` name, in the order named; a glob's matches in order of name.
    pub fn open(
        paths: &[String],
        eval_paths: &[String],
        format: Option<DataFormat>,
        columns: &Columns,
    ) -> Result<Self, CorpusError> {
        let mut source = Self { files: Vec::new(), contents: Vec::new(), io: Io::new()? };
        // By the file itself, whatever its name: for training or held out, and the name it was given first.
        let mut named: HashMap<String, (bool, String)> = HashMap::new();
        for (paths, held_out) in [(paths, false), (eval_paths, true)] {
            for path in paths {
                for located in locate::locate(path, &source.io)? {
                    let name = (held_out, located.name.clone());
                    if let Some((before, first)) = named.insert(located.identity.clone(), name) {
                        return Err(named_twice(&located.name, &first, before != held_out));
                    }
                    source.add(&located, format, columns, held_out)?;
                }
            }
        }
        Ok(source)
    }

    fn add(
        &mut self,
        located: &Located,
        format: Option<DataFormat>,
        columns: &Columns,
        held_out: bool,
    ) -> Result<(), CorpusError> {
        let name = located.name.as_str();
        let format = format.or_else(|| DataFormat::of(name)).ok_or_else(|| {
            CorpusError::new(
                ErrorKind::Type,
                name,
                "the name's ending does not tell what the file is",
                "name a .parquet, .csv, .jsonl, .json or .conll file, or set `data.format` in a run's config; `coordinator data \
                 import` makes Parquet of plain text",
            )
        })?;
        if columns.tagged && columns.label.is_none() && !matches!(format, DataFormat::WordTag | DataFormat::Conll) {
            return Err(CorpusError::new(
                ErrorKind::Column,
                name,
                "no column of tags is named",
                "set `data.label_column` to the column that holds the list of tags",
            ));
        }
        if columns.tagged && columns.group.is_some() && matches!(format, DataFormat::WordTag | DataFormat::Conll) {
            return Err(CorpusError::new(
                ErrorKind::Column,
                name,
                "a file of words and tags has no groups",
                "leave out `data.group_column`, or write the sentences as JSONL or Parquet",
            ));
        }
        let (contents, row_group_rows) = match format {
            DataFormat::Parquet => {
                let file = self.io.block_on(ParquetFile::open(located, columns))?;
                let rows = file.row_group_rows();
                (Contents::Parquet(file), rows)
            }
            other => {
                let bytes = self.io.block_on(located.bytes())?;
                let parsed = text_file::parse(name, &bytes, other, columns)?;
                let rows = vec![parsed.batch.num_rows() as u64];
                (Contents::Memory(parsed), rows)
            }
        };
        let file = CorpusFile { path: name.to_owned(), bytes: located.size, row_group_rows, held_out };
        if file.rows() == 0 {
            tracing::warn!(file = name, "a file without rows");
        }
        self.files.push(file);
        self.contents.push(contents);
        Ok(())
    }

    /// What was opened, in order.
    pub fn files(&self) -> &[CorpusFile] {
        &self.files
    }

    /// Where a unit's row stands, for errors.
    pub fn place(&self, unit: &Unit, row: Option<u64>) -> Place {
        place(&self.files, self, unit, row)
    }
}

impl UnitSource for FileSource {
    fn read(&self, unit: &Unit) -> Result<RecordBatch, CorpusError> {
        let unknown = || {
            CorpusError::new(
                ErrorKind::Internal,
                "corpus",
                format!("no such unit: {unit:?}"),
                "the files have changed since the plan was made; submit the run again",
            )
        };
        let contents = self.contents.get(unit.file as usize).ok_or_else(unknown)?;
        let rows = self.files[unit.file as usize].row_group_rows.get(unit.row_group as usize).ok_or_else(unknown)?;
        if unit.first_row + unit.rows > *rows {
            return Err(unknown());
        }
        match contents {
            Contents::Memory(parsed) => Ok(parsed.batch.slice(unit.first_row as usize, unit.rows as usize)),
            Contents::Parquet(file) => self.io.block_on(file.read(unit)),
        }
    }

    fn spot(&self, unit: &Unit, row: Option<u64>) -> Spot {
        match self.contents.get(unit.file as usize) {
            Some(Contents::Memory(parsed)) => {
                row.and_then(|row| parsed.spots.of(unit.first_row + row, 0)).unwrap_or_default()
            }
            _ => counted(unit, row),
        }
    }

    fn spot_of_word(&self, unit: &Unit, row: u64, word: usize) -> Spot {
        match self.contents.get(unit.file as usize) {
            Some(Contents::Memory(parsed)) => parsed.spots.of(unit.first_row + row, word).unwrap_or_default(),
            _ => counted(unit, Some(row)),
        }
    }
}

/// Where a row has nothing but its number.
fn counted(unit: &Unit, row: Option<u64>) -> Spot {
    let row_group = unit.row_group;
    row.map_or(Spot::RowGroup(row_group), |row| Spot::Row { row_group, row: unit.first_row + row })
}

/// A file that would be trained on twice, or both trained on and held out.
fn named_twice(name: &str, first: &str, in_both: bool) -> CorpusError {
    let (message, help) = if in_both {
        (
            "is named in `data.paths` and in `data.eval_paths`: what is trained on would be held out".to_owned(),
            "leave it out of one of the two",
        )
    } else if name == first {
        (
            "is named twice: each of its samples would be used twice in an epoch".to_owned(),
            "name it once; two globs must not match the same file",
        )
    } else {
        (
            format!("is the same file as {first}: each of its samples would be used twice in an epoch"),
            "name it once; a link is not another file",
        )
    };
    CorpusError::new(ErrorKind::Value, name, message, help)
}

pub(crate) fn place(files: &[CorpusFile], source: &dyn UnitSource, unit: &Unit, row: Option<u64>) -> Place {
    let file = files.get(unit.file as usize).map_or("?", |file| file.path.as_str());
    Place { file: file.to_owned(), spot: source.spot(unit, row) }
}

/// Finds the columns in a file's schema and checks their types. Answers their indices, in the source's order.
fn check_columns(name: &str, schema: &SchemaRef, columns: &Columns) -> Result<Vec<usize>, CorpusError> {
    let mut indices = Vec::new();
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for column in columns.names() {
        let Some(index) = known.iter().position(|name| *name == column) else {
            return Err(no_column(name, column, &known));
        };
        let is_label = columns.label.as_deref() == Some(column) && column != columns.text;
        let data_type = schema.field(index).data_type();
        let is_group = columns.group.as_deref() == Some(column);
        let is_choice = columns.choices.iter().any(|choice| choice == column);
        let (fits, wanted) = if is_group && column != columns.text {
            (is_text(data_type) || data_type.is_integer(), "text or whole numbers")
        } else if is_choice && columns.choices.len() == 1 {
            let fits = is_list_of(data_type, is_text) || rows::are_choices(data_type);
            (fits, "a list of text, or `text` and `label` as lists; of columns with a choice each, name all")
        } else if is_choice {
            (is_text(data_type) || data_type.is_integer(), "text or whole numbers")
        } else if columns.answers && is_label {
            (rows::are_answers(data_type), "answers with `text` and `answer_start`")
        } else if columns.numbers && is_label {
            (is_text(data_type) || data_type.is_numeric(), "numbers")
        } else if columns.tagged {
            (
                is_list_of(data_type, is_text) || (is_label && is_list_of(data_type, DataType::is_integer)),
                "a list of text",
            )
        } else if is_label {
            (is_text(data_type) || data_type.is_integer() || *data_type == DataType::Boolean, "text or whole numbers")
        } else {
            (is_text(data_type) || is_list_of(data_type, DataType::is_integer), "text, or a list of token ids")
        };
        if !fits {
            let help = if is_label && data_type.is_floating() && !columns.tagged && !columns.answers {
                "write classes as that type; to learn numbers set objective.regression = true"
            } else {
                "name another column, or write this one as that type"
            };
            return Err(CorpusError::new(
                ErrorKind::Type,
                name,
                format!("column `{column}` is of type {data_type}; needed is {wanted}"),
                help,
            ));
        }
        indices.push(index);
    }
    Ok(indices)
}

fn no_column(place: impl Into<Place>, column: &str, known: &[&str]) -> CorpusError {
    let nearest = known
        .iter()
        .map(|other| (strsim::jaro_winkler(column, other), other))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let help = match nearest {
        Some((_, nearest)) => format!("did you mean `{nearest}`? The columns are: {}", known.join(", ")),
        None => format!("the columns are: {}", known.join(", ")),
    };
    CorpusError::new(ErrorKind::Column, place, format!("there is no column `{column}`"), help)
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_list_of(data_type: &DataType, element: impl Fn(&DataType) -> bool) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            element(field.data_type())
        }
        _ => false,
    }
}
