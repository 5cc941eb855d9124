//! `worker predict`: labels text with a fine-tuned model, from a run's checkpoint or a Hugging Face folder.

mod model;
mod output;

use crate::cli::Problem;
use crate::connect::{COORDINATOR_VARIABLE, Coordinator, default_data_folder};
use crate::device::Choice;
use crate::downloads;
use clap::Args;
use config::ObjectiveKind;
use model::Predictor;
use output::Printer;
use proto::v1::{CheckpointRef, Run, RunRequest};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Texts in one forward pass.
const BATCH: usize = 32;

/// `worker predict`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker predict --checkpoint sentiment --text \"a fine film\"
  worker predict --checkpoint tagger@500 --file sentences.txt --json
  worker predict --model exported/ < sentences.txt
  worker predict --model exported/ --pairs --file questions-and-answers.tsv

One text a line. A classifier answers `label <tab> probability <tab> text`, a tagger `word/tag word/tag …`.
A model that was trained on pairs (data.pair_column) reads two texts a line, with a tab between them.")]
pub struct PredictArguments {
    /// A run: id, name or `latest`; with @STEP one of its checkpoints, else the newest.
    #[arg(long, value_name = "RUN[@STEP]", conflicts_with = "model", required_unless_present = "model")]
    checkpoint: Option<String>,
    /// A folder with config.json, model.safetensors and tokenizer.json (or vocab.txt).
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// A text to label; may be given again. Default: the lines of --file, else of standard input.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    text: Vec<String>,
    /// A file with one text a line.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Each text is a pair: the first one, a tab, the second one. Runs with data.pair_column say so themselves.
    #[arg(long)]
    pairs: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Tokens of a text that are read at most. Default: what the model was trained with.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..))]
    max_length: Option<u32>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: Choice,
    /// Compute threads. Default: one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// The coordinator that has the run. Default: the one that was started on this machine.
    #[arg(long, value_name = "HOST:PORT", env = COORDINATOR_VARIABLE)]
    coordinator: Option<String>,
    /// A file that holds the coordinator's token. Default: TRIREME_TOKEN, else `token` in the default data folder.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: PredictArguments) -> Result<ExitCode, Problem> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    trainer::set_threads(arguments.threads.unwrap_or(cores));
    let device = arguments.device.decide().open()?;
    let downloaded;
    let (folder, trained_length, trained_on_pairs) = match (&arguments.model, &arguments.checkpoint) {
        (Some(folder), _) => (folder.as_path(), None, false),
        (None, Some(name)) => {
            downloaded = download(name, arguments.coordinator.as_deref(), arguments.token_file.as_ref())?;
            (downloaded.folder.path(), downloaded.sequence_length, downloaded.pairs)
        }
        (None, None) => return Err(Problem::failure("name a model with --checkpoint RUN or --model FOLDER")),
    };
    let length = arguments.max_length.map(|length| length as usize).or(trained_length);
    let predictor = Predictor::open(folder, length, device)?;
    let pairs = trained_on_pairs || arguments.pairs;
    if pairs && !predictor.classifies() {
        return Err(Problem::failure("the model labels the words of single texts, not pairs: leave out --pairs"));
    }
    let mut printer = Printer::new(arguments.json);
    let mut batch = Vec::with_capacity(BATCH);
    for text in texts(&arguments)? {
        batch.push(Text::parse(text?, pairs)?);
        if batch.len() == BATCH {
            printer.print(&predictor, &batch)?;
            batch.clear();
        }
    }
    printer.print(&predictor, &batch)?;
    Ok(ExitCode::SUCCESS)
}

/// What gets one label, or its words labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text {
    first: String,
    /// Of a pair.
    second: Option<String>,
}

impl Text {
    fn parse(given: String, pairs: bool) -> Result<Self, Problem> {
        if !pairs {
            return Ok(Self { first: given, second: None });
        }
        let (first, second) = given.split_once('\t').ok_or_else(|| {
            Problem::failure(format!("`{given}` is one text; the model labels pairs: write a tab and the second text"))
        })?;
        Ok(Self { first: first.to_owned(), second: Some(second.to_owned()) })
    }
}

