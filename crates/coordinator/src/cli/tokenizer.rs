//! `coordinator tokenizer`: needs no running coordinator.

use super::args::{TokenizerArguments, TokenizerCommand, TrainTokenizerArguments};
use super::data::corpus_problem;
use super::output;
use super::problem::Problem;
use corpus::{Columns, FileSource, WordPieceOptions, train_word_piece};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::process::ExitCode;

/// A piece that stands once in a corpus is noise.
const MIN_FREQUENCY: u64 = 2;

pub async fn run(arguments: TokenizerArguments) -> Result<ExitCode, Problem> {
    let TokenizerCommand::Train(arguments) = arguments.command;
    tokio::task::spawn_blocking(move || train(arguments))
        .await
        .map_err(|error| Problem::failure(format!("training the vocabulary: {error}")))?
}

fn train(arguments: TrainTokenizerArguments) -> Result<ExitCode, Problem> {
    let TrainTokenizerArguments { data, column, vocabulary, lowercase, out, json } = arguments;
    let files = FileSource::open(&data, &[], None, &Columns::text(&column)).map_err(corpus_problem)?;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} rows").expect("a fixed template"));
    let options = WordPieceOptions { size: vocabulary, lowercase, min_frequency: MIN_FREQUENCY };
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let tokenizer = train_word_piece(&files, options, &mut progress).map_err(corpus_problem)?;
    bar.finish_and_clear();
    tokenizer.write_folder(&out).map_err(corpus_problem)?;
    let path = out.join("tokenizer.json").display().to_string();
    if json {
        let digest = tokenizer.digest().to_string();
        output::json(&json!({ "path": path, "vocabulary": tokenizer.size(), "digest": digest }))?;
    } else {
        output::line(&path)?;
        output::message(&format!("{} tokens; use it with `tokenizer.path`", tokenizer.size()));
    }
    Ok(ExitCode::SUCCESS)
}
