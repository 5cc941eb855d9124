//! What a person reads when a command fails, and the exit code a script sees.

use proto::{Failure, FailureKind};
use std::process::ExitCode;

/// A command that failed: what happened, where, and what to do.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{what}")]
pub struct Problem {
    what: String,
    #[help]
    help: Option<String>,
    exit: u8,
}

const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const ACCESS: u8 = 4;
const INPUT: u8 = 5;
const RETRY: u8 = 75;

impl Problem {
    /// It did not work.
    pub fn failure(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: FAILURE }
    }

    /// Arguments that cannot be, or not together.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: USAGE }
    }

    /// What was given is wrong.
    pub fn input(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: INPUT }
    }

    /// No access.
    pub fn access(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: ACCESS }
    }

    /// It may work later.
    pub fn retry(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: RETRY }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Whether another try may work.
    pub fn may_pass(&self) -> bool {
        self.exit == RETRY
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::Unauthenticated => ACCESS,
            FailureKind::Invalid => INPUT,
            FailureKind::Unavailable | FailureKind::Timeout => RETRY,
            _ => FAILURE,
        };
        Self { what: failure.message, help: None, exit }
    }
}

impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        Failure::from(status).into()
    }
}

impl From<config::ConfigError> for Problem {
    fn from(error: config::ConfigError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has gone: that is not for us to complain about.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        Self::failure(format!("cannot write the output: {error}"))
    }
}

/// Prints the problem on stderr.
pub fn report(problem: Problem) -> ExitCode {
    use std::io::Write;
    let exit = problem.exit;
    // Terminals wrap by themselves; a path that was broken up can neither be copied nor searched for.
    let hook = miette::set_hook(Box::new(|_| Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())));
    debug_assert!(hook.is_ok(), "set once, at the end");
    // Where stderr is gone too there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(problem));
    ExitCode::from(exit)
}
