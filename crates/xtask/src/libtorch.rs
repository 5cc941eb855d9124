//! Gets libtorch 2.11.0 and makes `.libtorch` a link to it, where .cargo/config.toml expects it.

use crate::artefacts::{CUDA_CUPTI, CUDA_RUNTIME, TORCH};
use crate::cache;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Changes when what is unpacked changes.
const FOLDER: &str = "libtorch-2.11.0-cpu-1";

/// Fetches and links libtorch unless the user has named one.
pub fn set_up() -> Result<()> {
    if let Some(own) = users_own() {
        if !own.join("lib/libtorch_cpu.so").exists() || !own.join("include").exists() {
            bail!("LIBTORCH={} holds no lib/libtorch_cpu.so and include/: unset it or correct it", own.display());
        }
        println!("libtorch: yours, {}", own.display());
        return Ok(());
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("no pinned libtorch for this platform: install libtorch 2.11.0 and set LIBTORCH to its folder");
    }
    let folder = cache::folder()?.join(FOLDER);
    cache::once(&folder, unpack)?;
    link(&folder)?;
    println!("libtorch 2.11.0: {}", folder.display());
    Ok(())
}

/// A LIBTORCH from the user's environment, not the one that .cargo/config.toml sets for us.
fn users_own() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("LIBTORCH")?);
    (path != cache::root().join(".libtorch/torch")).then_some(path)
}

fn unpack(folder: &Path) -> Result<()> {
    println!("unpacking libtorch …");
    // What only a GPU build or Python needs stays in the wheel.
    let unwanted = ["libtorch_cuda", "libc10_cuda", "libtorch_python", "nvshmem", "caffe2_nvrtc", "libtorch.so"];
    TORCH.unpack(folder, |name| {
        let wanted = name.starts_with("torch/include/")
            || name == "torch/version.py"
            || (name.starts_with("torch/lib/") && !unwanted.iter().any(|part| name.contains(part)));
        wanted.then(|| name.to_owned())
    })?;
    for artefact in [CUDA_RUNTIME, CUDA_CUPTI] {
        artefact.unpack(folder, |name| (name.contains("/lib/") && name.contains(".so")).then(|| name.to_owned()))?;
    }
    // The wheel's libtorch.so does nothing but name its parts, libtorch_cuda among them. Ours names the CPU's alone,
    // as the CPU-only distribution of libtorch does.
    let lib = folder.join("torch/lib");
    let empty = lib.join("empty.cc");
    std::fs::write(&empty, "")?;
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-shared", "-fPIC", "-o"]).arg(lib.join("libtorch.so")).arg(&empty).arg("-L").arg(&lib);
    compiler.args(["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-ltorch_cpu", "-lc10", "-Wl,-rpath,$ORIGIN"]);
    cache::run(&mut compiler).context("a C++ compiler is needed (g++ or clang++)")?;
    Ok(std::fs::remove_file(empty)?)
}

fn link(folder: &Path) -> Result<()> {
    let link = cache::root().join(".libtorch");
    if std::fs::read_link(&link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    if link.is_symlink() {
        std::fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(folder, &link).with_context(|| format!("cannot make the link {}", link.display()))
}
