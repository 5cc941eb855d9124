//! The cache outside the clone, and running other programs with errors that say what was run.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `$TRIREME_CACHE`, else `$XDG_CACHE_HOME/trireme`, else `~/.cache/trireme`.
pub fn folder() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = from("TRIREME_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|base| base.join("trireme")))
        .or_else(|| from("HOME").map(|base| base.join(".cache/trireme")))
        .context("no HOME: set TRIREME_CACHE to a folder for downloads")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// The clone's top folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/xtask lies two folders down").to_owned()
}

/// Fills `target` by `fill` unless it is already there: filled beside it first, then renamed, so that a half-filled
/// folder is never taken for a whole one.
pub fn once(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    let name = target.file_name().context("a cache entry has a name")?.to_string_lossy().into_owned();
    let partial = target.with_file_name(format!("{name}.partial-{}", std::process::id()));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    let filled = fill(&partial);
    if filled.is_err() {
        std::fs::remove_dir_all(&partial).ok();
        return filled;
    }
    match std::fs::rename(&partial, target) {
        // Another process was faster.
        Err(_) if target.exists() => Ok(std::fs::remove_dir_all(&partial)?),
        renamed => renamed.with_context(|| format!("cannot rename to {}", target.display())),
    }
}

/// Runs a command to its end; what it prints is shown.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs a command to its end and answers what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}\n{}", output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed no text"))
}

fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
