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

/// Sets up and builds both binaries.
pub fn binaries() -> Result<Binaries> {
    libtorch::set_up()?;
    cache::run(cargo().args(["build", "--package", "coordinator", "--package", "worker"]))?;
    let folder = target_folder()?.join("debug");
    Ok(Binaries { coordinator: folder.join("coordinator"), worker: folder.join("worker") })
}

/// Where cargo builds.
pub fn target_folder() -> Result<PathBuf> {
    let text = cache::output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target directory")
}
