//! `[init]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the first weights come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// Empty: drawn from the seed. `run:RUN` or `run:RUN@STEP`: a checkpoint of another run (id, name or `latest`).
    /// `hf:PATH`: a folder with Hugging Face's config.json and model.safetensors or pytorch_model.bin, at the same path on
    /// the coordinator's and on every worker's host. The encoder is taken, averaged if the other run averages its weights; heads that the
    /// objective lacks are left, and heads that the source lacks are drawn from the seed.
    #[serde(default)]
    pub from: String,
}

/// The parsed form of `init.from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitSource {
    /// From the seed.
    Seed,
    /// From a checkpoint of another run.
    Run {
        /// Id, name or `latest`.
        run: String,
        /// None: the newest good checkpoint.
        step: Option<u64>,
    },
    /// From a Hugging Face folder.
    HuggingFace {
        /// The folder.
        path: String,
    },
}

impl InitConfig {
    /// Parses `from`; an error is the text to show.
    pub fn source(&self) -> Result<InitSource, String> {
        InitSource::parse(&self.from)
    }
}

impl InitSource {
    /// Of `init.from` and `distill.teacher`.
    pub(crate) fn parse(from: &str) -> Result<Self, String> {
        if from.is_empty() {
            return Ok(Self::Seed);
        }
        match from.split_once(':') {
            Some(("hf", path)) if !path.is_empty() => Ok(Self::HuggingFace { path: path.to_owned() }),
            Some(("run", rest)) if !rest.is_empty() => match rest.split_once('@') {
                None => Ok(Self::Run { run: rest.to_owned(), step: None }),
                Some((run, step)) => match step.parse() {
                    Ok(step) if !run.is_empty() => Ok(Self::Run { run: run.to_owned(), step: Some(step) }),
                    _ => Err(format!("`{from}`: after `@` comes a step, e.g. `run:bert-mini@2000`")),
                },
            },
            _ => Err(format!("`{from}` is neither `run:RUN[@STEP]` nor `hf:FOLDER`")),
        }
    }
}
