//! `coordinator recipe`: needs no running coordinator.

use super::args::{RecipeArguments, RecipeCommand, SuggestArguments};
use super::data::corpus_problem;
use super::output;
use super::problem::Problem;
use config::TokenizerConfig;
use config::recipe::{self, Speed, THREAD_FLOPS, TOKENS_PER_PARAMETER, Wish};
use corpus::Tokenizer;
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, absolute};
use std::process::ExitCode;

/// Entries of a tokenizer that is not there yet: what the guide's example trains.
const VOCABULARY: usize = 8192;

pub fn run(arguments: RecipeArguments) -> Result<ExitCode, Problem> {
    let RecipeCommand::Suggest(arguments) = arguments.command;
    suggest(arguments)
}

fn suggest(arguments: SuggestArguments) -> Result<ExitCode, Problem> {
    let SuggestArguments { minutes, workers, model_size, threads, tokens_per_second, data, tokenizer, out, json } =
        arguments;
    let tokenizer = tokenizer.map(|path| from_anywhere(&path)).transpose()?;
    let vocabulary = match &tokenizer {
        None => VOCABULARY,
        Some(path) => {
            let config = TokenizerConfig { path: path.clone(), lowercase: true };
            Tokenizer::open(&config).map_err(corpus_problem)?.size()
        }
    };
    let wish = Wish {
        size: model_size,
        minutes,
        workers,
        speed: tokens_per_second.map_or(Speed::Threads(threads), Speed::TokensPerSecond),
        vocabulary,
        data: data.iter().map(|path| from_anywhere(path)).collect::<Result<_, _>>()?,
        tokenizer,
    };
    let found = recipe::suggest(&wish).map_err(|error| Problem::input(error.to_string()))?;
    if let Some(path) = &out {
        write_new(path, &found.toml)?;
    }
    if json {
        output::json(&json!({
            "size": found.size,
            "steps": found.config.run.steps,
            "tokens_per_step": found.tokens_per_step,
            "tokens": found.tokens,
            "tokens_per_second": found.tokens_per_second,
            "estimated": tokens_per_second.is_none(),
            "layer_parameters": found.parameters,
            "config": found.config,
        }))?;
    } else if let Some(path) = &out {
        output::line(&path.display().to_string())?;
    } else {
        output::line(found.toml.trim_end())?;
    }
    let per_parameter = found.tokens as f64 / found.parameters as f64;
    if per_parameter < TOKENS_PER_PARAMETER && found.size != "tiny" {
        output::message(&format!(
            "note: {per_parameter:.1} tokens for each parameter of the layers; below {TOKENS_PER_PARAMETER} a smaller model \
             usually learns more in the same time"
        ));
    }
    if tokens_per_second.is_none() {
        output::message(&format!(
            "note: {:.0} tokens/s is an estimate ({:.0} GFLOP/s a thread); train a minute, and give what `coordinator runs \
             watch` shows as --tokens-per-second",
            found.tokens_per_second,
            THREAD_FLOPS / 1e9
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A path that means the same wherever the config lies.
fn from_anywhere(path: &str) -> Result<String, Problem> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    let whole = absolute(path).map_err(|error| Problem::input(format!("`{path}`: {error}")))?;
    Ok(whole.display().to_string())
}

fn write_new(path: &Path, text: &str) -> Result<(), Problem> {
    let name = path.display();
    let mut file = File::create_new(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Problem::input(format!("{name} is there already")).help("give another --out, or remove it")
        }
        _ => Problem::failure(format!("cannot write {name}: {error}")),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| {
        // Half a config is worse than none, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        Problem::failure(format!("cannot write {name}: {error}"))
    })
}
