//! `coordinator completions`

use super::args::{Arguments, CompletionsArguments};
use super::problem::Problem;
use clap::CommandFactory;
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &CompletionsArguments) -> Result<ExitCode, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "coordinator", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
