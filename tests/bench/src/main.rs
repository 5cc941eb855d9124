//! Our speed beside the peers', measured in turns on one machine within one run, and what our promises cost.
//!
//! Absolute figures of two runs differ by a fifth and more, so ratios are reported against a goal: medians of what was
//! done alternately, a block of ours, a block of theirs, with the same number of threads. The first line says what
//! machine, what versions and what command it was; `cargo xtask bench --report` makes docs/benchmarks.md of the lines.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the results are this program's output")]

mod balance;
mod checkpoint;
mod coordinator;
mod corpora;
mod data;
mod facts;
mod finetune;
mod memory;
mod ours;
mod peer;
mod pipeline;
mod process;
mod recipes;
mod recovery;
mod reduce;
mod report;
mod roofline;
mod runs;
mod samples;
mod scaling;
mod stats;
mod step;
mod throttle;
mod unpadded;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, ValueEnum};
use facts::Facts;
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Measures Trireme beside what a user would take instead, and what its promises cost")]
struct Arguments {
    /// What to measure.
    #[arg(long, default_value = "step")]
    suite: Suite,
    /// The Python that has torch, transformers, accelerate and datasets.
    #[arg(long)]
    python: Option<PathBuf>,
    /// The folder with corpus.parquet and a tokenizer.json for it.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Suites `step` and `recipes`: where tensors live, `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: step::Place,
    /// Suite `step`: measure nothing, but write a Chrome trace of one step of each of our cases into this folder.
    #[arg(long, value_name = "FOLDER")]
    trace: Option<PathBuf>,
    /// Suites `step` and `reduce`: only the cases with this in their name, such as `BERT-base`.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line: first {facts}, then {suite, case, ours, peer, unit, ratio, goal, bound, met, spread}.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    recipes: recipes::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Suite {
    /// All of them but `recipes`, one after the other.
    All,
    /// Whole training steps of one worker: samples, forward, backward, reduction, optimizer.
    Step,
    /// A real corpus from text to checkpoints, beside the Trainer.
    Pipeline,
    /// Two workers beside one.
    Scaling,
    /// What exact mode costs beside fast mode.
    Reduce,
    /// From text to masked samples, on one core.
    Data,
    /// Fine-tuning steps beside the Trainer's.
    Finetune,
    /// The coordinator under thousands of workers.
    Coordinator,
    /// A worker's memory by component.
    Memory,
    /// How long a step waits for its checkpoint.
    Checkpoint,
    /// How long training stands still after a worker or the coordinator is killed or frozen.
    Recovery,
    /// How much of a slow worker's speed a run gets.
    Balance,
    /// How long our recipe takes to the loss that the Trainer reaches in ten minutes.
    Learning,
    /// Which pretraining recipe learns most in a given time. Takes hours.
    Recipes,
}

impl Suite {
    fn parts(self) -> Vec<Self> {
        let is_one = |suite: Self| suite != Self::All && suite != Self::Recipes;
        let is_wanted = |suite: &&Self| if self == Self::All { is_one(**suite) } else { self == **suite };
        Self::value_variants().iter().filter(is_wanted).copied().collect()
    }

