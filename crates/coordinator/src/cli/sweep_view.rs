//! A sweep as JSON (the contract) and as text.

use super::output;
use super::run_view::{ago, has_ended};
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
    format!("cancelled {} of the {} runs of sweep {}{going}", sweep.cancelled, sweep.runs.len(), sweep.name)
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

fn told(sweep: &v1::Sweep) -> String {
    statuses(sweep).iter().map(|(status, count)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// `sweep list`
pub fn table(sweeps: &[v1::Sweep]) -> std::io::Result<()> {
    let row =
        |sweep: &v1::Sweep| vec![sweep.name.clone(), sweep.runs.len().to_string(), told(sweep), ago(sweep.created_ms)];
    output::table(&["SWEEP", "RUNS", "STATUS", "SUBMITTED"], &sweeps.iter().map(row).collect::<Vec<_>>())
}

/// `sweep show`
pub fn print(sweep: &v1::Sweep) -> std::io::Result<()> {
    output::line(&format!("sweep       {}", sweep.name))?;
    output::line(&format!("submitted   {}", ago(sweep.created_ms)))?;
    output::line(&format!("runs        {}: {}", sweep.runs.len(), told(sweep)))?;
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
                value.map_or_else(|| "-".to_owned(), |metric| format!("{:.4}", metric.value)),
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
                format!("{:.4}", statistic.mean),
                statistic.deviation.map_or_else(|| "-".to_owned(), |value| format!("± {value:.4}")),
                if is_best { "best".to_owned() } else { String::new() },
            ]);
        }
    }
    rows
}
