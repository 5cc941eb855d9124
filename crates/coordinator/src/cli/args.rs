//! What the command line looks like.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Trireme's coordinator: distributes the training of BERT models over workers.
#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    propagate_version = true,
    after_help = "Examples:
  coordinator start                                   run a coordinator on 127.0.0.1:7117
  coordinator submit configs/quickstart.toml --wait   train, with a progress line
  coordinator runs list                               all runs
  coordinator runs watch latest                       follow the newest run
  coordinator checkpoints export --format hf latest --out model/

Which coordinator: --coordinator or TRIREME_COORDINATOR, else the one started on this machine.
Exit codes: 0 ok, 1 failure, 2 usage, 4 no access, 5 bad input, 75 try again."
)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Which coordinator, and how to be let in.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The coordinator's address. Default: the one that was started on this machine.
    #[arg(long, global = true, env = "TRIREME_COORDINATOR", value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// A file that holds the coordinator's token. Default: TRIREME_TOKEN, else `token` in the default data folder.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a coordinator.
    Start(StartArguments),
    /// Check a config and its data, and queue a run.
    Submit(SubmitArguments),
    /// Runs that are submitted together, to be compared: seeds, folds, values of keys.
    Sweep(SweepArguments),
    /// Look at runs, cancel or resume them.
    Runs(RunsArguments),
    /// Look at workers, or tell one to go.
    Workers(WorkersArguments),
    /// The metric history of a run.
    Metrics(MetricsArguments),
    /// A run's checkpoints.
    Checkpoints(CheckpointsArguments),
    /// The record of which samples were used.
    Ledger(LedgerArguments),
    /// Check a config file, or print the schema.
    Config(ConfigArguments),
    /// What we recommend for pretraining.
    Recipe(RecipeArguments),
    /// Train a vocabulary.
    Tokenizer(TokenizerArguments),
    /// Look at a corpus and how it would be dealt to workers.
    Data(DataArguments),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  coordinator completions bash > ~/.local/share/bash-completion/completions/coordinator"
    )]
    Completions(CompletionsArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator start
  coordinator start --listen 127.0.0.1:0 --data-dir /tmp/trireme   (any free port; see /tmp/trireme/endpoint)
  coordinator start --store s3://bucket/trireme")]
pub struct StartArguments {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7117", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Database, token and (by default) checkpoints. Default: $XDG_DATA_HOME/trireme or ~/.local/share/trireme.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where checkpoints go: a folder, or an object-store URL whose credentials come from the environment (AWS_*,
    /// GOOGLE_*, AZURE_*). Default: `store` in the data folder.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Every stored checkpoint is read again and compared with its manifest once in so many hours; 0: never.
    #[arg(long, default_value_t = 24, value_name = "HOURS")]
    pub scrub_hours: u32,
    /// Allow addresses other than loopback although nothing is encrypted.
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// Let in everybody, without a token.
    #[arg(long)]
    pub insecure_no_auth: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator submit configs/quickstart.toml
  coordinator submit configs/quickstart.toml --set run.steps=200 --set optimizer.learning_rate=1e-3 --wait
  coordinator submit finetune.toml --set init.from=run:quickstart@1200 --json")]
pub struct SubmitArguments {
    /// The run's TOML file.
    pub file: PathBuf,
    /// Override one key of the file; may be given again. Relative paths start at the working directory.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<config::Override>,
    /// Follow the run; exit 0 only if it completes.
    #[arg(long)]
    pub wait: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SweepArguments {
    #[command(subcommand)]
    pub command: SweepCommand,
}

#[derive(Debug, Subcommand)]
pub enum SweepCommand {
    /// Check a config, and queue all runs of its sweep or none.
    #[command(after_help = "Example:
  coordinator sweep submit configs/finetune-sentiment.toml --seeds 5 --vary optimizer.learning_rate=1e-5,3e-5,1e-4

The sweep is known by run.name. The same config again changes nothing, and answers the sweep that there is.")]
    Submit(SubmitSweepArguments),
    /// All sweeps, newest last.
    List(JsonFlag),
    /// A sweep's runs, and mean and deviation of their held-out metrics for each combination.
    #[command(visible_alias = "status")]
    Show(NamedSweepArguments),
    /// Cancel those of a sweep's runs that have not ended.
    Cancel(NamedSweepArguments),
}

#[derive(Debug, Args)]
pub struct SubmitSweepArguments {
    /// The runs' TOML file.
    pub file: PathBuf,
    /// Runs of each combination: run.seed, run.seed + 1, and so on (`sweep.seeds`).
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Hold out one of so many folds after the other (`sweep.folds`).
    #[arg(long, value_name = "K")]
    pub folds: Option<u32>,
    /// A key and the values it takes (`sweep.vary`); may be given again: each value of one with each of the other.
    #[arg(long, value_name = "KEY=VALUE,VALUE", value_parser = super::sweep::varied)]
    pub vary: Vec<config::Override>,
    /// Override one key of the file for all runs; may be given again. Relative paths start at the working directory.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<config::Override>,
    /// Wait until all runs have ended; exit 0 only if all completed.
    #[arg(long)]
    pub wait: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct NamedSweepArguments {
    /// The sweep's name.
    pub name: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RunsArguments {
    #[command(subcommand)]
    pub command: RunsCommand,
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// All runs, newest last.
    List(JsonFlag),
    /// One run with its latest metrics and its checkpoints.
    Show(RunArguments),
    /// Follow a run until it ends; exit 0 only if it completes.
    Watch(RunArguments),
    /// Stop a run after a last checkpoint.
    Cancel(RunArguments),
    /// Queue a stopped run again; it goes on from its newest good checkpoint.
    Resume(RunArguments),
}

#[derive(Debug, Args)]
pub struct WorkersArguments {
    #[command(subcommand)]
    pub command: WorkersCommand,
}

#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// All workers that are connected or expected back.
    List(JsonFlag),
    /// Tell a worker to go, as SIGTERM does: it finishes its step, hands over and ends.
    #[command(after_help = "Example:\n  coordinator workers drain gpu-7")]
    Drain(WorkerArguments),
}

#[derive(Debug, Args)]
pub struct WorkerArguments {
    /// The worker's name.
    pub worker: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct JsonFlag {
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Id, beginning of an id, name (the newest of that name) or `latest`.
    pub run: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coordinator metrics latest --key train/loss --json")]
pub struct MetricsArguments {
    /// Id, beginning of an id, name (the newest of that name) or `latest`.
    pub run: String,
    /// Only this metric; may be given again.
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<String>,
    /// From this step on.
    #[arg(long, default_value_t = 0, value_name = "STEP")]
    pub from_step: u64,
    /// Also what a rewind superseded.
    #[arg(long)]
    pub superseded: bool,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckpointsArguments {
    #[command(subcommand)]
    pub command: CheckpointsCommand,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// A run's checkpoints, oldest first.
    List(RunArguments),
    /// Read every byte of a checkpoint again and compare it with the manifest.
    Verify(CheckpointArguments),
    /// Download a checkpoint as a folder that other programs load.
    #[command(after_help = "Example:
  coordinator checkpoints export --format hf quickstart@1200 --out model/
  python -c 'from transformers import AutoModel; AutoModel.from_pretrained(\"model/\")'")]
    Export(ExportArguments),
}

#[derive(Debug, Args)]
pub struct CheckpointArguments {
    /// RUN (its newest checkpoint) or RUN@STEP.
    pub checkpoint: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// RUN (its newest checkpoint) or RUN@STEP.
    pub checkpoint: String,
    /// The format; `hf` is Hugging Face's.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The folder to write; made if it does not exist, else it must be empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write into a folder that is not empty: the files of a model that are there go away, all other files stay.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ExportFormat {
    /// config.json, model.safetensors and the tokenizer's files.
    Hf,
}

#[derive(Debug, Args)]
pub struct LedgerArguments {
    #[command(subcommand)]
    pub command: LedgerCommand,
}

#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Prove from the committed steps that every sample of every epoch was used exactly once, in the plan's order.
    Verify(VerifyLedgerArguments),
}

#[derive(Debug, Args)]
pub struct VerifyLedgerArguments {
    /// Id, beginning of an id, name (the newest of that name) or `latest`.
    pub run: String,
    /// Read and tokenise the corpus again, so that how many samples each unit has is not taken on trust. Takes as long
    /// as preparing the data did.
    #[arg(long)]
    pub deep: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file without a coordinator; prints the resolved config.
    Validate {
        /// The run's TOML file.
        file: PathBuf,
        /// Override one key of the file; may be given again. Relative paths start at the working directory.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<config::Override>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a run's config.
    Schema,
}

#[derive(Debug, Args)]
pub struct RecipeArguments {
    #[command(subcommand)]
    pub command: RecipeCommand,
}

#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Print a config for so many minutes on so many workers, without a coordinator.
    #[command(after_help = "Examples:
  coordinator recipe suggest --minutes 10 --workers 2 --threads 1
  coordinator recipe suggest --minutes 480 --workers 4 --model-size small --tokens-per-second 52000 \\
    --data 'corpus/*.parquet' --tokenizer tokenizer/tokenizer.json --out small.toml")]
    Suggest(SuggestArguments),
}

#[derive(Debug, Args)]
pub struct SuggestArguments {
    /// How long it may train.
    #[arg(long, value_name = "M")]
    pub minutes: f64,
    /// Workers that take part.
    #[arg(long, default_value_t = 1, value_name = "W")]
    pub workers: u32,
    /// Default: the largest that sees ten tokens for each of its parameters.
    #[arg(long, value_name = "SIZE", value_parser = ["tiny", "mini", "small", "base"])]
    pub model_size: Option<String>,
    /// Threads of each worker, from which its speed is estimated.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "tokens_per_second")]
    pub threads: u32,
    /// What all workers together train on in a second, if you know it: `coordinator runs watch` shows it.
    #[arg(long, value_name = "N", requires = "model_size")]
    pub tokens_per_second: Option<f64>,
    /// Files, globs or URLs of your corpus; may be given again.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Vec<String>,
    /// Your tokenizer.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<String>,
    /// Write the config there; a file that is there already stays.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TokenizerArguments {
    #[command(subcommand)]
    pub command: TokenizerCommand,
}

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a vocabulary on a corpus: WordPiece, or RoBERTa's byte-level BPE.
    #[command(after_help = "Examples:
  coordinator tokenizer train --data 'corpus/*.parquet' --column text --vocabulary 8192 --lowercase --out tokenizer/
  coordinator tokenizer train --model byte-level-bpe --data corpus.parquet --vocabulary 8192 --out tokenizer/")]
    Train(TrainTokenizerArguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenizerModel {
    /// BERT's.
    WordPiece,
    /// RoBERTa's, with its special tokens.
    ByteLevelBpe,
}

#[derive(Debug, Args)]
pub struct TrainTokenizerArguments {
    /// Files, globs or URLs of the corpus; may be given again.
    #[arg(long = "data", required = true, value_name = "PATH", num_args = 1..)]
    pub data: Vec<String>,
    /// The text column.
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    pub column: String,
    /// How words are cut into pieces.
    #[arg(long, value_enum, default_value_t = TokenizerModel::WordPiece)]
    pub model: TokenizerModel,
    /// Entries of the vocabulary, special tokens included.
    #[arg(long, value_name = "N")]
    pub vocabulary: usize,
    /// Lower-case and strip accents (WordPiece only).
    #[arg(long)]
    pub lowercase: bool,
    /// The folder for tokenizer.json and vocab.txt, or vocab.json and merges.txt; made if it does not exist, else it
    /// must be empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write into a folder that is not empty: the files of a tokenizer that are there go away, all other files stay.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DataArguments {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Files, row groups and rows.
    #[command(after_help = "Examples:
  coordinator data inspect configs/quickstart.toml
  coordinator data inspect 'corpus/*.parquet' --column body")]
    Inspect(DataSourceArguments),
    /// Units, the slots they are dealt to, and an estimate of the tokens.
    #[command(after_help = "Examples:
  coordinator data plan configs/quickstart.toml
  coordinator data plan configs/quickstart.toml --set batch.slots=16 --json")]
    Plan(PlanArguments),
    /// Make one Parquet file of plain text files.
    #[command(after_help = "Example:
  coordinator data import books/*.txt --out corpus.parquet

Lines of a paragraph are joined; paragraphs are gathered into documents, one a row, in a column `text`. What is no
UTF-8 is read as Latin-1. Parquet, CSV, JSONL, SQuAD's JSON and CoNLL need no import and are refused: a run names them
in `data.paths` as they are.")]
    Import(ImportArguments),
}

#[derive(Debug, Args)]
pub struct ImportArguments {
    /// Text files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The Parquet file to write; it appears when it is whole.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A document ends with the paragraph that brings it to this many characters.
    #[arg(long, default_value_t = 4000, value_name = "N")]
    pub document_characters: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DataSourceArguments {
    /// A run's TOML file, or files, globs and URLs of a corpus.
    #[arg(required = true)]
    pub sources: Vec<String>,
    /// The text column, where no TOML file names it.
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    pub column: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    /// A run's TOML file.
    pub file: PathBuf,
    /// Override one key of the file; may be given again. Relative paths start at the working directory.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<config::Override>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell.
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