    fn name(self) -> String {
        self.to_possible_value().expect("no suite is hidden").get_name().to_owned()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.suite == Suite::Recipes && arguments.recipes.is_part() {
        return arguments.measure(Suite::Recipes);
    }
    let parts = arguments.suite.parts();
    let has_cases = parts.contains(&Suite::Step) || parts.contains(&Suite::Reduce);
    ensure!(arguments.case.is_none() || has_cases, "--case is for the suites `step` and `reduce`");
    let facts = Facts::gather(arguments.command(), arguments.python.as_deref());
    if arguments.json {
        println!("{}", serde_json::json!({ "facts": facts }));
    } else {
        println!("{facts}");
    }
    let mut failed = Vec::new();
    for suite in &parts {
        // One that cannot be measured here must not take the others with it. A cluster that fails panics.
        let measured = catch_unwind(AssertUnwindSafe(|| arguments.measure(*suite)));
        if let Err(error) = measured.unwrap_or_else(|_| Err(anyhow!("it panicked"))) {
            eprintln!("{}: {error:#}", suite.name());
            failed.push(suite.name());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("not measured to the end: {}", failed.join(", ")) }
}

impl Arguments {
    /// As it was typed.
    fn command(&self) -> String {
        let flags =
            [(self.device == step::Place::Cuda, " --device cuda"), (self.quick, " --quick"), (self.json, " --json")];
        let flags: String = flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect();
        // `cargo xtask` builds for the CPU.
        let program = if self.device == step::Place::Cuda { "bench" } else { "cargo xtask bench" };
        let more = match (self.suite, &self.case) {
            (Suite::Recipes, _) => self.recipes.command(),
            (_, Some(case)) if case.contains(' ') => format!(" --case \"{case}\""),
            (_, Some(case)) => format!(" --case {case}"),
            (_, None) => String::new(),
        };
        let separator = if self.device == step::Place::Cuda || more.is_empty() { "" } else { " --" };
        format!("{program} --suite {}{flags}{separator}{more}", self.suite.name())
    }

    fn python(&self) -> Result<&Path> {
        self.python.as_deref().context("give --python")
    }

    fn corpus(&self) -> Result<&Path> {
        self.corpus.as_deref().context("give --corpus")
    }

    fn measure(&self, suite: Suite) -> Result<()> {
        let (quick, case) = (self.quick, self.case.as_deref().unwrap_or_default());
        match suite {
            Suite::All => unreachable!("it was taken apart"),
            Suite::Step => match &self.trace {
                Some(folder) => step::trace(self.device, folder),
                None => step::measure(self.python()?, self.device, case, quick, |line| self.show(line)),
            },
            Suite::Pipeline => pipeline::measure(self.python()?, self.corpus()?, quick, |line| self.show(line)),
            Suite::Scaling => scaling::measure(self.python()?, quick, |line| self.show(line)),
            Suite::Reduce => reduce::measure(case, quick, |line| self.show(line)),
            Suite::Data => data::measure(self.python()?, self.corpus()?, quick, |line| self.show(line)),
            Suite::Finetune => {
                unpadded::measure(quick, |line| self.show(line))?;
                finetune::measure(self.python()?, quick, |line| self.show(line))
            }
            Suite::Coordinator => coordinator::measure(quick, |line| self.show(line)),
            Suite::Memory => memory::measure(quick, |line| self.show(line)),
            Suite::Checkpoint => checkpoint::measure(quick, |line| self.show(line)),
            Suite::Recovery => recovery::measure(quick, |line| self.show(line)),
            Suite::Balance => balance::measure(quick, |line| self.show(line)),
            Suite::Learning => {
                recipes::learning(&self.recipes, self.python()?, self.corpus()?, quick, |line| self.show(line))
            }
            Suite::Recipes => {
                let corpus = || self.corpus().map(Path::to_owned);
                recipes::measure(&self.recipes, corpus, self.device, &facts::processor(), |line| self.show(line))
            }
        }
    }

    fn show(&self, line: &(impl Serialize + Display)) {
        if self.json {
            println!("{}", serde_json::to_string(line).expect("numbers and text are JSON"));
        } else {
            println!("{line}");
        }
        // Somebody may be waiting for it at the other end of a pipe, for an hour.
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_suite_but_itself_and_that_which_takes_hours() {
        assert_eq!(Suite::Data.parts(), [Suite::Data]);
        let all = Suite::All.parts();
        assert_eq!(all.len() + 2, Suite::value_variants().len());
        assert!(!all.contains(&Suite::All) && !all.contains(&Suite::Recipes));
        assert_eq!(Suite::Recipes.parts(), [Suite::Recipes]);
    }

    #[test]
    fn the_command_is_told_as_it_is_typed() {
        let arguments = Arguments::parse_from(["bench", "--suite", "data", "--quick", "--json", "--corpus", "/c"]);
        assert_eq!(arguments.command(), "cargo xtask bench --suite data --quick --json");
        assert!(arguments.python().is_err());
        let on_a_gpu = Arguments::parse_from(["bench", "--device", "cuda", "--json"]);
        assert_eq!(on_a_gpu.command(), "bench --suite step --device cuda --json", "xtask builds for the CPU");
        let large = Arguments::parse_from(["bench", "--case", "BERT-base", "--quick"]);
        assert_eq!(large.command(), "cargo xtask bench --suite step --quick -- --case BERT-base");
        let spaced = Arguments::parse_from(["bench", "--case", "BERT-mini, 128"]);
        assert_eq!(spaced.command(), "cargo xtask bench --suite step -- --case \"BERT-mini, 128\"");
        let recipes = Arguments::parse_from(["bench", "--suite", "recipes", "--size", "mini", "--only", "wsd,adamw"]);
        let more = "--size mini --minutes 4 --seeds 2 --threads 2 --only wsd,adamw";
        assert_eq!(recipes.command(), format!("cargo xtask bench --suite recipes -- {more}"));
    }
}
