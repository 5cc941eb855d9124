//! `coordinator data`: needs no running coordinator.

use super::args::{DataArguments, DataCommand, DataSourceArguments, ImportArguments, PlanArguments};
use super::output;
use super::problem::Problem;
use super::run_view::counted;
use config::DataFormat;
use corpus::{Columns, Corpus, CorpusFile, Dealt, ErrorKind, FileSource, Loader, Tokenizer, Unit};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use types::{Cursor, SlotId, Step};

/// Units shown to people; JSON has them all.
const SHOWN: usize = 20;

/// A corpus that cannot be used, for a person.
pub fn corpus_problem(error: corpus::CorpusError) -> Problem {
    let what = format!("{}: {}", error.place, error.message);
    let problem = match error.kind {
        ErrorKind::Io => Problem::retry(what),
        ErrorKind::Internal => Problem::failure(what),
        _ => Problem::input(what),
    };
    problem.help(error.help)
}

/// The same of what was to be written: with that nothing is wrong.
pub fn writing_problem(error: corpus::CorpusError) -> Problem {
    match error.kind {
        ErrorKind::Io => Problem::failure(format!("{}: {}", error.place, error.message)).help(error.help),
        _ => corpus_problem(error),
    }
}

pub async fn run(arguments: DataArguments) -> Result<ExitCode, Problem> {
    let work = move || match arguments.command {
        DataCommand::Inspect(arguments) => inspect(arguments),
        DataCommand::Plan(arguments) => plan(arguments),
        DataCommand::Import(arguments) => import(&arguments),
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::failure(format!("reading the corpus: {error}")))?
}

