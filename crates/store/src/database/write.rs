//! Changes to rows. What must never happen is refused by the schema's triggers; here it gets its words.

use super::rows::{AttemptRow, Change, CheckpointRow, CommitRow, EventRow, MetricRow, RunRow};
use super::{DatabaseError, segments, sweeps};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ErrorCode, ToSql, named_params, params};
use std::path::Path;

/// An unsigned number as SQLite keeps it. One beyond 63 bits is an error, never another number.
pub(super) struct Number(pub u64);

/// Travels through rusqlite's error to [`explain`].
#[derive(Debug, thiserror::Error)]
#[error("{0} is too large")]
struct TooLarge(u64);

impl ToSql for Number {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let signed = i64::try_from(self.0);
        signed.map(Into::into).map_err(|_| rusqlite::Error::ToSqlConversionFailure(Box::new(TooLarge(self.0))))
    }
}

pub(super) fn change(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Run(row) => run(connection, row),
        Change::Attempt(row) => attempt(connection, row),
        Change::Commit(row) => commit(connection, row),
        Change::Metric(row) => metric(connection, row),
        Change::Event(row) => event(connection, row),
        Change::Checkpoint(row) => checkpoint(connection, row),
        Change::CheckpointDeleted(id) => connection
            .prepare_cached("DELETE FROM checkpoints WHERE run = ? AND generation = ? AND step = ?")?
            .execute(params![id.run.as_str(), Number(id.generation.0), Number(id.step.0)])
            .map(drop),
        Change::Sweep(row) => sweeps::write(connection, row),
    }
}

fn run(connection: &Connection, row: &RunRow) -> rusqlite::Result<()> {
    let members = serde_json::to_string(&row.members).expect("members are JSON");
    let sql = "
        INSERT INTO runs VALUES (
            :id, :name, :kind, :status, :reason, :place, :cancelling, :step, :total_steps, :attempt, :generation,
            :slots, :min_workers, :max_workers, :members, :samples_digest, :weights_digest, :restore_run,
            :restore_generation, :restore_step, :parent_run, :parent_generation, :parent_step, :restarts, :config,
            :created_ms, :updated_ms, :diverged_at, :trusted
        )
        ON CONFLICT (id) DO UPDATE SET
            status = excluded.status, reason = excluded.reason, place = excluded.place,
            cancelling = excluded.cancelling, step = excluded.step, total_steps = excluded.total_steps,
            attempt = excluded.attempt, generation = excluded.generation, slots = excluded.slots,
            min_workers = excluded.min_workers,
            max_workers = excluded.max_workers, members = excluded.members, samples_digest = excluded.samples_digest,
            weights_digest = excluded.weights_digest, restore_run = excluded.restore_run,
            restore_generation = excluded.restore_generation, restore_step = excluded.restore_step,
            parent_run = excluded.parent_run, parent_generation = excluded.parent_generation,
            parent_step = excluded.parent_step, restarts = excluded.restarts,
            diverged_at = excluded.diverged_at, trusted = excluded.trusted,
            updated_ms = excluded.updated_ms";
    let (restore, parent) = (row.restore.as_ref(), row.parent.as_ref());
    connection
        .prepare_cached(sql)?
        .execute(named_params! {
            ":id": row.id.as_str(),
            ":name": row.name,
            ":kind": row.kind,
            ":status": row.status,
            ":reason": row.reason,
            ":place": Number(row.place),
            ":cancelling": row.cancelling,
            ":step": Number(row.step.0),
            ":total_steps": Number(row.total_steps.0),
            ":attempt": row.attempt.0,
            ":generation": Number(row.generation.0),
            ":slots": row.slots,
            ":min_workers": row.min_workers,
            ":max_workers": row.max_workers,
            ":members": members,
            ":samples_digest": row.samples_digest.map(|digest| digest.0),
            ":weights_digest": row.weights_digest.map(|digest| digest.0),
            ":restore_run": restore.map(|id| id.run.as_str()),
            ":restore_generation": restore.map(|id| Number(id.generation.0)),
            ":restore_step": restore.map(|id| Number(id.step.0)),
            ":parent_run": parent.map(|id| id.run.as_str()),
            ":parent_generation": parent.map(|id| Number(id.generation.0)),
            ":parent_step": parent.map(|id| Number(id.step.0)),
            ":restarts": row.restarts,
            ":diverged_at": row.diverged_at.map(|step| Number(step.0)),
            ":trusted": row.trusted.map(|step| Number(step.0)),
            ":config": row.config,
            ":created_ms": row.created_ms,
            ":updated_ms": row.updated_ms,
        })
        .map(drop)
}

