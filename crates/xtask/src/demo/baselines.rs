//! What needs no network: `baselines.py`, by scikit-learn and seqeval.

use super::task::{Examples, Files, Language, Task};
use crate::cache;
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// By name of the baseline, the task's metric on the held-out examples.
pub fn measure(python: &Path, task: &Task, files: &Files) -> Result<BTreeMap<String, f64>> {
    let kind = match &task.examples {
        Examples::Texts(_) => "texts",
        Examples::Tagged(_) => "tagged",
        Examples::Answers(_) => "answers",
        Examples::Choices(_) => "choices",
    };
    let spec = json!({
        "kind": kind,
        "metric": task.metric,
        "characters": task.language == Language::Chinese,
        "train": files.train,
        "test": files.test,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/baselines.py");
    let text = cache::output(Command::new(python).arg(script).arg(spec.to_string()))?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}
