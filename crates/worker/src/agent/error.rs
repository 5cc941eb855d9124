//! Why a worker ends other than by being released.

/// What ends an agent.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum JoinError {
    /// Nobody answers at the address.
    #[error("no coordinator answers at {address} (tried for {waited_seconds} s): {reason}")]
    #[diagnostic(help(
        "start one with `coordinator start`, or check the address: <data-dir>/endpoint on its host holds it"
    ))]
    NoCoordinator {
        /// `HOST:PORT`.
        address: String,
        /// For how long.
        waited_seconds: u64,
        /// The last attempt's error.
        reason: String,
    },
    /// The token is wrong or missing.
    #[error("the coordinator at {address} does not accept this worker's token: {reason}")]
    #[diagnostic(help(
        "give `--token-file` (or TRIREME_TOKEN) the contents of <data-dir>/token on the coordinator's host"
    ))]
    Unauthenticated {
        /// `HOST:PORT`.
        address: String,
        /// In the coordinator's words.
        reason: String,
    },
    /// The coordinator ends the session for good (the name is taken, the version does not fit).
    #[error("the coordinator at {address} refuses this worker: {reason}")]
    #[diagnostic(help("if the name is taken, choose another with `--name`"))]
    Refused {
        /// `HOST:PORT`.
        address: String,
        /// In the coordinator's words.
        reason: String,
    },
    /// The trainer process cannot be started at all.
    #[error("the trainer process `{program}` cannot be started: {error}")]
    #[diagnostic(help("`worker doctor` shows what is missing"))]
    Start {
        /// The binary.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// One trainer process after the other ends before it is ready.
    #[error("the trainer process ends before it is ready: {cause}\n{last_lines}")]
    #[diagnostic(help("`worker doctor` shows what is missing"))]
    TrainerNeverReady {
        /// How the last one ended.
        cause: String,
        /// What it wrote.
        last_lines: String,
    },
    /// Told to leave while the coordinator is away: the run's other members were not told.
    #[error("left without release: the coordinator was away for {waited_seconds} s")]
    #[diagnostic(help("the run goes on without this worker once the coordinator is back"))]
    LeftAlone {
        /// For how long.
        waited_seconds: u64,
    },
    /// No worker of a run was left, so that it was saved and stopped.
    #[error("left run {run} after its last step was saved: no other worker goes on with it")]
    #[diagnostic(help("unless it was cancelled, it goes on by itself when workers join"))]
    Preempted {
        /// The run.
        run: String,
    },
    /// Reports that were to be sent when the coordinator is back are lost, and the run's steps with them.
    #[error("the reports kept on disk while the coordinator was away cannot be read back: {error}")]
    #[diagnostic(help("check the disk that TMPDIR is on; the run goes on without this worker"))]
    Spool {
        /// Why.
        error: std::io::Error,
    },
    /// Told twice to end.
    #[error("ended at once, without release; a run that was here goes on without this worker")]
    Interrupted,
    /// A defect.
    #[error("this should not happen: {what}")]
    Internal {
        /// What.
        what: String,
    },
}

impl JoinError {
    /// The process's exit code: 4 for the token, 75 for what may go better later, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            JoinError::Unauthenticated { .. } => 4,
            JoinError::LeftAlone { .. } | JoinError::Preempted { .. } | JoinError::Interrupted => 75,
            _ => 1,
        }
    }
}
