//! Building the workspace, and where its binaries are.

use crate::{cache, libtorch};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// `cargo`, at the clone's top.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(cache::root());
    cargo
}

/// The built `coordinator` and `worker`.
pub struct Binaries {
    /// `coordinator`.
    pub coordinator: PathBuf,
    /// `worker`.
    pub worker: PathBuf,
}

/// Builds everything, tests too: with one selection of packages cargo compiles each dependency once, whatever command
/// comes first.
pub fn workspace() -> Result<()> {
    cache::run(cargo().args(["build", "--workspace", "--all-targets"]))
}

/// Sets up and builds both binaries.
pub fn binaries() -> Result<Binaries> {
    libtorch::set_up()?;
    workspace()?;
    Ok(Binaries { coordinator: binary("coordinator")?, worker: binary("worker")? })
}

/// Where a binary of the workspace lies once it is built.
pub fn binary(name: &str) -> Result<PathBuf> {
    Ok(target_folder()?.join("debug").join(name))
}

/// Where cargo builds.
pub fn target_folder() -> Result<PathBuf> {
    let text = cache::output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target directory")
}