fn inspect(arguments: DataSourceArguments) -> Result<ExitCode, Problem> {
    let DataSourceArguments { sources, column, json } = arguments;
    let files = match sources.as_slice() {
        [file] if file.ends_with(".toml") => {
            let checked = config::load_checked(file.as_ref(), &[])?;
            Corpus::open(&checked).map_err(corpus_problem)?.files().to_vec()
        }
        paths => FileSource::open(paths, &[], None, &Columns::text(&column)).map_err(corpus_problem)?.files().to_vec(),
    };
    if json {
        for file in &files {
            output::json(file)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |file: &CorpusFile| {
        vec![
            file.path.clone(),
            output::bytes(file.bytes),
            file.row_group_rows.len().to_string(),
            file.rows().to_string(),
            if file.held_out { "held out" } else { "training" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = files.iter().map(row).collect();
    output::table(&["FILE", "SIZE", "ROW GROUPS", "ROWS", "USE"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn import(arguments: &ImportArguments) -> Result<ExitCode, Problem> {
    let ImportArguments { files, out, document_characters, json } = arguments;
    refuse_out(out, files)?;
    refuse_rows(files)?;
    let options = corpus::ImportOptions { document_characters: *document_characters, ..Default::default() };
    let report = corpus::import_text(files, out, options).map_err(writing_problem)?;
    if *json {
        output::json(&json!({
            "file": out, "files": report.files, "latin1_files": report.latin1_files,
            "documents": report.documents, "characters": report.characters,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::message(&format!(
        "{}: {}, {} from {} ({} of them Latin-1)",
        out.display(),
        counted(report.documents as u64, "document"),
        counted(report.characters as u64, "character"),
        counted(report.files as u64, "file"),
        report.latin1_files
    ));
    Ok(ExitCode::SUCCESS)
}

/// A mistyped `--out` must not cost anybody a text.
fn refuse_out(out: &Path, files: &[PathBuf]) -> Result<(), Problem> {
    if out.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("parquet")) {
        return Err(Problem::input(format!("--out {}: what is written is Parquet", out.display()))
            .help("name a file that ends in .parquet"));
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if files.iter().any(|file| real(file).is_some_and(|file| Some(file) == real(out))) {
        return Err(Problem::input(format!("--out {}: it is one of the files to be read", out.display()))
            .help("name another file with --out"));
    }
    Ok(())
}

/// What marks rows, columns and tags in a file would be read as words.
fn refuse_rows(files: &[PathBuf]) -> Result<(), Problem> {
    for file in files {
        let name = file.display().to_string();
        let help = if let Some(DataFormat::Parquet | DataFormat::Csv | DataFormat::Jsonl) = DataFormat::of(&name) {
            "it needs no import: name it in `data.paths` as it is; or import its texts alone, as .txt"
        } else if DataFormat::of(&name).is_some() {
            "to fine-tune on it, name it in `data.paths` as it is; to pretrain, import its texts alone, as .txt"
        } else if file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv")) {
            "write it as .csv or .jsonl, and name that in `data.paths`; or import its texts alone, as .txt"
        } else {
            continue;
        };
        return Err(Problem::input(format!("{name} is no plain text by its ending, but a file of rows")).help(help));
    }
    Ok(())
}

/// Samples and tokens of one unit, made as a worker would make them.
struct Probe {
    samples: u64,
    tokens: u64,
    rows: u64,
}

fn probe(corpus: &Arc<Corpus>, checked: &config::CheckedConfig) -> Result<Probe, Problem> {
    let tokenizer = Arc::new(Tokenizer::open(&checked.tokenizer).map_err(corpus_problem)?);
    let mut loader = Loader::new(Arc::clone(corpus), tokenizer, checked);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let step = loader.next(SlotId(0), Step(1)).map_err(corpus_problem)?;
    // A unit of empty rows comes as 0 of 0, and tells nothing of the others.
    let segment = step.segments.iter().find(|segment| segment.total > 0);
    let tokens: usize = step
        .batches
        .iter()
        .map(|batch| batch.mask.as_ref().map_or(batch.ids.len(), |mask| mask.iter().filter(|real| **real).count()))
        .sum();
    let taken: u64 = step.segments.iter().map(|segment| segment.end - segment.start).sum();
    let samples = segment.map_or(0, |segment| segment.total);
    let Dealt { unit, .. } = corpus.plan().deal(SlotId(0), segment.map_or(0, |segment| segment.turn));
    let tokens = (samples * tokens as u64).checked_div(taken).unwrap_or(0);
    Ok(Probe { samples, tokens, rows: corpus.plan().units()[unit].rows })
}

fn plan(arguments: PlanArguments) -> Result<ExitCode, Problem> {
    let PlanArguments { file, set, json } = arguments;
    let checked = config::load_checked(&file, &set)?;
    let corpus = Arc::new(Corpus::open(&checked).map_err(corpus_problem)?);
    if let Some(error) = corpus.unmeasured() {
        return Err(corpus_problem(error.clone()));
    }
    let probe = probe(&corpus, &checked)?;
    let plan = corpus.plan();
    let rows: u64 = plan.units().iter().map(|unit| unit.rows).sum();
    let scale = |value: u64| (value as f64 * rows as f64 / probe.rows.max(1) as f64).round() as u64;
    let (samples, tokens) = (scale(probe.samples), scale(probe.tokens));
    let (batch, steps) = (&checked.batch, checked.run.steps);
    let per_step = batch.global_samples();
    let epochs = batch.samples_until(steps, steps) as f64 / samples.max(1) as f64;
    // One epoch: the first turns of each slot, until all units are dealt.
    let turns = (plan.units().len() as u64).div_ceil(u64::from(plan.slots()));
    let mut deal = Vec::new();
    for turn in 0..turns {
        for slot in (0..plan.slots()).map(SlotId) {
            let Dealt { epoch, unit } = plan.deal(slot, turn);
            if epoch == 0 {
                deal.push((slot, turn, plan.units()[unit]));
            }
        }
    }
    if json {
        let unit = |(slot, turn, unit): &(SlotId, u64, Unit)| {
            json!({
                "slot": slot, "turn": turn, "file": corpus.files()[unit.file as usize].path, "row_group": unit.row_group,
                "first_row": unit.first_row, "rows": unit.rows,
            })
        };
        output::json(&json!({
            "files": corpus.files().len(),
            "units": plan.units().len(),
            "held_out_units": plan.eval_units().len(),
            "rows": rows,
            "slots": plan.slots(),
            "samples_estimate": samples,
            "tokens_estimate": tokens,
            "samples_per_step": per_step,
            "steps_per_epoch_estimate": samples / per_step.max(1),
            "epochs_estimate": epochs,
            "labels": corpus.labels(),
            "deal": deal.iter().map(unit).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let first = batch.samples_until(1, steps);
    let grows =
        if first < per_step { format!("{first} samples in the first step, growing to ") } else { String::new() };
    output::line(&format!(
        "{}, {} in {} for training, {} held out, {}\n\
         about {samples} samples and {tokens} tokens an epoch (estimated from one unit)\n\
         {grows}{per_step} samples a step: about {} steps an epoch, {steps} steps are {epochs:.2} epochs\n",
        counted(corpus.files().len() as u64, "file"),
        counted(rows, "row"),
        counted(plan.units().len() as u64, "unit"),
        counted(plan.eval_units().len() as u64, "unit"),
        counted(plan.slots().into(), "slot"),
        samples / per_step.max(1),
    ))?;
    let cells: Vec<Vec<String>> = deal
        .iter()
        .take(SHOWN)
        .map(|(slot, turn, unit)| {
            let path = &corpus.files()[unit.file as usize].path;
            let rows = format!("{}..{}", unit.first_row, unit.first_row + unit.rows);
            vec![slot.to_string(), turn.to_string(), path.clone(), unit.row_group.to_string(), rows]
        })
        .collect();
    output::table(&["SLOT", "TURN", "FILE", "ROW GROUP", "ROWS"], &cells)?;
    if deal.len() > SHOWN {
        output::message(&format!("and {} units more; --json shows all", deal.len() - SHOWN));
    }
    Ok(ExitCode::SUCCESS)
}
