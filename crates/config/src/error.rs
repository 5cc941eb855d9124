//! What is wrong with a config, where, and what to do.

use std::fmt;

/// A config that cannot be used. `Display` is what a person reads: file, line, key, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, or the name of what stands in for one.
    pub source_name: String,
    /// Everything found wrong; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was given in place of the file's value (`--set run.steps=0`); None: the file.
    pub origin: Option<String>,
    /// 1-based line and column in the file, where the text was at hand.
    pub position: Option<(usize, usize)>,
    /// Dotted key, or empty for the whole file.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn at_key(key: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { origin: None, position: None, key: key.to_owned(), message: message.into(), help: Some(help.into()) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", problem.origin.as_ref().unwrap_or(&self.source_name))?;
            if let Some((line, column)) = problem.position {
                write!(f, ":{line}:{column}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": `{}`", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
            if let Some(help) = &problem.help {
                write!(f, "\n  help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
