//! A sweep as JSON (the contract) and as text.

use super::output;
use super::run_view::{ago, counted, has_ended};
use proto::v1;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn run(run: &v1::SweepRun) -> Value {
    let metrics: Map<String, Value> = run.metrics.iter().map(|it| (it.key.clone(), number(it.value))).collect();
    json!({
        "run": run.run,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "step": run.step,
        "total_steps": run.total_steps,
        "combination": run.combination,
        "seed": run.seed,
        "fold": run.fold,
        "metrics": metrics,
    })
}

fn combination(combination: &v1::SweepCombination, best: Option<u32>) -> Value {
    let settings: Map<String, Value> =
        combination.settings.iter().map(|it| (it.key.clone(), json!(it.value))).collect();
    let metrics: Map<String, Value> = combination
        .statistics
        .iter()
        .map(|it| (it.key.clone(), json!({ "n": it.n, "mean": number(it.mean), "deviation": it.deviation })))
        .collect();
    json!({
        "combination": combination.number,
        "settings": settings,
        "runs": combination.runs,
        "completed": combination.completed,
        "best": best == Some(combination.number),
        "metrics": metrics,
    })
}

/// `sweep show --json`
pub fn sweep(sweep: &v1::Sweep) -> Value {
    json!({
        "name": sweep.name,
        "digest": sweep.digest,
        "metric": sweep.metric,
        "created": sweep.created_ms,
        "best": sweep.best,
        "combinations": sweep.combinations.iter().map(|it| combination(it, sweep.best)).collect::<Vec<_>>(),
        "runs": sweep.runs.iter().map(run).collect::<Vec<_>>(),
        "config": sweep.config,
    })
}

/// `sweep submit --json`
pub fn submitted(sweep: &v1::Sweep) -> Value {
    json!({
        "sweep": sweep.name,
        "digest": sweep.digest,
        "known": sweep.known,
        "runs": sweep.runs.iter().map(|run| &run.run).collect::<Vec<_>>(),
        "warnings": sweep.warnings,
    })
}

/// `sweep cancel`
pub fn cancelled(sweep: &v1::Sweep) -> String {
    let going = sweep.runs.iter().filter(|run| !has_ended(&run.status)).count();
    let going = if going > 0 { format!("; {going} will end after a last checkpoint") } else { String::new() };
    format!("cancelled {} of the {} of sweep {}{going}", sweep.cancelled, runs(sweep), sweep.name)
}

/// "3 runs"
pub fn runs(sweep: &v1::Sweep) -> String {
    counted(sweep.runs.len() as u64, "run")
}

/// How far a sweep is that is waited for.
pub fn progress(sweep: &v1::Sweep) -> String {
    let done = sweep.runs.iter().filter(|run| has_ended(&run.status)).count();
    let failed = not_completed(sweep).map(|(_, how)| format!(" ({how})")).unwrap_or_default();
    format!("sweep {}: {done} of {} done{failed}", sweep.name, runs(sweep))
}

/// The last word on a sweep that has ended; nothing where all of its runs completed.
pub fn verdict(sweep: &v1::Sweep) -> Option<String> {
    let (count, how) = not_completed(sweep)?;
    Some(format!("sweep {}: {count} of {} did not complete ({how})", sweep.name, runs(sweep)))
}

/// How many runs have ended without completing, and how; nothing if there are none.
fn not_completed(sweep: &v1::Sweep) -> Option<(usize, String)> {
    let mut counts = statuses(sweep);
    counts.retain(|status, _| has_ended(status) && *status != "completed");
    let count: usize = counts.values().sum();
    (count > 0).then(|| (count, told(&counts)))
}

/// `sweep list --json`, one line.
pub fn listed(sweep: &v1::Sweep) -> Value {
    json!({
        "name": sweep.name,
        "digest": sweep.digest,
        "metric": sweep.metric,
        "created": sweep.created_ms,
        "runs": sweep.runs.len(),
        "statuses": statuses(sweep),
    })
}

/// How many runs have each status.
fn statuses(sweep: &v1::Sweep) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for run in &sweep.runs {
        *counts.entry(run.status.as_str()).or_insert(0) += 1;
    }
    counts
}

