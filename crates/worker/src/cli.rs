//! The command line.
//!
//! stdout carries data, stderr carries messages. Exit codes: 0 ok, 1 failure, 2 usage, 4 no access, 5 bad input, 75 worth
//! another try.

#[cfg(test)]
mod exit_codes;
mod join;
#[cfg(test)]
pub(crate) mod reference;

use crate::connect::{COORDINATOR_VARIABLE, ConnectError, Coordinator, Token};
use crate::device::Choice;
use crate::doctor::{self, DoctorArguments};
use crate::embed::{self, EmbedArguments};
use crate::export_onnx::{self, ExportOnnxArguments};
use crate::fill_mask::{self, FillMaskArguments};
use crate::predict::{self, PredictArguments};
use crate::prompt::{self, PromptArguments};
use crate::training::{self, TrainerArguments};
use crate::word2vec::{self, Word2VecArguments};
use clap::{Args, Parser, Subcommand};
use corpus::{CorpusError, ErrorKind};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use types::WorkerId;

/// Trireme's worker: trains for a coordinator, and uses what was trained.
#[derive(Debug, Parser)]
#[command(
    name = "worker",
    version,
    propagate_version = true,
    after_help = "Examples:
  worker join 127.0.0.1:7117                 train for the coordinator on this machine
  worker join head:7117 --device cuda:1      on the second GPU
  worker doctor                              what this machine has, and what is missing
  worker predict --checkpoint latest --text \"a fine film\"
  worker fill-mask --checkpoint latest --text \"Paris is the [MASK] of France.\"
  worker embed --model exported/ --file sentences.txt --out vectors.npy

Exit codes: 0 ok, 1 failure, 2 usage, 4 no access, 5 bad input, 75 try again."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train for a coordinator until told to end.
    Join(JoinArguments),
    /// Show what this machine has, and what is missing.
    Doctor(DoctorArguments),
    /// Label text, give numbers, answer questions or choose with a fine-tuned model.
    Predict(PredictArguments),
    /// Say which words a pretrained model puts in the place of [MASK].
    FillMask(FillMaskArguments),
    /// Label text without any fine-tuning, or with little, by the word that a model puts into a sentence.
    Prompt(PromptArguments),
    /// Make vectors of texts, or compare those of one word.
    Embed(EmbedArguments),
    /// Write a model as a file of ONNX, in float32 or int8.
    ExportOnnx(ExportOnnxArguments),
    /// Train and ask static word vectors, to compare with.
    Word2vec(Word2VecArguments),
    /// The process that an agent starts.
    #[command(hide = true)]
    Trainer(TrainerArguments),
}

/// `worker join`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker join 127.0.0.1:7117
  worker join head:7117 --name gpu-0 --device cuda:0 --token-file token
  TRIREME_COORDINATOR=head:7117 worker join --threads 4

SIGTERM, SIGUSR1 or Ctrl-C: finish the step, hand over, and end. If all workers of a run leave, its last step is saved
first, and the exit code is 75. A second SIGTERM or Ctrl-C ends at once, with 75.

When all leave, the last of them ends once the step is done and its checkpoint stored: 3.2 s after the signal for three
workers and a small model (docs/results.md). Who takes machines back should leave more time than that for a large one.

When the coordinator goes away, training goes on, and reports wait in TMPDIR (1 GiB at most; then training waits too).")]
struct JoinArguments {
    /// The coordinator's address.
    #[arg(value_name = "HOST:PORT", env = COORDINATOR_VARIABLE)]
    coordinator: String,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: Choice,
    /// Compute threads. Default: one for each core. In exact mode all workers of a run should use the same number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// This worker's name, unique in the cluster. Default: host name and process number.
    #[arg(long)]
    name: Option<WorkerId>,
    /// A file that holds the coordinator's token. Default: TRIREME_TOKEN, else `token` in the default data folder.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where the other workers reach this one. Default: the address from which the coordinator is reached.
    #[arg(long, value_name = "IP")]
    address: Option<std::net::IpAddr>,
    /// How long to wait for a coordinator that is not there yet.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
}

/// What a person is told when a command fails, and the exit code.
pub(crate) struct Problem {
    text: String,
    help: Option<String>,
    code: u8,
}

const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const ACCESS: u8 = 4;
const INPUT: u8 = 5;
const RETRY: u8 = 75;

