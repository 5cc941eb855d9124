//! A virtual environment with the peers (PyTorch, transformers …): what our exports are checked with and our speed is
//! compared to. It lies in the cache, outside the clone; training never needs it.

use crate::cache;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

const PACKAGES: [&str; 6] = [
    "torch==2.11.0",
    "transformers==5.23.0",
    "safetensors==0.8.0",
    "numpy==2.4.6",
    "scikit-learn==1.9.1",
    "seqeval==1.2.2",
];
/// Changes when the packages change.
const FOLDER: &str = "peers-1";

/// The environment's Python, installed on first use (about 3 GB).
pub fn interpreter() -> Result<PathBuf> {
    let folder = cache::folder()?.join(FOLDER);
    let marker = folder.join("complete");
    let python = folder.join("bin/python");
    if !marker.exists() {
        println!("installing the Python peers into {} (about 3 GB, once) …", folder.display());
        // A virtual environment knows its own path, so it is made in place and marked when whole.
        cache::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
        cache::run(&mut pip)?;
        std::fs::write(marker, PACKAGES.join("\n"))?;
    }
    Ok(python)
}
