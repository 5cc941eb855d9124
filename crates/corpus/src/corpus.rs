//! A run's corpus: its files, its plan, its labels.

pub(crate) mod faults;
mod groups;
pub(crate) mod left_out;

use crate::plan::{self, Plan, Unit};
use crate::random::Stream;
use crate::source::{Columns, CorpusFile, FileSource, UnitSource, place};
use crate::{CorpusError, ErrorKind, Place};
use config::{CheckedConfig, ObjectiveKind};
use groups::Groups;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of a unit of raw text: some hundred thousand tokens, a second's work at most for one thread.
const TEXT_UNIT_ROWS: u64 = 4096;

/// Rows of a unit of labelled data: few, so that small sets are held out and shuffled finely.
const LABELLED_UNIT_ROWS: u64 = 16;

/// A run's corpus, opened.
pub struct Corpus {
    files: Vec<CorpusFile>,
    source: Arc<dyn UnitSource>,
    columns: Columns,
    plan: Plan,
    labels: Vec<String>,
    /// With `data.limit_rows`, groups or folds: the rows used of each training unit, ascending.
    selected: Option<Vec<Vec<u32>>>,
    /// With groups or folds: the rows used of each held-out unit, ascending.
    selected_eval: Option<Vec<Vec<u32>>>,
    warnings: Vec<String>,
    unmeasured: Option<CorpusError>,
    on_progress: Box<dyn Fn() + Send + Sync>,
}

