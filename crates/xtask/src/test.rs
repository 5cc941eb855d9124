//! `cargo xtask test`: everything that must hold, in one command.

use crate::artefacts::MINILM;
use crate::building::{cargo, target_folder, workspace};
use crate::{cache, libtorch, python, tidy};
use anyhow::{Context, Result, bail};
use std::process::Command;
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

pub fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    libtorch::set_up()?;
    nextest()?;
    if arguments.only.is_none() {
        tidy::run(&tidy::Arguments { fix: false })?;
    }
    let minilm = cache::folder()?.join("minilm-1");
    cache::once(&minilm, |into| {
        MINILM.unpack(into, |name| name.split_once("/model/").map(|(_, file)| file.to_owned())).map(|_| ())
    })?;
    // The end-to-end tests drive the real binaries, so everything is built first.
    workspace()?;
    // The golden tests leave what they export here, for transformers to load.
    let exports = target_folder()?.join("exports");
    let mut tests = cargo();
    tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--hide-progress-bar"]);
    tests.env("TRIREME_MINILM", &minilm).env("TRIREME_EXPORT_DIR", &exports);
    if !arguments.no_python {
        tests.env("TRIREME_S3_SERVER", python::s3_server()?);
    }
    if let Some(only) = &arguments.only {
        tests.arg(only);
    }
    let passed = cache::run(&mut tests);
    if passed.is_ok() && !arguments.no_python && arguments.only.is_none() {
        let mut check = Command::new(python::interpreter()?);
        check.arg(cache::root().join("tests/golden/check_export.py")).arg(&exports);
        cache::run(&mut check).context("transformers does not load our export as it should")?;
    }
    println!("cargo xtask test: {} s", started.elapsed().as_secs());
    let report = std::fs::read_to_string(target_folder()?.join("nextest/default/junit.xml")).unwrap_or_default();
    if let Some((passed, failed)) = totals(&report) {
        println!("{passed} passed, {failed} failed");
    }
    passed
}

/// Tests that passed and that did not, from the first line of nextest's JUnit report.
fn totals(report: &str) -> Option<(usize, usize)> {
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
    println!("installing cargo-nextest (once) …");
    cache::run(cargo().args(["install", "--quiet", "--locked", "cargo-nextest"]))?;
    if !cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()) {
        bail!("cargo-nextest was installed but does not start: is cargo's bin folder on the PATH?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_are_read_from_the_report() {
        let report = "<?xml?>\n<testsuites name=\"n\" tests=\"7\" failures=\"1\" errors=\"1\" uuid=\"u\">\n";
        assert_eq!(totals(report), Some((5, 2)));
        assert_eq!(totals(""), None);
    }
}
