//! A run as JSON (the contract) and as text.

use super::output;
use control::RunStatus;
use proto::v1;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number that JSON can hold; else null.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// One checkpoint of a run.
pub fn checkpoint(checkpoint: &v1::Checkpoint) -> Value {
    let reference = checkpoint.checkpoint.clone().unwrap_or_default();
    json!({
        "step": reference.step,
        "generation": reference.generation,
        "path": checkpoint.path,
        "bytes": checkpoint.bytes,
        "verified": checkpoint.verified,
        "damaged": checkpoint.damaged,
        "eval_loss": checkpoint.eval_loss,
        "metric": checkpoint.metric,
        "score": checkpoint.score,
        "best": checkpoint.best,
        "time": checkpoint.created_ms,
    })
}

/// `runs show --json`.
pub fn run(run: &v1::Run) -> Value {
    let metrics: Map<String, Value> =
        run.metrics.iter().map(|metric| (metric.key.clone(), number(metric.value))).collect();
    json!({
        "id": run.id,
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "reason": run.reason,
        "step": run.step,
        "total_steps": run.total_steps,
        "skipped_steps": run.skipped_steps,
        "attempt": run.attempt,
        "generation": run.generation,
        "world_size": run.world_size,
        "slots": run.slots,
        "weights_digest": run.weights_digest,
        "samples_digest": run.samples_digest,
        "metrics": metrics,
        "checkpoints": run.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        "parent": run.parent.as_ref().map(|parent| json!({
            "run": parent.run, "generation": parent.generation, "step": parent.step,
        })),
        "sweep": if run.sweep.is_empty() { Value::Null } else { json!(run.sweep) },
        "workers": run.workers,
        "coverage": run.coverage.as_ref().map(|coverage| json!({
            "samples": coverage.samples, "epochs": coverage.epochs, "chain": coverage.chain,
        })),
        "refused": run.refused.iter().map(|refused| (refused.kind.clone(), json!(refused.count))).collect::<Map<_, _>>(),
        "created": run.created_ms,
        "updated": run.updated_ms,
        "events": run.events.iter().map(|event| json!({"time": event.time_ms, "text": event.text})).collect::<Vec<_>>(),
        "config": run.config,
    })
}

/// `runs list --json`, one line: what is not read for a list is left out, since empty would say that there is none.
pub fn listed(listed: &v1::Run) -> Value {
    let mut value = run(listed);
    if let Some(fields) = value.as_object_mut() {
        for not_read in ["skipped_steps", "sweep", "metrics", "checkpoints", "coverage", "refused", "events"] {
            fields.remove(not_read);
        }
    }
    value
}

/// `metrics --json`, one line.
pub fn metric(metric: &v1::Metric) -> Value {
    json!({
        "attempt": metric.attempt,
        "step": metric.step,
        "key": metric.key,
        "value": number(metric.value),
        "time": metric.time_ms,
    })
}

/// "3 min ago".
pub fn ago(time_ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = now.saturating_sub(u64::try_from(time_ms / 1000).unwrap_or(0));
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// `runs list`.
pub fn table(runs: &[v1::Run]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.id.clone(),
                run.name.clone(),
                run.kind.clone(),
                run.status.clone(),
                format!("{}/{}", run.step, run.total_steps),
                run.world_size.to_string(),
                ago(run.created_ms),
            ]
        })
        .collect();
    output::table(&["RUN", "NAME", "KIND", "STATUS", "STEP", "WORKERS", "SUBMITTED"], &rows)
}

/// `runs show`.
pub fn print(run: &v1::Run) -> std::io::Result<()> {
    let mut lines = vec![
        format!("run         {} ({})", run.id, run.name),
        format!("kind        {}", run.kind),
        format!("status      {}{}", run.status, reason(run)),
        format!("step        {}", steps(run)),
        format!("attempt     {}, generation {}", run.attempt, run.generation),
        format!("workers     {} on {}{}", run.world_size, counted(run.slots.into(), "slot"), names(&run.workers)),
    ];
    if let Some(coverage) = &run.coverage {
        let epochs = coverage.epochs.map(|epochs| format!(", {}", counted(epochs, "whole epoch"))).unwrap_or_default();
        lines.push(format!("coverage    {} used{epochs}", counted(coverage.samples, "sample")));
    }
    let refused: Vec<String> = run
        .refused
        .iter()
        .filter(|refused| refused.count > 0)
        .map(|refused| format!("{} {}", refused.count, refused.kind))
        .collect();
    if !refused.is_empty() {
        lines.push(format!("refused     {} (of generations that were over)", refused.join(", ")));
    }
    if let Some(parent) = &run.parent {
        lines.push(format!("parent      {} at step {}", parent.run, parent.step));
    }
    for (name, digest) in [("samples", &run.samples_digest), ("weights", &run.weights_digest)] {
        if !digest.is_empty() {
            lines.push(format!("{name:<11} {digest}"));
        }
    }
    for metric in &run.metrics {
        let value = output::metric(metric.value, None);
        lines.push(format!("metric      {} = {value} (step {})", metric.key, metric.step));
    }
    for checkpoint in &run.checkpoints {
        let step = checkpoint.checkpoint.as_ref().map_or(0, |reference| reference.step);
        let verified = match (checkpoint.verified, checkpoint.damaged) {
            (_, true) => ", DAMAGED",
            (true, _) => ", verified",
            _ => "",
        };
        let size = output::bytes(checkpoint.bytes);
        lines.push(format!("checkpoint  step {step}: {size}{verified}, {}", checkpoint.path));
    }
    for event in run.events.iter().rev().take(10).rev() {
        lines.push(format!("event       {}: {}", ago(event.time_ms), event.text));
    }
    output::line(&lines.join("\n"))
}

/// Nothing more happens to a run of that status unless a person resumes it.
pub fn has_ended(status: &str) -> bool {
    RunStatus::parse(status).is_some_and(RunStatus::has_ended)
}

/// "6 of 8 (2 steps skipped)".
pub fn steps(run: &v1::Run) -> String {
    let skipped = match run.skipped_steps {
        0 => String::new(),
        1 if run.step == 1 => " (it was skipped: nothing was learned)".to_owned(),
        all if all == run.step => format!(" (all {all} skipped: nothing was learned)"),
        some => format!(" ({} skipped)", counted(some, "step")),
    };
    format!("{} of {}{skipped}", run.step, run.total_steps)
}

/// "1 run", "2 runs".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// ": why", where something is known of it.
pub fn reason(run: &v1::Run) -> String {
    if run.reason.is_empty() { String::new() } else { format!(": {}", run.reason) }
}

fn names(workers: &[String]) -> String {
    if workers.is_empty() { String::new() } else { format!(": {}", workers.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_stand_beside_the_steps() {
        let of = |step, skipped_steps| {
            let run = v1::Run { step, total_steps: 8, skipped_steps, ..v1::Run::default() };
            assert_eq!(super::run(&run)["skipped_steps"], skipped_steps);
            steps(&run)
        };
        assert_eq!((of(0, 0), of(8, 0)), ("0 of 8".into(), "8 of 8".into()));
        assert_eq!((of(8, 1), of(8, 3)), ("8 of 8 (1 step skipped)".into(), "8 of 8 (3 steps skipped)".into()));
        assert_eq!(of(8, 8), "8 of 8 (all 8 skipped: nothing was learned)");
        assert_eq!(of(3, 3), "3 of 8 (all 3 skipped: nothing was learned)");
        assert_eq!(of(1, 1), "1 of 8 (it was skipped: nothing was learned)");
    }
}
