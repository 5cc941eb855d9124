//! The binaries, and what one run of a command gave.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// The path of one of our binaries.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/this-test, or target/debug/bench
    let folders = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).collect::<Vec<_>>();
    let path = folders.iter().find(|path| path.is_file()).unwrap_or(&folders[0]).clone();
    assert!(path.exists(), "{} is not there: run `cargo build -p coordinator -p worker` first", path.display());
    path
}

/// What a command that has ended gave.
#[derive(Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Its exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote for programs.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Self {
            command: shown,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}\n{}", self.command, self.stdout, self.stderr);
        self
    }

    /// The one JSON value on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}\n{}", self.command, self.stdout, self.stderr))
    }

    /// One JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.command));
        self.stdout.lines().map(parse).collect()
    }

    /// Panics unless standard error says all of these. White space is not compared: long lines are wrapped for people.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        let squeeze = |text: &str| -> String {
            // Where a message is wrapped, the new line begins with a frame.
            let lines = text.lines().map(|line| line.trim_start_matches([' ', '│', '|', '×', 'x', '╰', '─', '▶']));
            lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
        };
        let text = squeeze(&self.stderr);
        for part in parts {
            assert!(text.contains(&squeeze(part)), "no `{part}` in the message of {}:\n{}", self.command, self.stderr);
        }
    }
}
