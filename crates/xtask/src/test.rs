//! `cargo xtask test`: everything that must hold, in one command.

use crate::artefacts::MINILM;
use crate::building::{cargo, target_folder, workspace};
use crate::{cache, libtorch, python, tidy};
use anyhow::{Context, Error, Result, bail};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out what needs Python: our exports are then not loaded by transformers (3 GB), and object stores are not
    /// tried against an S3 server (350 MB). Not for CI.
    #[arg(long)]
    no_python: bool,
    /// Run only the tests whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// What goes wrong is told, and the totals follow: they are the last line, whatever happened.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let report = target_folder()?.join("nextest/default/junit.xml");
    let exports = target_folder()?.join("exports");
    // What an earlier run left would be taken for this one's.
    remove(&report)?;
    remove(&exports)?;
    let (tested, others) = outcomes(arguments, &report, &exports);
    let problems: Vec<Error> = others.into_iter().filter_map(Result::err).collect();
    for problem in tested.as_ref().err().into_iter().chain(&problems) {
        eprintln!("error: {problem:#}");
    }
    println!("cargo xtask test: {} s", started.elapsed().as_secs());
    let report = std::fs::read_to_string(&report).unwrap_or_default();
    let (passed, failed) = totals(&report, tested.is_err(), problems.len());
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of the tests, and of the rest. Goes on after a failure with what can still be checked.
fn outcomes(arguments: &Arguments, report: &Path, exports: &Path) -> (Result<()>, Vec<Result<()>>) {
    if let Err(error) = libtorch::set_up().and_then(|()| nextest()) {
        return (Err(error), Vec::new());
    }
    let is_whole = arguments.only.is_none();
    let mut others = Vec::new();
    if is_whole {
        others.push(tidy::run(&tidy::Arguments { fix: false }));
    }
    let tested = tests(arguments, exports);
    // Where nothing could be built, nothing was exported either.
    if is_whole && !arguments.no_python && report.exists() {
        others.push(check_exports(exports));
    }
    (tested, others)
}

fn tests(arguments: &Arguments, exports: &Path) -> Result<()> {
    let minilm = cache::folder()?.join("minilm-1");
    cache::once(&minilm, |into| {
        MINILM.unpack(into, |name| name.split_once("/model/").map(|(_, file)| file.to_owned())).map(|_| ())
    })?;
    // The end-to-end tests drive the real binaries, so everything is built first.
    workspace()?;
    let mut tests = cargo();
    tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--hide-progress-bar"]);
    tests.env("TRIREME_MINILM", &minilm).env("TRIREME_EXPORT_DIR", exports);
    if !arguments.no_python {
        tests.env("TRIREME_S3_SERVER", python::s3_server()?);
    }
    if let Some(only) = &arguments.only {
        tests.arg(only);
    }
    cache::run(&mut tests)
}

/// The golden tests left what they export in this folder, for transformers to load.
fn check_exports(exports: &Path) -> Result<()> {
    let mut check = Command::new(python::onnx_interpreter()?);
    check.arg(cache::root().join("tests/golden/check_export.py")).arg(exports);
    cache::run(&mut check).context("transformers does not load our export as it should")
}

/// A file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What passed and what did not: the tests of nextest's JUnit report, and each other problem as one more. A run that
/// failed never counts no failure, whatever the report says.
fn totals(report: &str, tests_failed: bool, problems: usize) -> (usize, usize) {
    let (passed, failed) = tests_in(report).unwrap_or_default();
    (passed, failed.max(usize::from(tests_failed)) + problems)
}

/// Tests that passed and that did not, from the first line of the report.
fn tests_in(report: &str) -> Option<(usize, usize)> {
    let line = report.lines().find(|line| line.starts_with("<testsuites"))?;
    let number = |name: &str| line.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?.parse::<usize>().ok();
    let failed = number("failures")? + number("errors")?;
    Some((number("tests")?.checked_sub(failed)?, failed))
}

/// The test runner, installed on first use.
fn nextest() -> Result<()> {
    if cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    eprintln!("installing cargo-nextest (once) …");
    cache::run(cargo().args(["install", "--quiet", "--locked", "cargo-nextest"]))?;
    if !cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()) {
        bail!("cargo-nextest was installed but does not start: is cargo's bin folder on the PATH?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "<?xml?>\n<testsuites name=\"n\" tests=\"7\" failures=\"1\" errors=\"1\" uuid=\"u\">\n";

    #[test]
    fn the_totals_are_read_from_the_report() {
        assert_eq!(totals(REPORT, true, 0), (5, 2));
        assert_eq!(totals("", false, 0), (0, 0));
    }

    #[test]
    fn a_failure_beside_the_tests_is_counted() {
        assert_eq!(totals(REPORT, true, 2), (5, 4));
        assert_eq!(totals("", true, 0), (0, 1), "nothing could be built");
        assert_eq!(totals("", true, 1), (0, 2), "and it was not tidy");
    }

    #[test]
    fn what_an_earlier_run_left_is_removed() {
        let left = std::env::temp_dir().join(format!("trireme-left-{}", std::process::id()));
        std::fs::create_dir_all(left.join("bert")).unwrap();
        remove(&left).unwrap();
        assert!(!left.exists());
        std::fs::write(&left, "old").unwrap();
        remove(&left).unwrap();
        assert!(!left.exists());
        remove(&left).unwrap();
    }
}
