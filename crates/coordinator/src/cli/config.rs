//! `coordinator config`

use super::args::{ConfigArguments, ConfigCommand};
use super::output;
use super::problem::Problem;
use std::process::ExitCode;

pub fn run(arguments: ConfigArguments) -> Result<ExitCode, Problem> {
    match arguments.command {
        ConfigCommand::Validate { file, set, json } => {
            let checked = config::load_checked(&file, &set)?;
            checked.sweep_points(&file.display().to_string())?;
            if json {
                output::json(&*checked)?;
            } else {
                output::line(config::to_toml(&checked).trim_end())?;
                let name = file.display();
                output::message(&format!("{name} is a valid config; `coordinator submit` also opens its data"));
            }
        }
        ConfigCommand::Schema => {
            let schema = serde_json::to_string_pretty(&config::json_schema()).map_err(std::io::Error::from)?;
            output::line(&schema)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
