//! `coordinator metrics`

use super::args::{Connection, MetricsArguments};
use super::client::Client;
use super::problem::Problem;
use super::{output, run_view};
use proto::v1;
use std::collections::BTreeSet;
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: MetricsArguments) -> Result<ExitCode, Problem> {
    let MetricsArguments { run, keys, from_step, superseded, json } = arguments;
    let client = Client::connect(connection).await?;
    let mut missing: BTreeSet<String> = keys.iter().cloned().collect();
    let (name, since) = (run.clone(), from_step);
    let request = v1::QueryMetricsRequest { run, keys, from_step, superseded };
    let mut metrics = client.metrics().query(request).await?.into_inner();
    let mut rows = Vec::new();
    while let Some(metric) = metrics.message().await? {
        missing.remove(&metric.key);
        if json {
            output::json(&run_view::metric(&metric))?;
        } else {
            rows.push(vec![
                metric.attempt.to_string(),
                metric.step.to_string(),
                metric.key,
                output::metric(metric.value, None),
                run_view::ago(metric.time_ms),
            ]);
        }
    }
    if !missing.is_empty() {
        let missing: Vec<String> = missing.into_iter().collect();
        let since = if since > 0 { format!(" from step {since} on") } else { String::new() };
        let text = format!("run {name} has no value of {}{since}", missing.join(", "));
        output::message(&format!("{text}; `coordinator runs show {name}` lists its metrics"));
    }
    if !json {
        output::table(&["ATTEMPT", "STEP", "KEY", "VALUE", "TIME"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
