//! Virtual environments: the peers (PyTorch, transformers …), which our exports are checked with and our speed is compared
//! to, and an S3 server. They lie in the cache, outside the clone; training never needs them.

use crate::cache;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 6] = [
    "torch==2.11.0",
    "transformers==5.23.0",
    "safetensors==0.8.0",
    "numpy==2.4.6",
    "scikit-learn==1.9.1",
    "seqeval==1.2.2",
];
/// What the Trainer and a user's data need beside those; only our speed is compared to them.
const TRAINER_PACKAGES: [&str; 2] = ["accelerate==1.15.0", "datasets==5.2.0"];
/// What runs our ONNX files; only exports are checked with it.
const ONNX_PACKAGES: [&str; 1] = ["onnxruntime==1.32.0"];
/// An S3 server for the tests of object stores (350 MB).
const S3_SERVER: [&str; 1] = ["moto[server]==5.1.22"];

/// The peers' Python, installed on first use (about 3 GB).
pub fn interpreter() -> Result<PathBuf> {
    // A folder's number changes with its packages.
    Ok(environment("peers-1", &PACKAGES, "the Python peers (about 3 GB, once)")?.join("bin/python"))
}

/// The same with the Trainer's packages.
pub fn trainer_interpreter() -> Result<PathBuf> {
    with(&TRAINER_PACKAGES, "complete-trainer-1")
}

/// The same with onnxruntime.
pub fn onnx_interpreter() -> Result<PathBuf> {
    with(&ONNX_PACKAGES, "complete-onnx-1")
}

fn with(packages: &[&str], marker: &str) -> Result<PathBuf> {
    let python = interpreter()?;
    // Beside the others, which stay as they are: nobody wants a second PyTorch.
    let marker = python.ancestors().nth(2).context("an environment has a folder")?.join(marker);
    if !marker.exists() {
        eprintln!("installing {} …", packages.join(", "));
        install(&python, &[&PACKAGES[..], packages].concat())?;
        std::fs::write(marker, packages.join("\n"))?;
    }
    Ok(python)
}

fn install(python: &Path, packages: &[&str]) -> Result<()> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    cache::run(&mut pip)
}

/// The S3 server's program, installed on first use.
pub fn s3_server() -> Result<PathBuf> {
    Ok(environment("s3-server-1", &S3_SERVER, "an S3 server for tests (350 MB, once)")?.join("bin/moto_server"))
}

fn environment(folder: &str, packages: &[&str], what: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join(folder);
    let marker = folder.join("complete");
    if !marker.exists() {
        eprintln!("installing {what} into {} …", folder.display());
        // A virtual environment knows its own path, so it is made in place and marked when whole.
        cache::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        install(&folder.join("bin/python"), packages)?;
        std::fs::write(marker, packages.join("\n"))?;
    }
    Ok(folder)
}
