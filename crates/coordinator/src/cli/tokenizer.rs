//! `coordinator tokenizer`: needs no running coordinator.

use super::args::{TokenizerArguments, TokenizerCommand, TokenizerModel, TrainTokenizerArguments};
use super::data::{corpus_problem, writing_problem};
use super::output;
use super::problem::Problem;
use corpus::{ByteLevelOptions, Columns, FileSource, Filling, WordPieceOptions, train_byte_level, train_word_piece};
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
    let TrainTokenizerArguments { data, column, model, vocabulary, lowercase, out, overwrite, json } = arguments;
    if lowercase && model == TokenizerModel::ByteLevelBpe {
        return Err(Problem::usage("--lowercase is for --model word-piece: a byte-level BPE keeps every byte")
            .help("leave it out"));
    }
    Filling::Tokenizer.check(&out, overwrite).map_err(corpus_problem)?;
    let files = FileSource::open(&data, &[], None, &Columns::text(&column)).map_err(corpus_problem)?;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} rows").expect("a fixed template"));
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let (size, min_frequency) = (vocabulary, MIN_FREQUENCY);
    let tokenizer = match model {
        TokenizerModel::WordPiece => {
            train_word_piece(&files, WordPieceOptions { size, lowercase, min_frequency }, &mut progress)
        }
        TokenizerModel::ByteLevelBpe => {
            train_byte_level(&files, ByteLevelOptions { size, min_frequency }, &mut progress)
        }
    };
    let tokenizer = tokenizer.map_err(corpus_problem)?;
    bar.finish_and_clear();
    let removed = Filling::Tokenizer.clear(&out).map_err(corpus_problem)?;
    if !json {
        output::removed(&removed);
    }
    tokenizer.write_folder(&out).map_err(writing_problem)?;
    if model == TokenizerModel::ByteLevelBpe {
        // What vocab.json and merges.txt do not say.
        let config = out.join("tokenizer_config.json");
        std::fs::write(&config, "{\"add_prefix_space\": true}\n")
            .map_err(|error| Problem::failure(format!("{}: {error}", config.display())))?;
    }
    let path = out.join("tokenizer.json").display().to_string();
    if json {
        let digest = tokenizer.digest().to_string();
        output::json(&json!({
            "path": path, "vocabulary": tokenizer.size(), "digest": digest, "removed": removed,
        }))?;
    } else {
        output::line(&path)?;
        output::message(&format!("{} tokens; use it with `tokenizer.path`", tokenizer.size()));
        if tokenizer.size() < vocabulary {
            output::message(&format!("the text has no more for the {vocabulary} asked for: give more of it"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
