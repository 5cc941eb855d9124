//! Which model a command uses, and the text that it is given.

use crate::cli::Problem;
use crate::connect::COORDINATOR_VARIABLE;
use crate::device::Choice;
use crate::predict;
use clap::Args;
use std::path::{Path, PathBuf};
use tch::Device;

/// Which model, and where it computes.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// A run: id, name or `latest`; with @STEP one of its checkpoints, else the newest.
    #[arg(long, value_name = "RUN[@STEP]", conflicts_with = "model", required_unless_present = "model")]
    checkpoint: Option<String>,
    /// A folder with config.json, the weights and tokenizer.json (or vocab.txt).
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
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

/// A model's folder on this machine; a downloaded one is gone when this is.
pub(crate) struct Source {
    folder: PathBuf,
    /// Tokens of a text that are read at most, where something says so.
    pub(crate) length: Option<usize>,
    pub(crate) device: Device,
    downloaded: Option<predict::Downloaded>,
}

impl Source {
    /// What the run learned that the model is from, if it is from one.
    pub(crate) fn objective(&self) -> Option<&config::ObjectiveConfig> {
        self.downloaded.as_ref().and_then(|found| found.objective.as_ref())
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl ModelArguments {
    /// Sets the threads and finds the model.
    pub(crate) fn find(&self) -> Result<Source, Problem> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        trainer::set_threads(self.threads.unwrap_or(cores));
        let device = self.device.decide().open()?;
        let asked = self.max_length.map(|length| length as usize);
        match (&self.model, &self.checkpoint) {
            (Some(folder), _) => Ok(Source { folder: folder.clone(), length: asked, device, downloaded: None }),
            (None, Some(name)) => {
                let found = predict::download(name, self.coordinator.as_deref(), self.token_file.as_ref())?;
                let length = asked.or(found.sequence_length);
                let folder = found.folder.path().to_owned();
                Ok(Source { folder, length, device, downloaded: Some(found) })
            }
            (None, None) => Err(Problem::failure("name a model with --checkpoint RUN or --model FOLDER")),
        }
    }
}

/// A text and where it came from.
pub(crate) struct Line {
    pub(crate) text: String,
    /// Of the file, or which --text; from 1.
    pub(crate) number: usize,
}

/// The texts: of the arguments, else of the file, else of standard input. They are read as they are needed.
pub(crate) fn lines(
    given: &[String],
    file: Option<&Path>,
) -> Result<impl Iterator<Item = Result<Line, Problem>>, Problem> {
    let texts = predict::numbered_texts(given, file)?;
    Ok(texts.map(|text| text.map(|(number, text)| Line { text, number })))
}

/// Groups of `size` at most, the error of the first line that cannot be read after the lines before it.
pub(crate) fn batches<T>(
    mut items: impl Iterator<Item = Result<T, Problem>>,
    size: usize,
    mut each: impl FnMut(&[T]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut batch = Vec::with_capacity(size);
    loop {
        let next = items.next();
        let ended = !matches!(next, Some(Ok(_)));
        let failed = match next {
            Some(Ok(item)) => {
                batch.push(item);
                None
            }
            Some(Err(problem)) => Some(problem),
            None => None,
        };
        if !batch.is_empty() && (ended || batch.len() == size) {
            each(&batch)?;
            batch.clear();
        }
        match failed {
            Some(problem) => return Err(problem),
            None if ended => return Ok(()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_is_used_before_the_error() {
        let items = vec![Ok(1), Ok(2), Ok(3), Err(Problem::failure("broken")), Ok(4)];
        let mut seen = Vec::new();
        let outcome = batches(items.into_iter(), 2, |batch| {
            seen.push(batch.to_vec());
            Ok(())
        });
        assert_eq!(outcome.err().unwrap().into_text_and_help().0, "broken");
        assert_eq!(seen, [vec![1, 2], vec![3]]);
    }
}