/// The texts, read as they are needed.
fn texts(arguments: &PredictArguments) -> Result<Box<dyn Iterator<Item = Result<String, Problem>>>, Problem> {
    let texts = numbered_texts(&arguments.text, arguments.file.as_deref())?;
    Ok(Box::new(texts.map(|text| text.map(|(_, text)| text))))
}

/// Texts with their place: the number of a line, or which argument.
pub(crate) type Numbered = Box<dyn Iterator<Item = Result<(usize, String), Problem>>>;

/// The texts of the arguments, else of the file's lines, else of standard input's. Empty lines are left out.
pub(crate) fn numbered_texts(given: &[String], file: Option<&Path>) -> Result<Numbered, Problem> {
    if !given.is_empty() {
        return Ok(Box::new((1..).zip(given.to_vec()).map(Ok)));
    }
    let (name, reader): (String, Box<dyn BufRead>) = match file {
        Some(path) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path)
                .map_err(|error| Problem::failure(format!("{name} cannot be read: {error}")))?;
            (name, Box::new(BufReader::new(file)))
        }
        None => ("standard input".to_owned(), Box::new(BufReader::new(std::io::stdin()))),
    };
    let lines = (1..).zip(reader.lines()).filter_map(move |(number, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(Ok((number, line))),
        Err(error) => Some(Err(Problem::failure(format!("{name}, line {number}: {error}")))),
    });
    Ok(Box::new(lines))
}

/// A checkpoint in a temporary folder.
pub(crate) struct Downloaded {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) sequence_length: Option<usize>,
    /// What the run learned, where its config can be read.
    pub(crate) objective: Option<config::ObjectiveConfig>,
    /// Whether it was trained on pairs of texts.
    pairs: bool,
}

/// As for the coordinator's own commands: the one that was named, else the one that was started on this machine.
fn address(named: Option<&str>, data_folder: Option<&Path>) -> Result<String, Problem> {
    if let Some(address) = named.filter(|address| !address.is_empty()) {
        return Ok(address.to_owned());
    }
    let endpoint = data_folder.map(|folder| folder.join("endpoint"));
    let text = endpoint.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    text.map(|text| text.trim().to_owned()).ok_or_else(|| {
        let folder = data_folder.map(|folder| format!(" ({})", folder.display())).unwrap_or_default();
        Problem::retry(
            format!("no coordinator runs on this machine's default data folder{folder}"),
            "start one with `coordinator start`, or name another with --coordinator HOST:PORT or TRIREME_COORDINATOR",
        )
    })
}

/// Fetches what a model needs of a checkpoint.
pub(crate) fn download(
    name: &str,
    coordinator: Option<&str>,
    token_file: Option<&PathBuf>,
) -> Result<Downloaded, Problem> {
    let (run, step) = match name.split_once('@') {
        None => (name, None),
        Some((run, step)) => {
            let parsed = step.parse::<u64>();
            (
                run,
                Some(
                    parsed
                        .map_err(|_| Problem::failure(format!("`{name}`: after `@` comes a step, e.g. tagger@500")))?,
                ),
            )
        }
    };
    let token = crate::cli::token(token_file)?;
    let address = address(coordinator, default_data_folder().as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failure(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let coordinator = Coordinator::new(&address, token.as_ref())?;
        let told = |status| Problem::from_status(&coordinator, &status);
        let request = RunRequest { run: run.to_owned() };
        let run = coordinator.runs().show(request).await.map_err(told)?.into_inner();
        let from = choose(&run, step)?;
        let wanted = |name: &str| !name.starts_with("optimizer-");
        let files = downloads::checkpoint(&coordinator, &from, wanted, || ()).await.map_err(told)?;
        let folder = tempfile::tempdir().map_err(|error| Problem::failure(format!("no temporary folder: {error}")))?;
        for (file, contents) in files {
            let path = folder.path().join(plain(&file)?);
            std::fs::write(&path, contents)
                .map_err(|error| Problem::failure(format!("{} cannot be written: {error}", path.display())))?;
        }
        let config = config::parse("the run's config", &run.config).ok();
        let sequence_length = config.as_ref().map(|config| config.batch.sequence_length);
        let objective = config.as_ref().map(|config| config.objective.clone());
        let pairs = config.is_some_and(|config| {
            config.objective.kind == ObjectiveKind::Classify && config.data.pair_column.is_some()
        });
        Ok(Downloaded { folder, sequence_length, objective, pairs })
    })
}

