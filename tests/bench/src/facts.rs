//! What was measured on, and with: the first line of every run, so that no figure is without it.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of the peers' packages, those whose version matters.
const PACKAGES: [&str; 5] = ["torch", "transformers", "accelerate", "datasets", "tokenizers"];

#[derive(Debug, Serialize)]
pub struct Facts {
    /// What makes these measurements again.
    pub command: String,
    /// The day, UTC.
    pub day: String,
    /// Of the source, with `+` if it was changed since.
    pub commit: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
    pub libtorch: String,
    /// How our own code was compiled.
    pub profile: &'static str,
    /// Name and version of the peers' packages; empty where no Python takes part.
    pub peers: BTreeMap<String, String>,
}

impl Facts {
    pub fn gather(command: String, python: Option<&Path>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            command,
            day: day(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
            commit: commit().unwrap_or_else(|| unknown("commit")),
            cpu: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: gibibytes(&read("/proc/meminfo")).unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            libtorch: libtorch().unwrap_or_else(|| unknown("version")),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            peers: python.and_then(peers).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, day, commit, cpu, cores, memory_gib, kernel, libtorch, profile, peers } = self;
        write!(
            f,
            "{command} on {day}: {cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}; commit {commit}, profile \
             {profile}, libtorch {libtorch}"
        )?;
        peers.iter().try_for_each(|(name, version)| write!(f, ", {name} {version}"))
    }
}

/// The processor's name.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&text, "model name").unwrap_or_else(|| unknown("processor"))
}

fn unknown(what: &str) -> String {
    format!("unknown {what}")
}

/// YYYY-MM-DD, UTC.
fn day(seconds: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, seconds / 86_400);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for days in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn gibibytes(meminfo: &str) -> Option<u64> {
    let kilobytes: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    // The kernel keeps a part for itself.
    Some((kilobytes as f64 / f64::from(1 << 20)).ceil() as u64)
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

/// What libtorch's folder says of itself.
fn libtorch() -> Option<String> {
    let folder = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from)?;
    if let Ok(text) = std::fs::read_to_string(folder.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    python_version(&std::fs::read_to_string(folder.join("version.py")).ok()?)
}

fn python_version(text: &str) -> Option<String> {
    let version = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(version.trim_matches(['\'', '"']).to_owned())
}

fn peers(python: &Path) -> Option<BTreeMap<String, String>> {
    let script = "import importlib.metadata as m, json, sys\n\
                  def version(name):\n    try: return m.version(name)\n    except m.PackageNotFoundError: return None\n\
                  found = {name: version(name) for name in sys.argv[1:]}\n\
                  print(json.dumps({name: known for name, known in found.items() if known}))";
    let output = Command::new(python).args(["-c", script]).args(PACKAGES).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_files_are_understood() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu\nmodel name\t: another\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("AMD EPYC 7B13"));
        assert_eq!(field(cpuinfo, "bogomips"), None);
        assert_eq!(gibibytes("MemTotal:       24609528 kB\nMemFree: 1 kB\n"), Some(24));
        let version = "from typing import Optional\n__version__ = '2.11.0+cu130'\n";
        assert_eq!(python_version(version).as_deref(), Some("2.11.0+cu130"));
    }

    #[test]
    fn days_have_their_dates() {
        let dates = [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_767_225_599, "2025-12-31"),
            (4_107_542_400, "2100-03-01"),
        ];
        assert_eq!(dates.map(|(seconds, _)| day(seconds)), dates.map(|(_, date)| date));
    }

    #[test]
    fn facts_can_be_told_without_python() {
        let facts = Facts::gather("cargo xtask bench --suite reduce --json".to_owned(), None);
        assert!(facts.cores > 0 && facts.peers.is_empty());
        let json = serde_json::to_value(&facts).unwrap();
        assert!(json["commit"].as_str().is_some_and(|commit| !commit.is_empty()), "{json}");
        assert!(facts.to_string().starts_with("cargo xtask bench --suite reduce --json on 2"), "{facts}");
    }
}
