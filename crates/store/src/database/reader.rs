//! Reading rows. What a later attempt superseded is left out unless asked for.

use super::rows::{AttemptRow, CheckpointRow, CommitRow, EventRow, MetricPosition, MetricQuery, MetricRow, RunRow};
use super::write::Number;
use super::{BUSY, DatabaseError, segments};
use crate::CheckpointId;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Params, Row, named_params, params};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use types::{Attempt, Digest, Generation, RunId, Step};

/// True for a row `m` that no later attempt superseded: none went back to before it, and none wrote it again.
const VISIBLE_METRIC: &str = "
    NOT EXISTS (SELECT 1 FROM attempts a WHERE a.run = m.run AND a.attempt > m.attempt AND a.from_step < m.step)
    AND NOT EXISTS (
        SELECT 1 FROM metrics n WHERE n.run = m.run AND n.step = m.step AND n.key = m.key AND n.attempt > m.attempt
    )";

/// A connection that reads.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl Reader {
    pub(super) fn new(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.to_path_buf() }
    }

    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let open = |source| DatabaseError::Open { path: path.to_path_buf(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(open)?;
        connection.busy_timeout(BUSY).map_err(open)?;
        Ok(Self::new(connection, path))
    }

    /// All runs, oldest first.
    pub fn runs(&self) -> Result<Vec<RunRow>, DatabaseError> {
        self.rows("SELECT * FROM runs ORDER BY created_ms, id", [], run_row)
    }

    /// One run, if there is such a one.
    pub fn run(&self, run: &RunId) -> Result<Option<RunRow>, DatabaseError> {
        Ok(self.rows("SELECT * FROM runs WHERE id = ?", [run.as_str()], run_row)?.pop())
    }

    /// The newest run of that name that has a checkpoint which is not damaged, of a step that it has not gone back from.
    pub fn newest_with_checkpoint(&self, name: &str) -> Result<Option<RunRow>, DatabaseError> {
        let sql = "
            SELECT * FROM runs r
            WHERE r.name = ? AND EXISTS (
                SELECT 1 FROM checkpoints c WHERE c.run = r.id AND NOT c.damaged AND c.step <= r.step
                    AND (c.step = 0 OR EXISTS (
                        SELECT 1 FROM commits k
                        WHERE k.run = c.run AND k.step = c.step AND k.generation <= c.generation AND NOT EXISTS (
                            SELECT 1 FROM attempts a
                            WHERE a.run = k.run AND a.attempt > k.attempt AND a.from_step < k.step
                        )
                    ))
            )
            ORDER BY r.created_ms DESC, r.id DESC LIMIT 1";
        Ok(self.rows(sql, [name], run_row)?.pop())
    }

    /// A run's attempts, in order.
    pub fn attempts(&self, run: &RunId) -> Result<Vec<AttemptRow>, DatabaseError> {
        self.rows("SELECT * FROM attempts WHERE run = ? ORDER BY attempt", [run.as_str()], |row| {
            Ok(AttemptRow {
                run: parsed(row, "run")?,
                attempt: Attempt(row.get("attempt")?),
                from_step: Step(number(row, "from_step")?),
            })
        })
    }

    /// The first `limit` commits after step `after` that stand, in order of step: at most one for each step.
    pub fn commits(&self, run: &RunId, after: Step, limit: usize) -> Result<Vec<CommitRow>, DatabaseError> {
        let sql = "
            SELECT * FROM commits c
            WHERE c.run = ? AND c.step > ? AND NOT EXISTS (
                SELECT 1 FROM attempts a WHERE a.run = c.run AND a.attempt > c.attempt AND a.from_step < c.step
            )
            ORDER BY c.step, c.attempt LIMIT ?";
        self.rows(sql, params![run.as_str(), Number(after.0), at_most(limit)], |row| {
            let segments: Vec<u8> = row.get("segments")?;
            Ok(CommitRow {
                run: parsed(row, "run")?,
                attempt: Attempt(row.get("attempt")?),
                step: Step(number(row, "step")?),
                generation: Generation(number(row, "generation")?),
                samples_digest: Digest(row.get("samples_digest")?),
                segments: segments::decode(&segments).map_err(|message| impossible("segments", message))?,
                time_ms: row.get("time_ms")?,
            })
        })
    }

    /// The first `limit` rows after `after`, in order of step, key and attempt. To go on, pass the last row's
    /// [`MetricRow::position`]; fewer than `limit` rows mean that there are no more.
    pub fn metrics(
        &self,
        query: &MetricQuery,
        after: Option<&MetricPosition>,
        limit: usize,
    ) -> Result<Vec<MetricRow>, DatabaseError> {
        let visible = if query.superseded { "1" } else { VISIBLE_METRIC };
        // The bound on the step alone is what lets SQLite start at the right place of the primary key.
        let sql = format!(
            "SELECT m.* FROM metrics m
             WHERE m.run = :run AND m.step >= :from AND (m.step, m.key, m.attempt) > (:step, :key, :attempt)
                 AND (:keys = '[]' OR m.key IN (SELECT value FROM json_each(:keys))) AND {visible}
             ORDER BY m.step, m.key, m.attempt LIMIT :limit"
        );
        let from = after.map_or(query.from_step, |after| after.step.max(query.from_step));
        let step = after.map_or(Ok(-1), |after| i64::try_from(after.step.0));
        let parameters = named_params! {
            ":run": query.run.as_str(),
            ":from": Number(from.0),
            ":step": step.unwrap_or(i64::MAX),
            ":key": after.map_or("", |after| &after.key),
            ":attempt": after.map_or(0, |after| after.attempt.0),
            ":keys": serde_json::to_string(&query.keys).expect("a list of text is JSON"),
            ":limit": at_most(limit),
        };
        self.rows(&sql, parameters, metric_row)
    }

    /// The latest visible value of every metric of a run, in order of key.
    pub fn latest_metrics(&self, run: &RunId) -> Result<Vec<MetricRow>, DatabaseError> {
        // Key by key through the index, so that the cost does not grow with the history.
        let next_key = "SELECT min(key) FROM metrics WHERE run = ? AND key > ?";
        let latest = format!(
            "SELECT m.* FROM metrics m WHERE m.run = ? AND m.key = ? AND {VISIBLE_METRIC}
             ORDER BY m.step DESC, m.attempt DESC LIMIT 1"
        );
        let mut found = Vec::new();
        // No metric has an empty name, so that it comes before all.
        let mut key = Some(String::new());
        while let Some(previous) = key {
            key = self.rows(next_key, [run.as_str(), &previous], |row| row.get(0))?.pop().flatten();
            if let Some(key) = &key {
                found.extend(self.rows(&latest, [run.as_str(), key], metric_row)?);
            }
        }
        Ok(found)
    }

    /// At how many steps of a run a metric has a visible value.
    pub fn metric_count(&self, run: &RunId, key: &str) -> Result<u64, DatabaseError> {
        let sql = format!("SELECT count(*) AS steps FROM metrics m WHERE m.run = ? AND m.key = ? AND {VISIBLE_METRIC}");
        let counts = self.rows(&sql, [run.as_str(), key], |row| number(row, "steps"))?;
        Ok(counts.into_iter().sum())
    }

    /// The newest `limit` events of a run, newest last.
    pub fn events(&self, run: &RunId, limit: usize) -> Result<Vec<EventRow>, DatabaseError> {
        let sql = "SELECT * FROM events WHERE run = ? ORDER BY number DESC LIMIT ?";
        let mut events = self.rows(sql, params![run.as_str(), at_most(limit)], |row| {
            Ok(EventRow { run: parsed(row, "run")?, time_ms: row.get("time_ms")?, text: row.get("text")? })
        })?;
        events.reverse();
        Ok(events)
    }

    /// A run's checkpoints, oldest first (see [`CheckpointId::age`]).
    pub fn checkpoints(&self, run: &RunId) -> Result<Vec<CheckpointRow>, DatabaseError> {
        self.rows("SELECT * FROM checkpoints WHERE run = ? ORDER BY generation, step", [run.as_str()], |row| {
            Ok(CheckpointRow {
                id: CheckpointId {
                    run: parsed(row, "run")?,
                    generation: Generation(number(row, "generation")?),
                    step: Step(number(row, "step")?),
                },
                path: row.get("path")?,
                bytes: number(row, "bytes")?,
                verified: row.get("verified")?,
                damaged: row.get("damaged")?,
                eval_loss: row.get("eval_loss")?,
                score: row.get("score")?,
                weights_digest: row.get::<_, Option<[u8; 32]>>("weights_digest")?.map(Digest),
                created_ms: row.get("created_ms")?,
            })
        })
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, DatabaseError> {
        let query = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(parameters, read)?;
            rows.collect()
        };
        query().map_err(|source| DatabaseError::from_sqlite(&self.path, source))
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let members: String = row.get("members")?;
    Ok(RunRow {
        id: parsed(row, "id")?,
        name: row.get("name")?,
        kind: row.get("kind")?,
        status: row.get("status")?,
        reason: row.get("reason")?,
        place: number(row, "place")?,
        cancelling: row.get("cancelling")?,
        step: Step(number(row, "step")?),
        total_steps: Step(number(row, "total_steps")?),
        attempt: Attempt(row.get("attempt")?),
        generation: Generation(number(row, "generation")?),
        slots: row.get("slots")?,
        min_workers: row.get("min_workers")?,
        max_workers: row.get("max_workers")?,
        members: serde_json::from_str(&members).map_err(|error| impossible("members", error))?,
        samples_digest: row.get::<_, Option<[u8; 32]>>("samples_digest")?.map(Digest),
        weights_digest: row.get::<_, Option<[u8; 32]>>("weights_digest")?.map(Digest),
        restore: checkpoint_id(row, ["restore_run", "restore_generation", "restore_step"])?,
        parent: checkpoint_id(row, ["parent_run", "parent_generation", "parent_step"])?,
        restarts: row.get("restarts")?,
        diverged_at: optional(row, "diverged_at")?.map(Step),
        trusted: optional(row, "trusted")?.map(Step),
        config: row.get("config")?,
        created_ms: row.get("created_ms")?,
        updated_ms: row.get("updated_ms")?,
    })
}

fn metric_row(row: &Row<'_>) -> rusqlite::Result<MetricRow> {
    Ok(MetricRow {
        run: parsed(row, "run")?,
        attempt: Attempt(row.get("attempt")?),
        step: Step(number(row, "step")?),
        key: row.get("key")?,
        value: row.get::<_, Option<f64>>("value")?.unwrap_or(f64::NAN),
        time_ms: row.get("time_ms")?,
    })
}

fn checkpoint_id(row: &Row<'_>, [run, generation, step]: [&str; 3]) -> rusqlite::Result<Option<CheckpointId>> {
    if row.get::<_, Option<String>>(run)?.is_none() {
        return Ok(None);
    }
    Ok(Some(CheckpointId {
        run: parsed(row, run)?,
        generation: Generation(number(row, generation)?),
        step: Step(number(row, step)?),
    }))
}

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|error| impossible(column, error))
}

fn optional(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    let value: Option<i64> = row.get(column)?;
    value.map(|value| u64::try_from(value).map_err(|error| impossible(column, error))).transpose()
}

pub(super) fn parsed(row: &Row<'_>, column: &str) -> rusqlite::Result<RunId> {
    row.get::<_, String>(column)?.parse().map_err(|error| impossible(column, error))
}

pub(super) fn impossible(column: &str, message: impl Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Null, format!("{column}: {message}").into())
}
