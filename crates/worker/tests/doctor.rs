//! `worker doctor`, as a person and as a program asks it.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg("doctor").args(arguments).env_remove("TRIREME_COORDINATOR").env_remove("TRIREME_TOKEN");
    command.output().unwrap()
}

fn outcomes(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().map(|check| (check["name"].as_str().unwrap(), check["outcome"].as_str().unwrap())).collect()
}

#[test]
fn it_says_that_this_machine_can_train() {
    // The libtorch that this test's own binary was built with.
    let output = doctor(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcomes = outcomes(&report);
    for name in ["libtorch", "gloo", "cores", "memory"] {
        let found = outcomes.iter().find(|(known, _)| *known == name);
        assert!(found.is_some_and(|(_, outcome)| *outcome != "missing"), "{name}: {report:#}");
    }
    assert!(outcomes.iter().any(|(name, _)| *name == "nccl"), "{report:#}");
    assert_eq!(report["ok"], outcomes.iter().all(|(_, outcome)| *outcome != "missing"), "{report:#}");
    assert_eq!(output.status.code(), Some(i32::from(report["ok"] == false)), "{report:#}");

    let output = doctor(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("worker {}", env!("CARGO_PKG_VERSION"))), "{text}");
    let verdict = if report["ok"] == true { "Ready to train." } else { "Not ready; see MISSING above." };
    assert_eq!(text.lines().last(), Some(verdict), "{text}");
}

#[test]
fn a_coordinator_that_is_not_there_is_missing() {
    // Nobody listens on port 1.
    let output = doctor(&["--json", "--coordinator", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "coordinator").unwrap();
    assert_eq!(check["outcome"], "missing", "{check:#}");
    assert!(check["found"].as_str().unwrap().contains("127.0.0.1:1") && check["help"].is_string(), "{check:#}");

    let output = doctor(&["--coordinator", "127.0.0.1:1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("MISSING  coordinator: ") && text.ends_with("Not ready; see MISSING above.\n"), "{text}");
}
