//! `coordinator start`

use super::args::StartArguments;
use super::problem::Problem;
use crate::data_dir;
use crate::server::{self, ServeError, ServerConfig};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub async fn run(arguments: StartArguments) -> Result<ExitCode, Problem> {
    let StartArguments { listen, data_dir, store, scrub_hours, insecure_plaintext, insecure_no_auth } = arguments;
    let data_dir = match data_dir {
        Some(path) => path,
        None => data_dir::default_path().map_err(|error| Problem::failure(error.to_string()))?,
    };
    let failed = |error: ServeError| Problem::failure(error.to_string());
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
