//! Which pretraining recipe comes to the lowest held-out loss in a given time: the shipped one of a size, and the same
//! with one thing changed, each with several seeds.
//!
//! Runs are deterministic, so equal times become numbers of steps. The phase `rates` trains each variant for some seconds
//! on the machine that is meant, with nothing beside it, and writes how long a step takes. The phase `runs` gives every
//! variant as many steps as fit into the time, and may do them anywhere: on a busy machine, several at once, on a GPU.
//! Each run is a process of its own. The measure is the same for all ([`material`]).

mod learning;
mod material;
mod single;
mod summary;
mod variants;

use crate::step::Place;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use config::ModelSize;
use serde::{Deserialize, Serialize};
use single::{Rate, Setting, Trained};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Of the suite `recipes` only.
#[derive(clap::Args)]
pub struct Options {
    /// Suite `recipes`: one part of it. Default: rates, runs and summary, one after the other.
    #[arg(long)]
    phase: Option<Phase>,
    /// Suites `recipes` and `learning`: the size of the model.
    #[arg(long, default_value = "tiny")]
    size: Size,
    /// Suite `recipes`: variants, separated by commas. Default: all of them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Suite `recipes`: the file of rates, which `rates` writes and `runs` reads.
    #[arg(long, default_value = "recipes-rates.json", value_name = "FILE")]
    rates: PathBuf,
    /// Suite `recipes`, `rates`: seconds for each variant.
    #[arg(long, default_value_t = 8.0)]
    rate_seconds: f64,
    /// Suite `recipes`: the time that each run has, on the machine whose rates are given.
    #[arg(long, default_value_t = 4.0)]
    minutes: f64,
    /// Suite `recipes`: seeds of each variant: 1, 2, …
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Suites `recipes` and `learning`: threads of each process.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Suite `recipes`, `runs`: so many at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Suite `recipes`, `runs`: deals each batch over so many slots, which changes the order of samples and nothing else.
    /// 1 is fastest on a GPU. Default: as the recipe says.
    #[arg(long)]
    slots: Option<u32>,
    /// Suite `recipes`, `runs`: a run that takes longer is ended.
    #[arg(long, default_value_t = 3_600.0)]
    run_seconds: f64,
    /// Suite `recipes`, `runs`: no run begins later.
    #[arg(long)]
    budget_seconds: Option<f64>,
    /// Suite `recipes`: where runs are added, one JSON object a line. Those that are there already are not done again.
    #[arg(long, default_value = "recipes-runs.jsonl", value_name = "FILE")]
    results: PathBuf,
    /// Suite `recipes`: a folder for the texts as they are split and the vocabularies, which are made once. Default: for
    /// this time only.
    #[arg(long, value_name = "FOLDER")]
    prepared: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    steps: u64,
    #[arg(long, hide = true, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Phase {
    /// How long a step of each variant takes here.
    Rates,
    /// What each variant comes to.
    Runs,
    /// The results of runs side by side.
    Summary,
    /// One run, in this process.
    #[value(hide = true)]
    Single,
}

/// Those that there are recipes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    Tiny,
    Mini,
    Small,
    Base,
}

impl Size {
    fn of_model(self) -> ModelSize {
        match self {
            Self::Tiny => ModelSize::Tiny,
            Self::Mini => ModelSize::Mini,
            Self::Small => ModelSize::Small,
            Self::Base => ModelSize::Base,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().expect("no size is hidden").get_name().to_owned()
    }
}

/// The file of rates.
#[derive(Debug, Serialize, Deserialize)]
struct Rates {
    size: Size,
    threads: u32,
    cpu: String,
    rates: BTreeMap<String, Rate>,
}

/// A line of the file of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ended {
    size: Size,
    variant: String,
    seed: u64,
    minutes: f64,
    /// Steps that fit into the time.
    steps: u64,
    device: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Trained(Trained),
    Failed { error: String },
}

impl Options {
    /// Whether this process is a part of another one's measurement.
    pub fn is_part(&self) -> bool {
        self.phase == Some(Phase::Single)
    }

    /// What decides about the results, as it is typed after that of all suites.
    pub fn command(&self) -> String {
        let Self { size, minutes, seeds, threads, only, .. } = self;
        let only = if only.is_empty() { String::new() } else { format!(" --only {}", only.join(",")) };
        format!(" --size {} --minutes {minutes} --seeds {seeds} --threads {threads}{only}", size.name())
    }
}