fn attempt(connection: &Connection, row: &AttemptRow) -> rusqlite::Result<()> {
    let sql = "
        INSERT INTO attempts (run, attempt, from_step) VALUES (?, ?, ?)
        ON CONFLICT DO UPDATE SET from_step = excluded.from_step";
    connection.prepare_cached(sql)?.execute(params![row.run.as_str(), row.attempt.0, Number(row.from_step.0)]).map(drop)
}

fn commit(connection: &Connection, row: &CommitRow) -> rusqlite::Result<()> {
    // On a conflict the update changes nothing: it lets the trigger compare with what is there.
    let insert = "
        INSERT INTO commits (run, attempt, step, generation, samples_digest, segments, time_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET
            generation = excluded.generation, samples_digest = excluded.samples_digest, segments = excluded.segments";
    connection.prepare_cached(insert)?.execute(params![
        row.run.as_str(),
        row.attempt.0,
        Number(row.step.0),
        Number(row.generation.0),
        row.samples_digest.0,
        segments::encode(&row.segments),
        row.time_ms,
    ])?;
    // Nothing if this commit was stored before and the run has gone on since.
    let advance = "
        UPDATE runs SET step = :step, samples_digest = :samples_digest, restarts = 0, updated_ms = :time_ms
        WHERE id = :run AND attempt = :attempt AND step < :step";
    connection
        .prepare_cached(advance)?
        .execute(named_params! {
            ":run": row.run.as_str(),
            ":attempt": row.attempt.0,
            ":step": Number(row.step.0),
            ":samples_digest": row.samples_digest.0,
            ":time_ms": row.time_ms,
        })
        .map(drop)
}

fn metric(connection: &Connection, row: &MetricRow) -> rusqlite::Result<()> {
    let sql = "
        INSERT INTO metrics (run, attempt, step, key, value, time_ms) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET value = excluded.value, time_ms = excluded.time_ms";
    connection
        .prepare_cached(sql)?
        .execute(params![row.run.as_str(), row.attempt.0, Number(row.step.0), row.key, row.value, row.time_ms])
        .map(drop)
}

fn event(connection: &Connection, row: &EventRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO events (run, time_ms, text) VALUES (?, ?, ?)")?
        .execute(params![row.run.as_str(), row.time_ms, row.text])
        .map(drop)
}

fn checkpoint(connection: &Connection, row: &CheckpointRow) -> rusqlite::Result<()> {
    let sql = "
        INSERT OR REPLACE INTO checkpoints
            (run, generation, step, path, bytes, verified, damaged, eval_loss, score, weights_digest, created_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    connection
        .prepare_cached(sql)?
        .execute(params![
            row.id.run.as_str(),
            Number(row.id.generation.0),
            Number(row.id.step.0),
            row.path,
            Number(row.bytes),
            row.verified,
            row.damaged,
            row.eval_loss,
            row.score,
            row.weights_digest.map(|digest| digest.0),
            row.created_ms,
        ])
        .map(drop)
}

/// SQLite's reason, in words that name the change.
pub(super) fn explain(path: &Path, change: &Change, source: rusqlite::Error) -> DatabaseError {
    if let rusqlite::Error::ToSqlConversionFailure(inner) = &source
        && let Some(TooLarge(value)) = inner.downcast_ref()
    {
        return DatabaseError::TooLarge { value: *value };
    }
    match (source.sqlite_error_code(), &source) {
        (Some(ErrorCode::ConstraintViolation), rusqlite::Error::SqliteFailure(_, Some(message))) => {
            let rule = match message.as_str() {
                "FOREIGN KEY constraint failed" => "there is no such run",
                message => message.strip_prefix("invariant: ").unwrap_or(message),
            };
            DatabaseError::Invariant { rule: rule.to_owned(), change: describe(change) }
        }
        _ => DatabaseError::from_sqlite(path, source),
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::Run(row) => format!("run {}, attempt {}, generation {}", row.id, row.attempt, row.generation),
        Change::Attempt(row) => format!("run {}, attempt {} from step {}", row.run, row.attempt, row.from_step),
        Change::Commit(row) => format!(
            "run {}, attempt {}, generation {}, commit of step {}",
            row.run, row.attempt, row.generation, row.step
        ),
        Change::Metric(row) => format!("run {}, metric {} at step {}", row.run, row.key, row.step),
        Change::Event(row) => format!("run {}, event", row.run),
        Change::Checkpoint(row) => format!("checkpoint {}", row.id),
        Change::CheckpointDeleted(id) => format!("deletion of checkpoint {id}"),
        Change::Sweep(row) => format!("sweep {}", row.name),
    }
}
