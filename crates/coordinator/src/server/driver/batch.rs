//! What one round of the driver gathers, and the conversions of control's words to rows and messages.

use crate::server::clock::Clock;
use config::RunKind;
use control::{Assignment, CheckpointAt, Effect, Member, RunRecord, RunSpec, RunStatus};
use proto::v1;
use std::collections::BTreeSet;
use store::{Change, CheckpointId, MemberRow, MetricRow, RunRow};
use types::{Attempt, RunId, SlotId, Step};

/// What is known of a run beside control's record: written once, at submission.
#[derive(Clone, Debug)]
pub struct RunDetails {
    /// The resolved config, as TOML.
    pub config: String,
    /// The checkpoint it starts from.
    pub parent: Option<CheckpointId>,
    /// When it was submitted.
    pub created_ms: i64,
}

/// Gathered from one round of commands.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many commands were handled.
    pub commands: usize,
    /// Runs whose record changed.
    pub touched: BTreeSet<RunId>,
    /// Other rows, in order.
    pub changes: Vec<Change>,
    /// To carry out once all is durable.
    pub effects: Vec<Effect>,
}

/// The row of a run.
pub fn run_row(record: &RunRecord, details: &RunDetails) -> RunRow {
    RunRow {
        id: record.id.clone(),
        name: record.spec.name.clone(),
        kind: record.spec.kind.as_str().to_owned(),
        status: record.status.as_str().to_owned(),
        reason: record.reason.clone(),
        place: record.place,
        cancelling: record.cancelling,
        step: record.step,
        total_steps: record.spec.total_steps,
        attempt: record.attempt,
        generation: record.generation,
        slots: record.spec.slots,
        min_workers: record.spec.min_workers,
        max_workers: record.spec.max_workers,
        members: record
            .members
            .iter()
            .map(|member| MemberRow { worker: member.worker.clone(), slots: member.slots.clone(), since: member.since })
            .collect(),
        samples_digest: record.samples_digest,
        weights_digest: record.weights_digest,
        restore: record.restore.map(|at| CheckpointId {
            run: record.id.clone(),
            generation: at.generation,
            step: at.step,
        }),
        parent: details.parent.clone(),
        restarts: record.restarts,
        diverged_at: record.diverged_at,
        trusted: record.trusted,
        config: details.config.clone(),
        created_ms: details.created_ms,
        updated_ms: Clock::wall_ms(),
    }
}

/// The record that a row was written from, and its details. An error names what no coordinator writes.
pub fn run_record(row: RunRow) -> Result<(RunRecord, RunDetails), String> {
    let status = RunStatus::parse(&row.status);
    let kind = [RunKind::Pretrain, RunKind::Finetune].into_iter().find(|kind| kind.as_str() == row.kind);
    let (Some(status), Some(kind)) = (status, kind) else {
        return Err(format!("run {}: status `{}`, kind `{}`", row.id, row.status, row.kind));
    };
    let config = config::parse(row.id.as_str(), &row.config).map_err(|error| error.to_string())?;
    let spec = RunSpec {
        name: row.name,
        kind,
        total_steps: row.total_steps,
        slots: row.slots,
        min_workers: row.min_workers,
        max_workers: row.max_workers,
        recovery: config.recovery,
        patience: config.eval.patience,
    };
    let record = RunRecord {
        id: row.id,
        spec,
        status,
        reason: row.reason,
        place: row.place,
        cancelling: row.cancelling,
        step: row.step,
        attempt: row.attempt,
        generation: row.generation,
        members: row
            .members
            .into_iter()
            .map(|member| Member { worker: member.worker, slots: member.slots, since: member.since })
            .collect(),
        samples_digest: row.samples_digest,
        weights_digest: row.weights_digest,
        restore: row.restore.map(|id| CheckpointAt { generation: id.generation, step: id.step }),
        restarts: row.restarts,
        diverged_at: row.diverged_at,
        trusted: row.trusted,
    };
    Ok((record, RunDetails { config: row.config, parent: row.parent, created_ms: row.created_ms }))
}

/// A step's metrics, keyed by the attempt that committed it.
pub fn metric_rows(run: &RunId, attempt: Attempt, metrics: Vec<v1::Metric>) -> impl Iterator<Item = Change> {
    metrics.into_iter().map(move |metric| {
        let time_ms = if metric.time_ms > 0 { metric.time_ms } else { Clock::wall_ms() };
        let v1::Metric { step, key, value, .. } = metric;
        Change::Metric(MetricRow { run: run.clone(), attempt, step: Step(step), key, value, time_ms })
    })
}

/// The message that makes a worker a member.
pub fn assign(assignment: Assignment, details: &RunDetails) -> v1::Assign {
    let Assignment { run, generation, attempt, rank, world, slots, restore } = assignment;
    let restore =
        restore.map(|at| v1::CheckpointRef { run: run.to_string(), generation: at.generation.0, step: at.step.0 });
    v1::Assign {
        run: run.into(),
        generation: generation.0,
        attempt: attempt.0,
        rank: rank.0,
        world: world.0,
        slots: slots.into_iter().map(|SlotId(slot)| slot).collect(),
        config: details.config.clone(),
        restore,
        parent: details.parent.as_ref().map(crate::server::wire::checkpoint_ref),
    }
}
