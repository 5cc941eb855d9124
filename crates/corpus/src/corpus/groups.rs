//! Holding out whole groups of rows, so that nothing of what is held out was seen in training.

use super::{whole_row_groups, wrong_type};
use crate::plan::Unit;
use crate::random::Stream;
use crate::rows;
use crate::source::{Columns, CorpusFile, UnitSource, place};
use crate::{CorpusError, ErrorKind};
use arrow::row::{RowConverter, SortField};
use std::collections::{BTreeMap, HashMap};
use types::Digest;

/// Units, and the rows used of each, ascending.
pub(super) type Selected = (Vec<Unit>, Vec<Vec<u32>>);

/// Which group each row of each unit belongs to, as a number in order of the groups' names.
pub(super) struct Groups {
    of_rows: Vec<Vec<u32>>,
    /// How many rows each has.
    sizes: Vec<u64>,
    names: Vec<String>,
}

impl Groups {
    /// Reads the column of the groups. A row without one is a group of its own.
    pub(super) fn read(
        units: &[Unit],
        files: &[CorpusFile],
        source: &dyn UnitSource,
        columns: &Columns,
    ) -> Result<Self, CorpusError> {
        let at = 1 + usize::from(columns.pair.is_some());
        let mut read: HashMap<(u32, u32), Vec<Option<String>>> = HashMap::new();
        for whole in whole_row_groups(units) {
            let batch = source.read(&whole)?;
            let names = rows::text(batch.column(at)).map_err(|message| wrong_type(files, source, &whole, message))?;
            let names = names.iter().map(|name| name.map(str::to_owned)).collect();
            read.insert((whole.file, whole.row_group), names);
        }
        Ok(Self::named(units, &read))
    }