/// The suite `learning`, for the size and the threads of the options.
pub fn learning(
    options: &Options,
    python: &Path,
    corpus: &Path,
    quick: bool,
    show: impl FnMut(&crate::report::Line),
) -> Result<()> {
    learning::measure(options.size, options.threads, python, corpus, quick, show)
}

/// `cpu` is the name of the processor.
pub fn measure(
    options: &Options,
    corpus: impl Fn() -> Result<PathBuf>,
    place: Place,
    cpu: &str,
    mut show: impl FnMut(&crate::report::Line),
) -> Result<()> {
    if options.phase == Some(Phase::Single) {
        return single(options, place);
    }
    let temporary = tempfile::tempdir()?;
    let folder = options.prepared.clone().unwrap_or_else(|| temporary.path().join("prepared"));
    let does = |phase| options.phase.is_none_or(|wanted| wanted == phase);
    let variants = variants::chosen(options.size.of_model(), &options.only)?;
    if does(Phase::Rates) || does(Phase::Runs) {
        let material = material::Material::prepare(&folder, &corpus()?.join("corpus.parquet"))?;
        for variant in &variants {
            material.train_tokenizer(variant.vocabulary)?;
        }
        if does(Phase::Rates) {
            rates(options, &material, &variants, cpu)?;
        }
        if does(Phase::Runs) {
            runs(options, &folder, &variants, place)?;
        }
    }
    if does(Phase::Summary) {
        let (rates, ended) = (read_rates(options)?, read_results(&options.results)?);
        let ended: Vec<Ended> =
            ended.into_iter().filter(|run| run.size == options.size && run.minutes == options.minutes).collect();
        ensure!(!ended.is_empty(), "{} has no run of this size and time", options.results.display());
        summary::lines(&ended, rates.threads).iter().for_each(&mut show);
    }
    Ok(())
}

fn rates(options: &Options, material: &material::Material, variants: &[variants::Variant], cpu: &str) -> Result<()> {
    // Those of other variants stay.
    let known = read_rates(options)
        .ok()
        .filter(|known| (known.size, known.threads, known.cpu.as_str()) == (options.size, options.threads, cpu));
    let mut rates = known.map_or_else(BTreeMap::new, |known| known.rates);
    let setting = Setting { threads: options.threads, device: tch::Device::Cpu, slots: None };
    for variant in variants {
        let rate = single::rate(material, &variant.of_size(options.size.of_model())?, setting, options.rate_seconds)
            .with_context(|| format!("the rate of `{}`", variant.name))?;
        let speed = rate.tokens_per_step / rate.seconds_per_step;
        eprintln!("{}: {:.1} ms a step, {speed:.0} tokens/s", variant.name, 1e3 * rate.seconds_per_step);
        rates.insert(variant.name.to_owned(), rate);
        let all = Rates { size: options.size, threads: options.threads, cpu: cpu.to_owned(), rates: rates.clone() };
        std::fs::write(&options.rates, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| format!("cannot write {}", options.rates.display()))?;
    }
    Ok(())
}

fn read_rates(options: &Options) -> Result<Rates> {
    let file = &options.rates;
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}: write it by `--phase rates`", file.display()))?;
    let rates: Rates = serde_json::from_str(&text).with_context(|| format!("{} has no rates", file.display()))?;
    ensure!(rates.size == options.size, "{} has the rates of another size, {:?}", file.display(), rates.size);
    Ok(rates)
}

fn read_results(file: &Path) -> Result<Vec<Ended>> {
    let Ok(text) = std::fs::read_to_string(file) else { return Ok(Vec::new()) };
    let lines = text.lines().enumerate().filter(|(_, line)| line.starts_with('{'));
    // Only a line that was cut off in the middle of being written has no end.
    let whole = lines.filter(|(_, line)| line.ends_with('}'));
    let parsed = whole.map(|(number, line)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}: no run", file.display(), number + 1))
    });
    parsed.collect()
}

/// A process that trains.
struct Running {
    process: Child,
    ended: Ended,
    began: Instant,
}