/// The checkpoint of that step, or the newest. Not one in which a byte is wrong, nor one of a step that the run has gone back
/// from.
fn choose(run: &Run, step: Option<u64>) -> Result<CheckpointRef, Problem> {
    let whole = run.checkpoints.iter().filter(|checkpoint| !checkpoint.damaged);
    let whole: Vec<&CheckpointRef> = whole.filter_map(|checkpoint| checkpoint.checkpoint.as_ref()).collect();
    let fits = |from: &&&CheckpointRef| step.map_or(from.step <= run.step, |step| step == from.step);
    let found = whole.iter().filter(fits).max_by_key(|from| (from.step, from.generation));
    found.map(|from| (*from).clone()).ok_or_else(|| {
        let steps: Vec<String> = whole.iter().map(|from| from.step.to_string()).collect();
        let has = if steps.is_empty() { "it has none yet".to_owned() } else { format!("it has: {}", steps.join(", ")) };
        let which = step.map_or_else(|| "no checkpoint".to_owned(), |step| format!("no checkpoint of step {step}"));
        Problem::failure(format!("run {} has {which} that is whole; {has}", run.name))
    })
}

/// A name from the network that becomes a path.
fn plain(file: &str) -> Result<&str, Problem> {
    let safe = Path::new(file).file_name().is_some_and(|name| name == file);
    if safe { Ok(file) } else { Err(Problem::failure(format!("`{file}` is no file name"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Checkpoint;

    #[test]
    fn a_pair_has_a_tab() {
        let parsed = Text::parse("is it?\tit is, it is".to_owned(), true).ok();
        assert_eq!(parsed, Some(Text { first: "is it?".into(), second: Some("it is, it is".into()) }));
        let (message, _) = Text::parse("is it?".to_owned(), true).err().unwrap().into_text_and_help();
        assert!(message.contains("`is it?`") && message.contains("tab"), "{message}");
        let single = Text::parse("a\tb".to_owned(), false).ok();
        assert_eq!(single, Some(Text { first: "a\tb".into(), second: None }));
    }

    #[test]
    fn a_checkpoint_is_whole_and_of_a_step_that_stands() {
        let checkpoint = |step, generation, damaged| Checkpoint {
            checkpoint: Some(CheckpointRef { step, generation, ..CheckpointRef::default() }),
            damaged,
            ..Checkpoint::default()
        };
        // It went back from step 2,000 to 1,000, and the one of 1,150 cannot be read.
        let checkpoints = vec![
            checkpoint(1000, 1, false),
            checkpoint(2000, 1, false),
            checkpoint(1100, 1, false),
            checkpoint(1100, 2, false),
            checkpoint(1150, 2, true),
        ];
        let run = Run { name: "tagger".to_owned(), step: 1200, checkpoints, ..Run::default() };
        let chosen = |step| choose(&run, step).ok().map(|from| (from.step, from.generation));
        assert_eq!(chosen(None), Some((1100, 2)));
        assert_eq!(chosen(Some(2000)), Some((2000, 1)), "whoever names it gets it");
        assert_eq!(chosen(Some(1150)), None);
        let (message, _) = choose(&run, Some(7)).err().unwrap().into_text_and_help();
        assert!(message.contains("no checkpoint of step 7") && message.contains("1000, 2000"), "{message}");
    }

    #[test]
    fn the_coordinator_of_this_machine_is_found_as_its_own_commands_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let here = Some(folder.path());
        let (message, help) = address(None, here).err().unwrap().into_text_and_help();
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
        assert!(help.unwrap().contains("coordinator start"));
        std::fs::write(folder.path().join("endpoint"), "127.0.0.1:4711\n").unwrap();
        assert_eq!(address(None, here).ok().as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(address(Some(""), here).ok().as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(address(Some("head:1"), here).ok().as_deref(), Some("head:1"));
    }
}