fn told(statuses: &BTreeMap<&str, usize>) -> String {
    statuses.iter().map(|(status, count)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// `sweep list`
pub fn table(sweeps: &[v1::Sweep]) -> std::io::Result<()> {
    let row = |sweep: &v1::Sweep| {
        vec![sweep.name.clone(), sweep.runs.len().to_string(), told(&statuses(sweep)), ago(sweep.created_ms)]
    };
    output::table(&["SWEEP", "RUNS", "STATUS", "SUBMITTED"], &sweeps.iter().map(row).collect::<Vec<_>>())
}

/// `sweep show`
pub fn print(sweep: &v1::Sweep) -> std::io::Result<()> {
    output::line(&format!("sweep       {}", sweep.name))?;
    output::line(&format!("submitted   {}", ago(sweep.created_ms)))?;
    output::line(&format!("runs        {}: {}", sweep.runs.len(), told(&statuses(sweep))))?;
    output::line(&format!("compared    {}\n", sweep.metric))?;
    let runs: Vec<Vec<String>> = sweep
        .runs
        .iter()
        .map(|run| {
            let value = run.metrics.iter().find(|metric| metric.key == sweep.metric);
            vec![
                run.run.clone(),
                run.name.clone(),
                run.status.clone(),
                format!("{}/{}", run.step, run.total_steps),
                value.map_or_else(|| "-".to_owned(), |metric| output::metric(metric.value, Some(4))),
            ]
        })
        .collect();
    let head = sweep.metric.strip_prefix("eval/").unwrap_or(&sweep.metric).to_uppercase();
    output::table(&["RUN", "NAME", "STATUS", "STEP", &head], &runs)?;
    for run in sweep.runs.iter().filter(|run| run.status == "failed") {
        output::line(&format!("\n{} failed and is not counted: {}", run.name, run.reason))?;
    }
    output::line("")?;
    output::table(&["COMBINATION", "RUNS", "METRIC", "N", "MEAN", "DEVIATION", ""], &statistics(sweep))
}

/// A line for each combination and metric, the compared one first.
fn statistics(sweep: &v1::Sweep) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for combination in &sweep.combinations {
        let settings: Vec<String> = combination.settings.iter().map(|it| format!("{}={}", it.key, it.value)).collect();
        let settings = if settings.is_empty() { "all".to_owned() } else { settings.join(" ") };
        let runs = format!("{}/{}", combination.completed, combination.runs);
        let mut statistics: Vec<&v1::SweepStatistic> = combination.statistics.iter().collect();
        statistics.sort_by_key(|it| it.key != sweep.metric);
        if statistics.is_empty() {
            rows.push(vec![
                settings.clone(),
                runs.clone(),
                "-".to_owned(),
                "0".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
        for statistic in statistics {
            let is_best = sweep.best == Some(combination.number) && statistic.key == sweep.metric;
            rows.push(vec![
                settings.clone(),
                runs.clone(),
                statistic.key.clone(),
                statistic.n.to_string(),
                output::metric(statistic.mean, Some(4)),
                statistic
                    .deviation
                    .map_or_else(|| "-".to_owned(), |value| format!("± {}", output::metric(value, Some(4)))),
                if is_best { "best".to_owned() } else { String::new() },
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_how_far_it_is_and_what_did_not_complete() {
        let of = |statuses: &[&str]| {
            let run = |status: &&str| v1::SweepRun { status: (*status).to_owned(), ..v1::SweepRun::default() };
            let runs = statuses.iter().map(run).collect();
            let sweep = v1::Sweep { name: "s".to_owned(), runs, ..v1::Sweep::default() };
            (progress(&sweep), verdict(&sweep))
        };
        assert_eq!(of(&["running", "queued", "queued"]), ("sweep s: 0 of 3 runs done".to_owned(), None));
        assert_eq!(of(&["completed", "interrupted", "queued"]).0, "sweep s: 1 of 3 runs done");
        assert_eq!(of(&["completed", "failed", "running"]).0, "sweep s: 2 of 3 runs done (1 failed)");
        let (told, verdict) = of(&["cancelled", "failed", "completed"]);
        assert_eq!(told, "sweep s: 3 of 3 runs done (1 cancelled, 1 failed)");
        assert_eq!(verdict.unwrap(), "sweep s: 2 of 3 runs did not complete (1 cancelled, 1 failed)");
        assert_eq!(of(&["completed"]), ("sweep s: 1 of 1 run done".to_owned(), None));
    }
}