fn runs(options: &Options, folder: &Path, variants: &[variants::Variant], place: Place) -> Result<()> {
    let rates = read_rates(options)?;
    let done = read_results(&options.results)?;
    let mut waiting = Vec::new();
    // Every variant has its first seed before any has its second.
    for seed in 1..=options.seeds {
        for variant in variants {
            let rate = rates.rates.get(variant.name).with_context(|| {
                format!("{} lacks `{}`: add it by `--phase rates --only {0}`", options.rates.display(), variant.name)
            })?;
            let run = Ended {
                size: options.size,
                variant: variant.name.to_owned(),
                seed,
                minutes: options.minutes,
                steps: rate.steps(60.0 * options.minutes),
                device: place.name().to_owned(),
                outcome: Outcome::Failed { error: String::new() },
            };
            let same = |other: &&Ended| {
                (other.size, other.seed, &other.variant, other.steps) == (run.size, run.seed, &run.variant, run.steps)
            };
            if !done.iter().filter(same).any(|other| matches!(other.outcome, Outcome::Trained(_))) {
                waiting.push(run);
            }
        }
    }
    waiting.reverse();
    let mut results = std::fs::OpenOptions::new().create(true).append(true).open(&options.results)?;
    let (began, all) = (Instant::now(), waiting.len());
    let mut running: Vec<Running> = Vec::new();
    let mut failed = 0;
    loop {
        let in_time = options.budget_seconds.is_none_or(|budget| began.elapsed().as_secs_f64() < budget);
        while in_time && running.len() < options.parallel.max(1) {
            let Some(next) = waiting.pop() else { break };
            running.push(start(options, folder, place, next)?);
        }
        if running.is_empty() {
            break;
        }
        let mut still = Vec::new();
        for mut run in running {
            match run.poll(options.run_seconds)? {
                None => still.push(run),
                Some(ended) => {
                    failed += usize::from(matches!(ended.outcome, Outcome::Failed { .. }));
                    let line = serde_json::to_string(&ended)?;
                    writeln!(results, "{line}").and_then(|()| results.flush())?;
                    eprintln!("{line}");
                }
            }
        }
        running = still;
        std::thread::sleep(Duration::from_millis(50));
    }
    if !waiting.is_empty() {
        eprintln!("{} of {all} runs were not begun: the time is over", waiting.len());
    }
    ensure!(failed < all.max(1), "every run failed; {} says why", options.results.display());
    Ok(())
}

fn start(options: &Options, folder: &Path, place: Place, ended: Ended) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--suite", "recipes", "--phase", "single", "--device", place.name()]);
    command.args(["--size", &options.size.name(), "--only", &ended.variant]);
    command.args(["--seed", &ended.seed.to_string(), "--steps", &ended.steps.to_string()]);
    command.args(["--threads", &options.threads.to_string()]).arg("--prepared").arg(folder);
    if let Some(slots) = options.slots {
        command.args(["--slots", &slots.to_string()]);
    }
    command.env("OMP_NUM_THREADS", options.threads.to_string());
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a run")?;
    Ok(Running { process, ended, began: Instant::now() })
}

impl Running {
    /// The result, once the process is over; one that takes too long is ended.
    fn poll(&mut self, patience: f64) -> Result<Option<Ended>> {
        let over = self.process.try_wait()?;
        let outcome = match over {
            None if self.began.elapsed().as_secs_f64() < patience => return Ok(None),
            None => Outcome::Failed { error: format!("not done after {patience} s") },
            Some(status) => {
                // A line, far shorter than what a pipe holds.
                let mut text = String::new();
                self.process.stdout.take().context("it was piped")?.read_to_string(&mut text)?;
                serde_json::from_str(&text).map_or_else(
                    |_| Outcome::Failed { error: format!("{status}; what it said is above") },
                    Outcome::Trained,
                )
            }
        };
        Ok(Some(Ended { outcome, ..self.ended.clone() }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One run, whose result is one line of standard output.
fn single(options: &Options, place: Place) -> Result<()> {
    let ([name], Some(folder)) = (options.only.as_slice(), &options.prepared) else {
        bail!("--phase single takes one name by --only, and --prepared");
    };
    let variant = variants::Variant::of_name(name)?;
    let setting = Setting { threads: options.threads, device: place.device(), slots: options.slots };
    let material = material::Material::open(folder);
    let trained =
        single::run(&material, &variant.of_size(options.size.of_model())?, setting, (options.steps, options.seed))?;
    println!("{}", serde_json::to_string(&trained)?);
    Ok(())
}
