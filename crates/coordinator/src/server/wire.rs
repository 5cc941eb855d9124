//! From rows to the wire's messages.

use proto::v1;
use proto::{Failure, FailureKind};
use store::{CheckpointId, CheckpointRow, DatabaseError, EventRow, MetricRow, RunRow};
use types::{Digest, Generation, Step};

/// A checkpoint's name.
pub fn checkpoint_ref(id: &CheckpointId) -> v1::CheckpointRef {
    v1::CheckpointRef { run: id.run.to_string(), generation: id.generation.0, step: id.step.0 }
}

/// And back.
pub fn checkpoint_id(reference: &v1::CheckpointRef) -> Result<CheckpointId, Failure> {
    Ok(CheckpointId {
        run: super::request::run_id(&reference.run)?,
        generation: Generation(reference.generation),
        step: Step(reference.step),
    })
}

/// A checkpoint, for people.
pub fn checkpoint(row: &CheckpointRow) -> v1::Checkpoint {
    v1::Checkpoint {
        checkpoint: Some(checkpoint_ref(&row.id)),
        path: row.path.clone(),
        bytes: row.bytes,
        verified: row.verified,
        damaged: row.damaged,
        eval_loss: row.eval_loss,
        created_ms: row.created_ms,
        score: row.score,
        metric: String::new(),
        best: false,
    }
}

/// A run's checkpoints, oldest first, for people; `config` is the run's, and says which is the best.
pub fn checkpoints(rows: &[CheckpointRow], config: &str) -> Vec<v1::Checkpoint> {
    let mut all: Vec<v1::Checkpoint> = rows.iter().map(checkpoint).collect();
    // What is stored was checked before; a run that cannot be read is shown without.
    let Ok(config) = config::parse("the stored config", config) else { return all };
    let eval = config.eval;
    // One that is damaged is nobody's best.
    let measured = |row: &CheckpointRow| if row.damaged { (None, None) } else { (row.eval_loss, row.score) };
    let best = super::checkpoints::best(&eval).among(rows.iter().map(measured));
    for (at, shown) in all.iter_mut().enumerate() {
        shown.metric.clone_from(&eval.best_metric);
        shown.score = if eval.best_metric == "loss" { shown.eval_loss } else { shown.score };
        shown.best = best == Some(at);
    }
    all
}

/// One value.
pub fn metric(row: MetricRow) -> v1::Metric {
    let MetricRow { attempt, step, key, value, time_ms, .. } = row;
    v1::Metric { attempt: attempt.0, step: step.0, key, value, time_ms }
}

/// What belongs to a run beside its own row.
#[derive(Debug, Default)]
pub struct RunParts {
    /// The latest of each.
    pub metrics: Vec<MetricRow>,
    /// Oldest first.
    pub checkpoints: Vec<CheckpointRow>,
    /// Newest last.
    pub events: Vec<EventRow>,
    /// The chain up to the run's step, where the run's own row does not have it (just rewound).
    pub samples_digest: Option<Digest>,
    /// Why a queued run waits, or none goes on.
    pub waiting_for: Option<String>,
    /// What came too late, by kind.
    pub refused: Vec<(&'static str, u64)>,
    /// What of the corpus was used.
    pub coverage: Option<v1::Coverage>,
    /// The sweep it belongs to.
    pub sweep: Option<String>,
    /// Committed steps that changed nothing.
    pub skipped_steps: u64,
}

/// A run, for people. Digests that are not known yet are empty.
pub fn run(row: RunRow, parts: RunParts) -> v1::Run {
    let running = row.status == "running";
    let members: Vec<String> =
        if running { row.members.into_iter().map(|member| member.worker.into()).collect() } else { Vec::new() };
    let digest = |digest: Option<Digest>| digest.map(|digest| digest.to_string()).unwrap_or_default();
    v1::Run {
        id: row.id.to_string(),
        name: row.name,
        kind: row.kind,
        status: row.status,
        reason: row.reason.or(parts.waiting_for).unwrap_or_default(),
        step: row.step.0,
        total_steps: row.total_steps.0,
        attempt: row.attempt.0,
        generation: row.generation.0,
        world_size: u32::try_from(members.len()).unwrap_or(u32::MAX),
        slots: row.slots,
        weights_digest: digest(row.weights_digest),
        samples_digest: digest(row.samples_digest.or(parts.samples_digest)),
        metrics: parts.metrics.into_iter().map(metric).collect(),
        checkpoints: checkpoints(&parts.checkpoints, &row.config),
        parent: row.parent.as_ref().map(checkpoint_ref),
        workers: members,
        created_ms: row.created_ms,
        updated_ms: row.updated_ms,
        config: row.config,
        events: parts
            .events
            .into_iter()
            .map(|event| v1::RunEvent { time_ms: event.time_ms, text: event.text })
            .collect(),
        refused: parts.refused.into_iter().map(|(kind, count)| v1::Refused { kind: kind.to_owned(), count }).collect(),
        coverage: parts.coverage,
        sweep: parts.sweep.unwrap_or_default(),
        skipped_steps: parts.skipped_steps,
    }
}

/// A database that cannot be read or written, for the other side.
pub fn database_failure(error: DatabaseError) -> Failure {
    let kind = match error {
        DatabaseError::Full { .. } => FailureKind::Full,
        _ => FailureKind::Internal,
    };
    Failure::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Generation, Step};

    const CONFIG: &str = "[run]\nname = \"r\"\nkind = \"finetune\"\nsteps = 100\n[data]\npaths = [\"/c\"]\n[tokenizer]\n\
        path = \"/t\"\n[batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 16\n[objective]\nkind = \"classify\"\n";

    fn row(step: u64, eval_loss: f64, score: f64, damaged: bool) -> CheckpointRow {
        CheckpointRow {
            id: CheckpointId { run: "r".parse().unwrap(), generation: Generation(1), step: Step(step) },
            path: String::new(),
            bytes: 1,
            verified: true,
            damaged,
            eval_loss: Some(eval_loss),
            score: Some(score),
            weights_digest: None,
            created_ms: 1,
        }
    }

    #[test]
    fn the_best_checkpoint_is_marked_by_the_metric_of_the_config() {
        let rows =
            [row(10, 0.5, 0.8, false), row(20, 0.4, 0.7, false), row(30, 0.9, 0.9, true), row(40, 0.6, 0.6, false)];
        let shown = |eval: &str| {
            let all = checkpoints(&rows, &format!("{CONFIG}{eval}"));
            let best: Vec<u64> =
                all.iter().filter(|it| it.best).map(|it| it.checkpoint.as_ref().unwrap().step).collect();
            (best, all[0].metric.clone(), all[0].score)
        };
        assert_eq!(shown(""), (vec![20], "loss".to_owned(), Some(0.5)));
        let accuracy = "[eval]\nbest_metric = \"accuracy\"\n";
        assert_eq!(shown(accuracy), (vec![10], "accuracy".to_owned(), Some(0.8)), "damaged ones are nobody's best");
        assert!(checkpoints(&rows, "not a config").iter().all(|it| !it.best));
    }
}