impl Corpus {
    /// Opens the files that a config names, on disk or in an object store, and looks at all labels.
    pub fn open(config: &CheckedConfig) -> Result<Self, CorpusError> {
        let data = &config.data;
        let source = FileSource::open(&data.paths, &data.eval_paths, data.format, &Columns::of(config))?;
        let files = source.files().to_vec();
        let corpus = Self::with_source(config, files, Arc::new(source))?;
        // First, since files of which every row is left out have no labels either.
        let (left_out, unmeasured) = left_out::told(&corpus, config.objective.kind)?;
        let mut warnings = faults::refuse(&corpus, config)?;
        warnings.extend(left_out);
        warnings.extend(corpus.nothing_held_out(config)?);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { warnings, unmeasured, ..corpus })
    }

    /// The same corpus read through another source. `files` must be what [`Corpus::files`] says where it was opened.
    pub fn with_source(
        config: &CheckedConfig,
        files: Vec<CorpusFile>,
        source: Arc<dyn UnitSource>,
    ) -> Result<Self, CorpusError> {
        let columns = Columns::of(config);
        let kind = config.objective.kind;
        let labelled = kind.is_supervised();
        let has_labels = match kind {
            ObjectiveKind::Classify => !config.objective.regression,
            ObjectiveKind::Tag | ObjectiveKind::Cloze => true,
            _ => false,
        };
        let default = if labelled { LABELLED_UNIT_ROWS } else { TEXT_UNIT_ROWS };
        let unit_rows = config.data.unit_rows.unwrap_or(default);
        let units_of = |held_out: bool| {
            let chosen = files.iter().enumerate().filter(move |(_, file)| file.held_out == held_out);
            let groups = chosen.flat_map(|(file, it)| {
                it.row_group_rows.iter().enumerate().map(move |(group, rows)| (file as u32, group as u32, *rows))
            });
            plan::cut(groups, unit_rows)
        };
        let all = units_of(false);
        if all.is_empty() {
            return Err(no_row(&files, false));
        }
        let labels = match (has_labels, config.objective.given_labels().as_slice()) {
            (false, _) => Vec::new(),
            (true, []) => find_labels(&all, &files, source.as_ref(), (config.objective.kind, &columns))?,
            (true, given) => given.to_vec(),
        };
        let seed = config.run.seed;
        let (mut selected, mut selected_eval) = (None, None);
        let (mut train, eval) = if files.iter().any(|file| file.held_out) {
            let held_out = units_of(true);
            if held_out.is_empty() {
                return Err(no_row(&files, true));
            }
            if columns.group.is_some() {
                Groups::refuse_leaks(&all, &held_out, &files, source.as_ref(), &columns)?;
            }
            (all, held_out)
        } else if let (Some(fold), Some(folds)) = (config.data.fold, config.data.folds) {
            let read = if columns.group.is_some() { Groups::read } else { Groups::of_equal_texts };
            let groups = read(&all, &files, source.as_ref(), &columns)?;
            let (train, eval) = groups.hold_out_fold(&all, &files, fold, folds)?;
            (selected, selected_eval) = (Some(train.1), Some(eval.1));
            (train.0, eval.0)
        } else if columns.group.is_some() {
            let groups = Groups::read(&all, &files, source.as_ref(), &columns)?;
            let (train, eval) = groups.hold_out(&all, &files, config.data.eval_fraction, seed)?;
            (selected, selected_eval) = (Some(train.1), Some(eval.1));
            (train.0, eval.0)
        } else {
            plan::hold_out(all, config.data.eval_fraction, seed)
        };
        if kind.has_pairs() && train.iter().all(|unit| unit.rows < 2) {
            return Err(CorpusError::new(
                ErrorKind::Empty,
                files.first().map_or("data.paths", |file| file.path.as_str()),
                "every row is a unit of its own, so there is no other row to take a random second sentence from",
                "write the files with larger row groups, or set objective.kind = \"mlm\"",
            ));
        }
        if let Some(limit) = config.data.limit_rows.filter(|_| labelled) {
            selected = Some(select(&mut train, selected.as_deref(), limit, seed));
        }
        let plan = Plan::new(train, eval, config.batch.slots, seed);
        let (warnings, unmeasured, on_progress) = (Vec::new(), None, Box::new(|| ()));
        Ok(Self { files, source, columns, plan, labels, selected, selected_eval, warnings, unmeasured, on_progress })
    }

    /// The same corpus, whose units take long to make perhaps: `hook` is called for every row on the way to samples, by
    /// whichever thread makes them, so that whoever waits for a unit can tell work from a standstill. It must be quick.
    pub fn on_progress(self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self { on_progress: Box::new(hook), ..self }
    }

    /// A row of a unit is about to be made into samples.
    pub(crate) fn progressed(&self) {
        (self.on_progress)();
    }

    /// Which unit a slot works on when.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The labels in the order of their indices; empty for raw text. Those of the config, or else the sorted set of
    /// all labels in `data.paths` (held-out units of these files and rows beyond `data.limit_rows` included, so that
    /// the set does not depend on how much is learned from; rows that are left out give none).
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What is odd about the labels, about rows that lack something, or about what is held out, but may be meant; found by [`Corpus::open`].
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is wrong where every held-out row is left out. A new run is refused for it; one that began so goes on.
    pub fn unmeasured(&self) -> Option<&CorpusError> {
        self.unmeasured.as_ref()
    }

    /// What the plan was made from.
    pub fn files(&self) -> &[CorpusFile] {
        &self.files
    }

    /// Where the rows come from.
    pub fn source(&self) -> &dyn UnitSource {
        self.source.as_ref()
    }

    pub(crate) fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The rows used of a training unit; None: all.
    pub(crate) fn selected(&self, unit: usize) -> Option<&[u32]> {
        self.selected.as_ref().map(|selected| selected[unit].as_slice())
    }

    /// The same of a held-out unit.
    pub(crate) fn selected_eval(&self, unit: usize) -> Option<&[u32]> {
        self.selected_eval.as_ref().map(|selected| selected[unit].as_slice())
    }

    pub(crate) fn error(
        &self,
        kind: ErrorKind,
        unit: &Unit,
        row: Option<u64>,
        message: String,
        help: &str,
    ) -> CorpusError {
        CorpusError::new(kind, self.place(unit, row), message, help)
    }

    /// Where a unit stands, or a row of it, from 0.
    pub(crate) fn place(&self, unit: &Unit, row: Option<u64>) -> Place {
        place(&self.files, self.source.as_ref(), unit, row)
    }

    /// Where a word of a row stands, both from 0.
    pub(crate) fn place_of_word(&self, unit: &Unit, row: u64, word: usize) -> Place {
        Place { spot: self.source.spot_of_word(unit, row, word), ..self.place(unit, None) }
    }

    /// What is told where a share is to be held out of one row. A run that is to end early by what it measures is refused.
    fn nothing_held_out(&self, config: &CheckedConfig) -> Result<Option<String>, CorpusError> {
        if config.data.eval_fraction <= 0.0 || !self.plan.eval_units().is_empty() {
            return Ok(None);
        }
        let message = "there is only one row, so that data.eval_fraction holds out nothing";
        let help = "name held-out files in data.eval_paths";
        if config.eval.patience.is_some() {
            let help = format!("{help}, or leave out eval.patience");
            return Err(CorpusError::new(ErrorKind::Empty, self.files[0].path.as_str(), message, help));
        }
        Ok(Some(format!("{message} and nothing is evaluated: {help}, or set data.eval_fraction = 0")))
    }
}

/// Of files to train on, or of those held out, which together have none.
fn no_row(files: &[CorpusFile], held_out: bool) -> CorpusError {
    let named: Vec<&CorpusFile> = files.iter().filter(|file| file.held_out == held_out).collect();
    let key = if held_out { "data.eval_paths" } else { "data.paths" };
    CorpusError::new(
        ErrorKind::Empty,
        named.first().map_or(key, |file| file.path.as_str()),
        format!("there is not one row in {} file(s)", named.len()),
        format!("name files with rows in `{key}`"),
    )
}

