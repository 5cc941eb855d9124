//! Reading what `cargo xtask bench --json` printed.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One run of the measurements.
#[derive(Debug)]
pub struct Run {
    pub facts: Facts,
    pub lines: Vec<Line>,
    pub recoveries: Vec<Recovery>,
}

/// The machine, the versions and the command.
#[derive(Debug, Deserialize)]
pub struct Facts {
    pub command: String,
    pub day: String,
    pub commit: String,
    pub cpu: String,
    pub cores: u64,
    pub memory_gib: u64,
    pub kernel: String,
    pub libtorch: String,
    pub profile: String,
    pub peers: BTreeMap<String, String>,
}

/// One result. Without `ours` it could not be measured, and `note` says why.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub suite: String,
    pub case: String,
    pub ours: Option<f64>,
    pub peer: Option<f64>,
    pub unit: String,
    pub ratio: Option<f64>,
    pub goal: Option<f64>,
    pub bound: Bound,
    pub spread: Option<f64>,
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast,
    AtMost,
}

/// A result of the suite `recovery`: seconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Recovery {
    pub case: String,
    pub rounds: u64,
    pub p50_seconds: f64,
    pub p95_seconds: f64,
    pub worst_seconds: f64,
    pub normal_step_seconds: f64,
    pub goal_seconds: f64,
    pub met: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Object {
    Facts { facts: Facts },
    Recovery(Recovery),
    Line(Line),
}

/// The runs of some files, in order.
pub fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        runs.extend(parse(file, &text)?);
    }
    ensure!(!runs.is_empty(), "there are no results: fill a file by `cargo xtask bench --suite all --json > FILE`");
    Ok(runs)
}

/// A run begins with its facts. What is no object is for people.
fn parse(file: &Path, text: &str) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        let place = || format!("{}, line {}", file.display(), number + 1);
        let object = serde_json::from_str(line).with_context(|| format!("{}: no result of `bench --json`", place()))?;
        if let Object::Facts { facts } = object {
            runs.push(Run { facts, lines: Vec::new(), recoveries: Vec::new() });
            continue;
        }
        let Some(run) = runs.last_mut() else {
            bail!("{}: a result before any line with facts: take the output of `bench --json` whole", place());
        };
        match object {
            Object::Line(line) => run.lines.push(line),
            Object::Recovery(recovery) => run.recoveries.push(recovery),
            Object::Facts { .. } => unreachable!("it has just been taken"),
        }
    }
    ensure!(!runs.is_empty(), "{} has no line with facts: fill it by `cargo xtask bench --json`", file.display());
    Ok(runs)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const FACTS: &str = r#"{"facts":{"command":"cargo xtask bench --suite step --json","day":"2026-02-03","commit":"abc123","cpu":"AMD EPYC","cores":2,"memory_gib":24,"kernel":"6.1","libtorch":"2.11.0","profile":"dev","peers":{"torch":"2.11.0"}}}"#;

    pub fn line(case: &str, ratio: f64) -> String {
        let ours = 100.0 * ratio;
        format!(
            r#"{{"suite":"step","case":"{case}","ours":{ours},"peer":100.0,"unit":"tokens/s","ratio":{ratio},"goal":3.0,"bound":"at_least","met":true,"spread":0.02}}"#
        )
    }

    pub fn runs(lines: &[String]) -> Vec<Run> {
        parse(Path::new("results.jsonl"), &lines.join("\n")).unwrap()
    }

    #[test]
    fn a_file_has_runs_one_after_the_other() {
        let recovery = r#"{"suite":"recovery","case":"SIGKILL","rounds":5,"p50_seconds":1.0,"p95_seconds":2.0,"worst_seconds":2.0,"normal_step_seconds":0.5,"goal_seconds":1.0,"met":false}"#;
        let lines = [FACTS, "libtorch 2.11.0: /cache", &line("mini", 3.1), FACTS, &line("mini", 3.2), recovery]
            .map(str::to_owned);
        let runs = runs(&lines);
        assert_eq!(runs.iter().map(|run| run.lines.len()).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(runs[0].lines[0].ratio, Some(3.1));
        assert_eq!(runs[0].facts.cores, 2);
        assert_eq!((runs[1].recoveries[0].rounds, runs[1].recoveries[0].met), (5, false));
    }

    #[test]
    fn what_is_no_result_is_named_with_its_line() {
        let fails = |lines: &[&str]| {
            let error = parse(Path::new("results.jsonl"), &lines.join("\n")).map(drop).unwrap_err();
            format!("{error:#}")
        };
        assert!(fails(&[FACTS, "{\"suite\": \"st"]).contains("results.jsonl, line 2"));
        assert!(fails(&[&line("mini", 3.0)]).contains("a result before any line with facts"));
        assert!(fails(&["nothing here"]).contains("no line with facts"));
    }
}
