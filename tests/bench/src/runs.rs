//! Runs of the real binaries, and when their steps ended by the clock of the workers, which stamp every step.

use anyhow::{Context, Result, bail, ensure};
use e2e::Cluster;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No step that is measured takes as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The first ones wait for memory, and DDP's buckets are put in order in the second.
pub const WARM_UP: usize = 2;

/// Submits `configs/bert-mini.toml` on the corpus that [`crate::samples::write`] made in `folder`, as a run that does
/// not end and is neither stored nor evaluated meanwhile.
pub fn submit(cluster: &Cluster, folder: &Path, overrides: &[String]) -> Result<String> {
    let config = config();
    let mut all = vec![
        format!("data.paths=[\"{}\"]", folder.join("corpus.jsonl").display()),
        format!("tokenizer.path={}", folder.join("vocab.txt").display()),
        "run.steps=1000000".to_owned(),
        "checkpoint.every_steps=0".to_owned(),
        "eval.every_steps=0".to_owned(),
    ];
    all.extend_from_slice(overrides);
    let mut arguments = vec!["submit".to_owned(), config.display().to_string(), "--json".to_owned()];
    arguments.extend(all.into_iter().flat_map(|set| ["--set".to_owned(), set]));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let submitted = cluster.coordinator(&arguments).expect_code(0).json();
    Ok(submitted["run"].as_str().context("submit prints the run's id")?.to_owned())
}

/// The config of [`submit`].
pub fn config() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/bert-mini.toml")).to_owned()
}

/// Waits until `ready` gives something; fails if the run ends first.
pub fn wait<T>(cluster: &Cluster, run: &str, ready: impl FnMut(&Value) -> Option<T>) -> Result<T> {
    let found = wait_for_end_or(cluster, run, ready)?;
    found.with_context(|| format!("the run ended before its measurement: {:#}", cluster.show(run)))
}

/// Waits until `ready` gives something, or the run is completed and it still gives nothing. It asks seldom: every
/// question is a process that takes time from the workers.
pub fn wait_for_end_or<T>(
    cluster: &Cluster,
    run: &str,
    mut ready: impl FnMut(&Value) -> Option<T>,
) -> Result<Option<T>> {
    let (mut step, mut since) = (None, Instant::now());
    loop {
        let shown = cluster.show(run);
        if let Some(value) = ready(&shown) {
            return Ok(Some(value));
        }
        match shown["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(None),
            "failed" | "cancelled" => bail!("the run ended before its measurement: {shown:#}"),
            _ => {}
        }
        if step != shown["step"].as_u64() {
            (step, since) = (shown["step"].as_u64(), Instant::now());
        }
        ensure!(since.elapsed() < PATIENCE, "no new step for {PATIENCE:?}: {shown:#}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Waits until this many steps are committed.
pub fn wait_for_step(cluster: &Cluster, run: &str, step: usize) -> Result<()> {
    wait(cluster, run, |shown| (shown["step"].as_u64() >= Some(step as u64)).then_some(()))
}

/// Waits until the run is completed; returns its weights' digest.
pub fn wait_until_completed(cluster: &Cluster, run: &str) -> Result<String> {
    let digest = |shown: &Value| shown["weights_digest"].as_str().map(str::to_owned);
    wait(cluster, run, |shown| (shown["status"] == "completed").then(|| digest(shown)))?.context("no digest of weights")
}

/// When each step ended, in milliseconds, ascending: the first is that of step 1.
pub fn step_times(cluster: &Cluster, run: &str) -> Result<Vec<i64>> {
    let rows = cluster.coordinator(&["metrics", run, "--key", "train/loss", "--json"]).expect_code(0).json_lines();
    let times: Option<Vec<i64>> = rows.iter().map(|row| row["time"].as_i64()).collect();
    let mut times = times.context("a metric without a time")?;
    times.sort_unstable();
    Ok(times)
}

/// How long the `count` steps after the first `skip` took.
pub fn step_seconds(times: &[i64], skip: usize, count: usize) -> Result<Vec<f64>> {
    ensure!(skip >= 1, "when the first step began was not stamped");
    ensure!(times.len() >= skip + count, "{} steps are stamped, not {}", times.len(), skip + count);
    Ok(times[skip - 1..skip + count].windows(2).map(|pair| seconds(pair[1] - pair[0])).collect())
}

pub fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_lasts_from_the_end_of_the_one_before_to_its_own() {
        let times = [5_000, 5_900, 6_100, 6_400, 6_500];
        assert_eq!(step_seconds(&times, 2, 3).unwrap(), [0.2, 0.3, 0.1]);
        assert_eq!(step_seconds(&times, 1, 2).unwrap(), [0.9, 0.2]);
        assert!(step_seconds(&times, 2, 4).is_err(), "there is no sixth step");
        assert!(step_seconds(&times, 0, 2).is_err());
    }
}