/// Keeps the first `limit` rows of a seeded permutation of all rows (of `among`, the rows of each unit that may be), so that a smaller limit takes a part of what a
/// larger one takes. Units without such a row are dropped; answers the rows kept of the others.
fn select(units: &mut Vec<Unit>, among: Option<&[Vec<u32>]>, limit: u64, seed: u64) -> Vec<Vec<u32>> {
    let owners: Vec<(u32, u32)> = units
        .iter()
        .enumerate()
        .flat_map(|(unit, it)| {
            let rows = among.map_or_else(|| (0..it.rows as u32).collect(), |among| among[unit].clone());
            rows.into_iter().map(move |row| (unit as u32, row))
        })
        .collect();
    let order = Stream::new("limit rows", &[seed]).permutation(owners.len());
    let mut kept: Vec<Vec<u32>> = vec![Vec::new(); units.len()];
    for index in order.into_iter().take(limit.try_into().unwrap_or(usize::MAX)) {
        let (unit, row) = owners[index as usize];
        kept[unit as usize].push(row);
    }
    for rows in &mut kept {
        rows.sort_unstable();
    }
    let mut rows = kept.iter();
    units.retain(|_| rows.next().is_some_and(|rows| !rows.is_empty()));
    kept.retain(|rows| !rows.is_empty());
    kept
}

/// The labels of all rows that are not left out.
fn find_labels(
    units: &[Unit],
    files: &[CorpusFile],
    source: &dyn UnitSource,
    (kind, columns): (ObjectiveKind, &Columns),
) -> Result<Vec<String>, CorpusError> {
    let mut found = BTreeSet::new();
    let (mut any_row, mut any_empty) = (false, false);
    let mut add = |_: u64, _: usize, label: &str| {
        any_empty |= label.trim().is_empty();
        if !label.trim().is_empty() && !found.contains(label) {
            found.insert(label.to_owned());
        }
    };
    for unit in whole_row_groups(units) {
        let batch = source.read(&unit)?;
        let wrong = |message: String| wrong_type(files, source, &unit, message);
        let rows = left_out::used(kind, columns, &batch).map_err(wrong)?;
        any_row |= !rows.is_empty();
        faults::labels(&batch, &rows, columns.tagged, &mut add).map_err(wrong)?;
    }
    // These rows are named by whoever looks at all of them.
    if !any_row || any_empty {
        return Ok(found.into_iter().collect());
    }
    if found.len() < 2 {
        return Err(CorpusError::new(
            ErrorKind::Empty,
            files[0].path.as_str(),
            format!("{} different label(s) in the training data", found.len()),
            "name the column of the labels in `data.label_column`; there must be at least two",
        ));
    }
    Ok(found.into_iter().collect())
}

/// The row groups of all files that have a row, each as one unit.
fn row_groups(files: &[CorpusFile]) -> impl Iterator<Item = Unit> {
    let all = files.iter().enumerate().flat_map(|(file, it)| {
        let groups = it.row_group_rows.iter().enumerate();
        groups.map(move |(group, &rows)| Unit { file: file as u32, row_group: group as u32, first_row: 0, rows })
    });
    all.filter(|unit| unit.rows > 0)
}

/// The row groups that units are of: a labelled unit is a few rows.
fn whole_row_groups(units: &[Unit]) -> Vec<Unit> {
    let mut groups: BTreeMap<(u32, u32), Unit> = BTreeMap::new();
    for unit in units {
        let whole = groups.entry((unit.file, unit.row_group)).or_insert(Unit { rows: 0, first_row: 0, ..*unit });
        whole.rows = whole.rows.max(unit.first_row + unit.rows);
    }
    groups.into_values().collect()
}

fn wrong_type(files: &[CorpusFile], source: &dyn UnitSource, unit: &Unit, message: String) -> CorpusError {
    CorpusError::new(ErrorKind::Type, place(files, source, unit, None), message, LABEL_HELP)
}

pub(crate) const LABEL_HELP: &str = "write labels as text or whole numbers, tags as a list of them";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_nest() {
        let units: Vec<Unit> = plan::cut([(0, 0, 1000)].into_iter(), 16);
        let rows = |limit| {
            let mut units = units.clone();
            let kept = select(&mut units, None, limit, 5);
            assert_eq!(units.len(), kept.len());
            let rows: BTreeSet<u64> = units
                .iter()
                .zip(&kept)
                .flat_map(|(unit, rows)| rows.iter().map(|row| unit.first_row + u64::from(*row)))
                .collect();
            rows
        };
        assert_eq!(rows(50).len(), 50);
        assert!(rows(50).is_subset(&rows(200)));
        assert_eq!(rows(5000).len(), 1000);
    }
}