impl Problem {
    /// A failure with exit code 1 and no advice.
    pub(crate) fn failure(text: impl Into<String>) -> Self {
        Self { text: text.into(), help: None, code: FAILURE }
    }

    /// Arguments that cannot be, or not together or of this model; exit code 2.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), help: None, code: USAGE }
    }

    /// What was given is wrong: texts, a model's folder, a folder to fill; exit code 5.
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self { text: text.into(), help: None, code: INPUT }
    }

    /// The same, with what to do about it.
    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// A failure that may pass, with exit code 75, and what to do about it.
    pub(crate) fn retry(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { text: text.into(), help: Some(help.into()), code: RETRY }
    }

    /// A gRPC status, with the exit codes of the coordinator's own commands: 4 for the token, 5 for what makes no sense, 75
    /// for an absent or slow coordinator, else 1.
    pub(crate) fn from_status(coordinator: &Coordinator, status: &tonic::Status) -> Self {
        let address = coordinator.address();
        let reason = crate::agent::session::root_cause(status);
        let (text, help, code) = match status.code() {
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
                let help = "give `--token-file` (or TRIREME_TOKEN) the contents of <data-dir>/token on its host";
                (format!("the coordinator at {address} does not accept the token: {reason}"), Some(help), ACCESS)
            }
            tonic::Code::Unavailable => {
                let help = "start one with `coordinator start`, or check the address";
                (format!("no coordinator answers at {address}: {reason}"), Some(help), RETRY)
            }
            tonic::Code::DeadlineExceeded => (reason, None, RETRY),
            tonic::Code::InvalidArgument => (reason, None, INPUT),
            _ => (reason, None, FAILURE),
        };
        Self { text, help: help.map(str::to_owned), code }
    }

    /// What happened, and what to do about it.
    pub(crate) fn into_text_and_help(self) -> (String, Option<String>) {
        (self.text, self.help)
    }

    fn of(error: &dyn Diagnostic, code: u8) -> Self {
        Self { text: error.to_string(), help: error.help().map(|help| help.to_string()), code }
    }

    fn report(self) -> ExitCode {
        let mut out = std::io::stderr().lock();
        let mut diagnostic = miette::MietteDiagnostic::new(self.text);
        diagnostic.help = self.help;
        let plain = !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let theme = if plain { GraphicalTheme::none() } else { GraphicalTheme::unicode() };
        let width = if plain { 10_000 } else { 100 };
        let mut text = String::new();
        if GraphicalReportHandler::new_themed(theme).with_width(width).render_report(&mut text, &diagnostic).is_err() {
            text = diagnostic.to_string();
        }
        let _ = writeln!(out, "{}", text.trim_end());
        ExitCode::from(self.code)
    }
}

impl From<ConnectError> for Problem {
    fn from(error: ConnectError) -> Self {
        Self::of(&error, error.exit_code())
    }
}

impl From<crate::agent::JoinError> for Problem {
    fn from(error: crate::agent::JoinError) -> Self {
        Self::of(&error, error.exit_code())
    }
}

impl From<CorpusError> for Problem {
    fn from(error: CorpusError) -> Self {
        let code = match error.kind {
            ErrorKind::Io => RETRY,
            ErrorKind::Internal => FAILURE,
            _ => INPUT,
        };
        Self { text: format!("{}: {}", error.place, error.message), help: Some(error.help), code }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::failure(format!("{error:#}"))
    }
}

/// The token that the arguments, the environment or the default folder name.
pub(crate) fn token(file: Option<&PathBuf>) -> Result<Option<Token>, ConnectError> {
    Token::find(file.map(PathBuf::as_path))
}

/// Reads the arguments, does what they say, and tells the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    run(arguments.command).unwrap_or_else(Problem::report)
}

fn run(command: Command) -> Result<ExitCode, Problem> {
    match command {
        Command::Join(arguments) => join::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::FillMask(arguments) => fill_mask::run(&arguments),
        Command::Prompt(arguments) => prompt::run(&arguments),
        Command::Embed(arguments) => embed::run(&arguments),
        Command::ExportOnnx(arguments) => export_onnx::run(&arguments),
        Command::Word2vec(arguments) => word2vec::run(&arguments),
        Command::Trainer(arguments) => training::run(arguments).map(|()| ExitCode::SUCCESS).map_err(Problem::from),
    }
}

/// Log lines with fields to stderr; `TRIREME_LOG` chooses which, e.g. `debug` or `worker=debug`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TRIREME_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