    /// Groups of rows that have the same text, or the same two texts.
    pub(super) fn of_equal_texts(
        units: &[Unit],
        files: &[CorpusFile],
        source: &dyn UnitSource,
        columns: &Columns,
    ) -> Result<Self, CorpusError> {
        let texts = 1 + usize::from(columns.pair.is_some());
        let mut read: HashMap<(u32, u32), Vec<Option<String>>> = HashMap::new();
        for whole in whole_row_groups(units) {
            let batch = source.read(&whole)?;
            let columns = &batch.columns()[..texts];
            let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
            let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(columns));
            let rows = rows.map_err(|error| wrong_type(files, source, &whole, error.to_string()))?;
            let names = rows.iter().map(|row| Some(Digest::blake3(row.as_ref()).to_string())).collect();
            read.insert((whole.file, whole.row_group), names);
        }
        Ok(Self::named(units, &read))
    }

    /// From the names in each row group.
    fn named(units: &[Unit], read: &HashMap<(u32, u32), Vec<Option<String>>>) -> Self {
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        let name_of = |unit: &Unit, row: u64| {
            let row = unit.first_row + row;
            let name = read[&(unit.file, unit.row_group)][row as usize].clone();
            name.unwrap_or_else(|| format!("\0{}/{}/{row}", unit.file, unit.row_group))
        };
        for unit in units {
            for row in 0..unit.rows {
                numbers.insert(name_of(unit, row), 0);
            }
        }
        for (index, number) in numbers.values_mut().enumerate() {
            *number = index as u32;
        }
        let mut sizes = vec![0; numbers.len()];
        let mut of_rows = Vec::with_capacity(units.len());
        for unit in units {
            let of_unit: Vec<u32> = (0..unit.rows).map(|row| numbers[&name_of(unit, row)]).collect();
            for group in &of_unit {
                sizes[*group as usize] += 1;
            }
            of_rows.push(of_unit);
        }
        Self { of_rows, sizes, names: numbers.into_keys().collect() }
    }

    /// Holds out groups, in an order drawn from the seed, until `fraction` of the rows are: at least one group, and never
    /// all. Answers what is trained on, and what is held out.
    pub(super) fn hold_out(
        &self,
        units: &[Unit],
        files: &[CorpusFile],
        fraction: f64,
        seed: u64,
    ) -> Result<(Selected, Selected), CorpusError> {
        let mut held = vec![false; self.sizes.len()];
        if fraction > 0.0 {
            if self.sizes.len() < 2 {
                return Err(CorpusError::new(
                    ErrorKind::Empty,
                    files.first().map_or("data.paths", |file| file.path.as_str()),
                    "all rows are of one group, so none can be held out from the others",
                    "name another column in `data.group_column`, or set data.eval_fraction = 0",
                ));
            }
            let wanted = fraction * self.sizes.iter().sum::<u64>() as f64;
            let order = Stream::new("hold out groups", &[seed]).permutation(self.sizes.len());
            let mut rows = 0;
            for group in &order[..order.len() - 1] {
                held[*group as usize] = true;
                rows += self.sizes[*group as usize];
                if rows as f64 >= wanted {
                    break;
                }
            }
        }
        Ok((self.part(units, &held, false), self.part(units, &held, true)))
    }

    /// Holds out one of `folds` parts of about the same number of rows. Groups go in the order of the hashes of their
    /// names to the part that has the fewest rows so far, so that nothing but the rows says which part they are in.
    pub(super) fn hold_out_fold(
        &self,
        units: &[Unit],
        files: &[CorpusFile],
        fold: u32,
        folds: u32,
    ) -> Result<(Selected, Selected), CorpusError> {
        if self.sizes.len() < folds as usize {
            return Err(CorpusError::new(
                ErrorKind::Empty,
                files.first().map_or("data.paths", |file| file.path.as_str()),
                format!("{} group(s) of rows cannot be cut into {folds} folds", self.sizes.len()),
                "lower `data.folds`, or name another column in `data.group_column`; rows with the same text are one group",
            ));
        }
        let mut order: Vec<usize> = (0..self.sizes.len()).collect();
        order.sort_by_cached_key(|group| Digest::blake3(self.names[*group].as_bytes()));
        let mut rows = vec![0; folds as usize];
        let mut held = vec![false; self.sizes.len()];
        for group in order {
            let emptiest = (0..rows.len()).min_by_key(|part| rows[*part]).expect("two folds at least");
            rows[emptiest] += self.sizes[group];
            held[group] = emptiest == fold as usize;
        }
        Ok((self.part(units, &held, false), self.part(units, &held, true)))
    }

    /// The rows of the groups that are held out, or of the others.
    fn part(&self, units: &[Unit], held: &[bool], wanted: bool) -> Selected {
        let mut selected: Selected = (Vec::new(), Vec::new());
        for (unit, groups) in units.iter().zip(&self.of_rows) {
            let rows: Vec<u32> =
                (0..).zip(groups).filter(|(_, group)| held[**group as usize] == wanted).map(|(row, _)| row).collect();
            if !rows.is_empty() {
                selected.0.push(*unit);
                selected.1.push(rows);
            }
        }
        selected
    }

    /// Refuses a group that is both trained on and in files that are held out.
    pub(super) fn refuse_leaks(
        train: &[Unit],
        eval: &[Unit],
        files: &[CorpusFile],
        source: &dyn UnitSource,
        columns: &Columns,
    ) -> Result<(), CorpusError> {
        let trained = Self::read(train, files, source, columns)?;
        let held = Self::read(eval, files, source, columns)?;
        for (unit, groups) in eval.iter().zip(&held.of_rows) {
            for (row, group) in (0..).zip(groups) {
                let name = &held.names[*group as usize];
                if trained.names.binary_search(name).is_ok() {
                    return Err(CorpusError::new(
                        ErrorKind::Value,
                        place(files, source, unit, Some(row)),
                        format!("the group `{name}` is held out here, and trained on in `data.paths`"),
                        "move all rows of a group to one side, or leave out `data.eval_paths` to have groups held out",
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn no_group_is_on_both_sides(of_rows in proptest::collection::vec(0u32..12, 2..200), fraction in 0.0f64..0.5, seed: u64) {
            let units = plan::cut([(0, 0, of_rows.len() as u64)].into_iter(), 7);
            let distinct: Vec<u32> = of_rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let number = |group: &u32| distinct.binary_search(group).unwrap() as u32;
            let mut sizes = vec![0; distinct.len()];
            of_rows.iter().for_each(|group| sizes[number(group) as usize] += 1);
            let groups = Groups {
                of_rows: of_rows.chunks(7).map(|rows| rows.iter().map(number).collect()).collect(),
                sizes,
                names: distinct.iter().map(u32::to_string).collect(),
            };
            let parts = groups.hold_out(&units, &[], fraction, seed);
            if distinct.len() < 2 && fraction > 0.0 {
                prop_assert!(parts.is_err());
                return Ok(());
            }
            let (train, eval) = parts.unwrap();
            let rows = |(units, rows): &Selected| -> Vec<usize> {
                let all = units.iter().zip(rows);
                all.flat_map(|(unit, rows)| rows.iter().map(|row| (unit.first_row + u64::from(*row)) as usize)).collect()
            };
            let (train, eval) = (rows(&train), rows(&eval));
            let mut all = [train.clone(), eval.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..of_rows.len()).collect::<Vec<_>>(), "each row is on one side");
            let of = |rows: &[usize]| rows.iter().map(|row| of_rows[*row]).collect::<BTreeSet<_>>();
            prop_assert!(of(&train).is_disjoint(&of(&eval)));
            prop_assert!(!train.is_empty() && (fraction == 0.0 || !eval.is_empty()));
        }

        #[test]
        fn folds_partition_the_rows_and_keep_groups_whole(
            of_rows in proptest::collection::vec(0u32..12, 2..200), folds in 2u32..6, cut in 1u64..20,
        ) {
            let distinct: Vec<u32> = of_rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let name = |number: u32| Some(format!("group {number}"));
            let read = |rows: &[u32], cut| {
                let units = plan::cut([(0, 0, rows.len() as u64)].into_iter(), cut);
                let names = rows.iter().map(|number| name(*number)).collect();
                (Groups::named(&units, &HashMap::from([((0, 0), names)])), units)
            };
            let held_out = |rows: &[u32], cut, fold| {
                let (groups, units) = read(rows, cut);
                let (train, eval) = groups.hold_out_fold(&units, &[], fold, folds).unwrap();
                let places = |(units, chosen): &Selected| -> Vec<usize> {
                    let all = units.iter().zip(chosen);
                    all.flat_map(|(unit, it)| it.iter().map(|row| (unit.first_row + u64::from(*row)) as usize)).collect()
                };
                (places(&train), places(&eval))
            };
            if distinct.len() < folds as usize {
                let (groups, units) = read(&of_rows, cut);
                prop_assert!(groups.hold_out_fold(&units, &[], 0, folds).is_err());
                return Ok(());
            }
            let mut seen = Vec::new();
            for fold in 0..folds {
                let (train, eval) = held_out(&of_rows, cut, fold);
                prop_assert!(!train.is_empty() && !eval.is_empty());
                prop_assert_eq!(train.len() + eval.len(), of_rows.len());
                let of = |rows: &[usize]| rows.iter().map(|row| of_rows[*row]).collect::<BTreeSet<_>>();
                prop_assert!(of(&train).is_disjoint(&of(&eval)));
                // Neither the order of the rows nor how they are cut into units says which group is held out.
                let backwards: Vec<u32> = of_rows.iter().rev().copied().collect();
                let (_, again) = held_out(&backwards, 7, fold);
                prop_assert_eq!(of(&eval), again.iter().map(|row| backwards[*row]).collect::<BTreeSet<_>>());
                seen.extend(eval);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..of_rows.len()).collect::<Vec<_>>(), "each row is held out once");
        }
    }
}
