//! `coordinator start`

use super::args::StartArguments;
use super::problem::Problem;
use crate::data_dir;
use crate::server::{self, ServeError, ServerConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Files that a coordinator opens beside the connections of its workers: calls, the database, checkpoints.
const OTHER_FILES: u64 = 500;
/// Room for fewer workers than these is worth a warning.
const FEW_WORKERS: u64 = 1_000;

/// Every worker has a connection, so as many as the system lets this process have.
fn raise_open_files() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit on open files cannot be read"),
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit on open files cannot be raised");
            soft
        }
    };
    let workers = limit.saturating_sub(OTHER_FILES);
    if workers < FEW_WORKERS {
        tracing::warn!(
            open_files = limit,
            workers,
            "few open files are allowed, and more workers than that cannot connect: raise `ulimit -Hn`, LimitNOFILE= \
             of the service or --ulimit of the container"
        );
    } else {
        tracing::debug!(open_files = limit, "the limit on open files is raised");
    }
}

pub async fn run(arguments: StartArguments) -> Result<ExitCode, Problem> {
    let StartArguments { listen, data_dir, store, scrub_hours, insecure_plaintext, insecure_no_auth } = arguments;
    let data_dir = match data_dir {
        Some(path) => path,
        None => data_dir::default_path().map_err(|error| Problem::failure(error.to_string()))?,
    };
    let failed = |error: ServeError| Problem::failure(error.to_string());
    raise_open_files();
    let listener = server::bind(listen, insecure_plaintext).await.map_err(failed)?;
    let config = ServerConfig {
        data_dir,
        store,
        require_token: !insecure_no_auth,
        scrub: (scrub_hours > 0).then(|| Duration::from_secs(3600) * scrub_hours),
        settings: control::Settings::default(),
    };
    let shutdown = CancellationToken::new();
    let no_signals = |error: std::io::Error| Problem::failure(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "ending: calls are finished and everything is written");
            shutdown.cancel();
        }
    });
    server::run(listener, config, shutdown).await.map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
