//! A checkpoint of a coordinator's store, fetched.

use crate::cli::Problem;
use crate::connect::{Coordinator, default_data_folder};
use crate::downloads;
use config::Reading;
use proto::v1::{CheckpointRef, ListCheckpointsRequest, Run, RunRequest};
use std::path::{Path, PathBuf};

/// A checkpoint in a temporary folder.
pub(crate) struct Downloaded {
    pub(crate) folder: tempfile::TempDir,
    /// How it was trained to read.
    pub(crate) reading: Option<Reading>,
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
                Some(parsed.map_err(|_| Problem::usage(format!("`{name}`: after `@` comes a step, e.g. tagger@500")))?),
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
        // Of the runs of a name the newest may have no checkpoint: the coordinator says which one is meant.
        let request = ListCheckpointsRequest { run: run.to_owned() };
        let listed = coordinator.checkpoints().list(request).await.map_err(told)?.into_inner();
        if !listed.note.is_empty() {
            tracing::warn!("`{name}`: {}", listed.note);
        }
        // A coordinator of before says nothing.
        let run = if listed.run.is_empty() { run.to_owned() } else { listed.run };
        let request = RunRequest { run };
        let run = coordinator.runs().show(request).await.map_err(told)?.into_inner();
        let from = choose(&run, step)?;
        let wanted = |name: &str| !name.starts_with("optimizer-");
        let files = downloads::checkpoint(&coordinator, &from, wanted, || ()).await.map_err(told)?;
        let folder = temporary(&run.name, from.step)?;
        for (file, contents) in files {
            let path = folder.path().join(plain(&file)?);
            std::fs::write(&path, contents)
                .map_err(|error| Problem::failure(format!("{} cannot be written: {error}", path.display())))?;
        }
        let reading = config::parse("the run's config", &run.config).ok().map(|config| Reading::of(&config));
        Ok(Downloaded { folder, reading })
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
        let has = match run.status.as_str() {
            _ if !steps.is_empty() => format!("it has: {}", steps.join(", ")),
            "failed" => {
                let why = run.reason.lines().next().map(|why| format!(": {why}")).unwrap_or_default();
                format!("it failed at step {}{why}", run.step)
            }
            "cancelled" => format!("it was cancelled at step {}", run.step),
            _ => "it has none yet".to_owned(),
        };
        let which = step.map_or_else(|| "no checkpoint".to_owned(), |step| format!("no checkpoint of step {step}"));
        Problem::failure(format!("run {} has {which} that is whole; {has}", run.name))
    })
}

/// A folder that errors name: it bears the checkpoint's name.
fn temporary(run: &str, step: u64) -> Result<tempfile::TempDir, Problem> {
    let folder = tempfile::Builder::new().prefix(&format!("{}@{step}-", plain(run)?)).tempdir();
    folder.map_err(|error| Problem::failure(format!("no temporary folder: {error}")))
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
    fn a_run_that_ended_without_a_checkpoint_says_how() {
        let told = |status: &str, reason: &str| {
            let (status, reason) = (status.to_owned(), reason.to_owned());
            let run = Run { name: "tagger".to_owned(), status, reason, step: 2, ..Run::default() };
            choose(&run, None).err().unwrap().into_text_and_help().0
        };
        let none = "run tagger has no checkpoint that is whole; it";
        let failed = told("failed", "alpha: no row is left\n  help: mend it");
        assert_eq!(failed, format!("{none} failed at step 2: alpha: no row is left"));
        assert_eq!(told("cancelled", ""), format!("{none} was cancelled at step 2"));
        assert_eq!(told("running", ""), format!("{none} has none yet"));
    }

    #[test]
    fn the_folder_of_a_checkpoint_bears_its_name() {
        let folder = temporary("tagger", 500).ok().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("tagger@500-"), "{name}");
        assert!(temporary("../tagger", 500).is_err());
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
