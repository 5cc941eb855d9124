//! `coordinator metrics`

use super::args::{Connection, MetricsArguments};
use super::client::Client;
use super::problem::Problem;
use super::{output, run_view};
use proto::v1;
use std::process::ExitCode;

pub async fn run(connection: &Connection, arguments: MetricsArguments) -> Result<ExitCode, Problem> {
    let MetricsArguments { run, keys, from_step, superseded, json } = arguments;
    let client = Client::connect(connection).await?;
    let wanted = keys.join(", ");
    let request = v1::QueryMetricsRequest { run, keys, from_step, superseded };
    let mut metrics = client.metrics().query(request).await?.into_inner();
    let (mut rows, mut found) = (Vec::new(), false);
    while let Some(metric) = metrics.message().await? {
        found = true;
        if json {
            output::json(&run_view::metric(&metric))?;
        } else {
            rows.push(vec![
                metric.attempt.to_string(),
                metric.step.to_string(),
                metric.key,
                metric.value.to_string(),
                run_view::ago(metric.time_ms),
            ]);
        }
    }
    if !found && !wanted.is_empty() {
        output::message(&format!("no value of {wanted} (yet); `coordinator runs show RUN` lists what a run measures"));
    }
    if !json {
        output::table(&["ATTEMPT", "STEP", "KEY", "VALUE", "TIME"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
