//! Sweeps: runs that were submitted together.

use super::reader::{impossible, parsed};
use super::write::Number;
use super::{DatabaseError, Reader};
use rusqlite::{Connection, Row, params};
use types::{Digest, RunId};

/// Several runs that are compared. Written once, with all of its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRow {
    /// Known by it.
    pub name: String,
    /// Of the config.
    pub digest: Digest,
    /// What combinations are compared by.
    pub metric: String,
    /// The resolved config with its `[sweep]`, as TOML.
    pub config: String,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// In the order in which they were queued.
    pub runs: Vec<SweepRunRow>,
}

/// A run's place in its sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRunRow {
    /// Which.
    pub run: RunId,
    /// Of which combination, from 0.
    pub combination: u32,
    /// What that combination sets: key and TOML value.
    pub settings: Vec<(String, String)>,
    /// Its seed.
    pub seed: u64,
    /// Which fold it holds out.
    pub fold: Option<u32>,
}

/// The runs must have been written before.
pub(super) fn write(connection: &Connection, row: &SweepRow) -> rusqlite::Result<()> {
    // On a conflict the update changes nothing: it lets the trigger compare with what is there.
    let sweep = "
        INSERT INTO sweeps (name, digest, metric, config, created_ms) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET digest = excluded.digest";
    connection.prepare_cached(sweep)?.execute(params![
        row.name,
        row.digest.0,
        row.metric,
        row.config,
        row.created_ms
    ])?;
    let run = "
        INSERT INTO sweep_runs (sweep, place, run, combination, settings, seed, fold) VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (sweep, place) DO UPDATE SET run = excluded.run";
    let mut statement = connection.prepare_cached(run)?;
    for (place, it) in (0_i64..).zip(&row.runs) {
        let settings = serde_json::to_string(&it.settings).expect("pairs of texts are JSON");
        let run = it.run.as_str();
        statement.execute(params![row.name, place, run, it.combination, settings, Number(it.seed), it.fold])?;
    }
    Ok(())
}

impl Reader {
    /// All sweeps, oldest first, each with its runs.
    pub fn sweeps(&self) -> Result<Vec<SweepRow>, DatabaseError> {
        self.sweeps_where("SELECT * FROM sweeps ORDER BY created_ms, name", &[])
    }

    /// The sweep of that name, if there is one.
    pub fn sweep(&self, name: &str) -> Result<Option<SweepRow>, DatabaseError> {
        Ok(self.sweeps_where("SELECT * FROM sweeps WHERE name = ?", &[name])?.pop())
    }

    /// The name of the sweep that a run belongs to.
    pub fn sweep_of(&self, run: &RunId) -> Result<Option<String>, DatabaseError> {
        let sql = "SELECT sweep FROM sweep_runs WHERE run = ?";
        Ok(self.rows(sql, [run.as_str()], |row| row.get(0))?.pop())
    }

    fn sweeps_where(&self, sql: &str, parameters: &[&str]) -> Result<Vec<SweepRow>, DatabaseError> {
        let mut sweeps = self.rows(sql, rusqlite::params_from_iter(parameters), |row| {
            Ok(SweepRow {
                name: row.get("name")?,
                digest: Digest(row.get("digest")?),
                metric: row.get("metric")?,
                config: row.get("config")?,
                created_ms: row.get("created_ms")?,
                runs: Vec::new(),
            })
        })?;
        for sweep in &mut sweeps {
            let runs = "SELECT * FROM sweep_runs WHERE sweep = ? ORDER BY place";
            sweep.runs = self.rows(runs, [&sweep.name], run_row)?;
        }
        Ok(sweeps)
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<SweepRunRow> {
    let settings: String = row.get("settings")?;
    Ok(SweepRunRow {
        run: parsed(row, "run")?,
        combination: row.get("combination")?,
        settings: serde_json::from_str(&settings).map_err(|error| impossible("settings", error))?,
        seed: row.get::<_, i64>("seed")?.unsigned_abs(),
        fold: row.get("fold")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::run_row;
    use crate::{Change, Database};

    fn database() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("trireme.db")).unwrap();
        (folder, database)
    }

    fn sweep(name: &str, runs: &[&str], digest: u8) -> SweepRow {
        let runs = runs.iter().enumerate().map(|(index, run)| SweepRunRow {
            run: run.parse().unwrap(),
            combination: index as u32 / 2,
            settings: vec![("optimizer.learning_rate".into(), "1e-4".into())],
            seed: 42,
            fold: Some(index as u32 % 2),
        });
        SweepRow {
            name: name.into(),
            digest: Digest([digest; 32]),
            metric: "eval/accuracy".into(),
            config: "[run]".into(),
            created_ms: 5,
            runs: runs.collect(),
        }
    }

    #[test]
    fn a_sweep_is_there_with_all_of_its_runs_or_not_at_all() {
        let (_folder, mut database) = database();
        let written = sweep("s", &["a", "b"], 1);
        // The second run is not there: nothing of the batch is kept.
        let half = [Change::Run(run_row("a")), Change::Sweep(written.clone())];
        let error = database.apply(&half).unwrap_err().to_string();
        assert!(error.contains("there is no such run") && error.contains("sweep s"), "{error}");
        assert_eq!((database.sweeps().unwrap(), database.runs().unwrap()), (vec![], vec![]));

        let whole = [Change::Run(run_row("a")), Change::Run(run_row("b")), Change::Sweep(written.clone())];
        database.apply(&whole).unwrap();
        database.apply(&whole).unwrap();
        assert_eq!(database.sweep("s").unwrap(), Some(written.clone()));
        assert_eq!(database.sweeps().unwrap(), vec![written]);
        assert_eq!(database.sweep_of(&"b".parse().unwrap()).unwrap().as_deref(), Some("s"));
        assert_eq!((database.sweep("t").unwrap(), database.sweep_of(&"c".parse().unwrap()).unwrap()), (None, None));
    }

    #[test]
    fn a_name_stands_for_one_sweep() {
        let (_folder, mut database) = database();
        database.apply(&[Change::Run(run_row("a")), Change::Sweep(sweep("s", &["a"], 1))]).unwrap();
        let error = database.apply(&[Change::Sweep(sweep("s", &["a"], 2))]).unwrap_err().to_string();
        assert!(error.contains("a second time"), "{error}");
        let error = database.apply(&[Change::Sweep(sweep("t", &["a"], 1))]).unwrap_err().to_string();
        assert!(error.contains("UNIQUE"), "a run is of one sweep: {error}");
    }
}
