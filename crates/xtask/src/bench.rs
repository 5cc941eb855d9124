//! `cargo xtask bench`: our speed beside the peers', as ratios of medians inside one run, and what our promises cost.
//!
//! It prepares what the measurements need (the peers' Python, a real corpus) and starts them; `--report` writes
//! docs/benchmarks.md from the lines of earlier runs, which are kept in docs/benchmarks.

mod report;
mod results;

use crate::building::{binary, workspace};
use crate::{cache, corpora, libtorch, python};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// In the order of the report.
const SUITES: [&str; 13] = [
    "step",
    "pipeline",
    "scaling",
    "reduce",
    "data",
    "finetune",
    "coordinator",
    "memory",
    "checkpoint",
    "recovery",
    "balance",
    "learning",
    "recipes",
];
const WITH_PYTHON: [&str; 7] = ["all", "step", "pipeline", "scaling", "data", "finetune", "learning"];
const WITH_CORPUS: [&str; 5] = ["all", "pipeline", "data", "learning", "recipes"];
/// Changes when what is in it changes.
const CORPUS: &str = "bench-corpus-1";

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --suite step --quick
  cargo xtask bench --suite all --json | tee results.jsonl
  cargo xtask bench --suite data --json > data.jsonl && mv data.jsonl docs/benchmarks && cargo xtask bench --report")]
pub struct Arguments {
    /// Which measurements: all, step, pipeline, scaling, reduce, data, finetune, coordinator, memory, checkpoint,
    /// recovery, balance, learning, recipes (hours, and not among all).
    #[arg(long, default_value = "step", value_parser = suite)]
    suite: String,
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line: first the machine and the versions, then {suite, case, ours, peer, unit, ratio, goal, met}
    /// and more. `recovery` has seconds in place of ratios.
    #[arg(long)]
    json: bool,
    /// What follows `--` goes to the measurements as it is: `--suite recipes -- --minutes 2 --only recipe,adamw`, `--suite step --
    /// --case BERT-base`; `-- --help` lists it.
    #[arg(last = true, value_name = "OPTIONS")]
    more: Vec<String>,
    /// Measure nothing: write docs/benchmarks.md from docs/benchmarks/*.jsonl, which --json filled.
    #[arg(long, conflicts_with_all = ["suite", "quick", "json"])]
    report: bool,
}

fn suite(name: &str) -> Result<String, String> {
    if name == "all" || SUITES.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("there is no such suite; there are all, {}", SUITES.join(", ")))
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.report {
        let page = cache::root().join("docs/benchmarks.md");
        std::fs::write(&page, report::page(&results::read(&kept()?)?)?)
            .with_context(|| format!("cannot write {}", page.display()))?;
        println!("{}", page.display());
        return Ok(());
    }
    libtorch::set_up()?;
    workspace()?;
    let mut bench = Command::new(binary("bench")?);
    bench.args(["--suite", &arguments.suite]);
    let suite = arguments.suite.as_str();
    if WITH_PYTHON.contains(&suite) {
        bench.arg("--python").arg(python::trainer_interpreter()?);
    }
    if WITH_CORPUS.contains(&suite) {
        bench.arg("--corpus").arg(corpus()?);
    }
    for (given, flag) in [(arguments.quick, "--quick"), (arguments.json, "--json")] {
        if given {
            bench.arg(flag);
        }
    }
    bench.args(&arguments.more);
    cache::run(&mut bench)
}

/// The results that the page is made from, in the order of their names.
fn kept() -> Result<Vec<PathBuf>> {
    let folder = cache::root().join("docs/benchmarks");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    Ok(files)
}

/// The quickstart's books and speeches as one Parquet file, and the vocabulary that BERT was published with, made on
/// first use. The folder holds `corpus.parquet` and `tokenizer.json`.
fn corpus() -> Result<PathBuf> {
    let folder = cache::folder()?.join(CORPUS);
    cache::once(&folder, |into| {
        let corpora = corpora::prepare(&cache::folder()?.join("corpora-1"), usize::MAX)?;
        let mut import = Command::new(binary("coordinator")?);
        import.args(["data", "import"]).args(&corpora.texts).arg("--out").arg(into.join("corpus.parquet"));
        cache::output(&mut import)?;
        let tokenizer = corpora.minilm.join("tokenizer.json");
        std::fs::copy(&tokenizer, into.join("tokenizer.json"))
            .with_context(|| format!("cannot copy {}", tokenizer.display()))?;
        Ok(())
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_its_results_make() {
        let page = std::fs::read_to_string(cache::root().join("docs/benchmarks.md")).unwrap();
        let made = report::page(&results::read(&kept().unwrap()).unwrap()).unwrap();
        assert!(made == page, "docs/benchmarks.md is not of docs/benchmarks/*.jsonl: cargo xtask bench --report");
    }

    #[test]
    fn suites_are_known_by_name() {
        assert_eq!(suite("all").as_deref(), Ok("all"));
        assert_eq!(suite("memory").as_deref(), Ok("memory"));
        assert!(suite("speed").unwrap_err().contains("finetune"));
        let prepared = WITH_PYTHON.iter().chain(&WITH_CORPUS);
        assert!(prepared.into_iter().all(|name| suite(name).is_ok()));
    }
}
