//! Gets libtorch 2.11.0 and makes `.libtorch/torch` lead to it, where .cargo/config.toml expects it: `.libtorch` is a link
//! to the one that we fetched, or a folder with a link to the user's own.

use crate::artefacts::{CUDA, CUDA_CUPTI, CUDA_RUNTIME, TORCH};
use crate::cache;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Changes when what is unpacked changes.
const FOLDER: &str = "libtorch-2.11.0-cpu-1";
/// The same, of the one with CUDA.
const CUDA_FOLDER: &str = "libtorch-2.11.0-cuda-1";
/// What our C++ is written for.
const VERSION: &str = "2.11.";

#[derive(clap::Args)]
pub struct Arguments {
    /// Also fetch a libtorch with CUDA, for `cargo build -p worker --features cuda` (about 6 GB in the cache).
    #[arg(long)]
    cuda: bool,
}

/// `cargo xtask setup`.
pub fn run(arguments: &Arguments) -> Result<()> {
    set_up()?;
    if arguments.cuda {
        let folder = cache::folder()?.join(CUDA_FOLDER);
        refuse_other_platforms()?;
        cache::once(&folder, unpack_cuda)?;
        println!("libtorch 2.11.0 with CUDA: {}", folder.display());
        println!("build with it: LIBTORCH={}/torch cargo build -p worker --features cuda", folder.display());
        println!("               --target-dir target/cuda");
    }
    Ok(())
}

/// Fetches and links libtorch unless the user has named one, now or earlier.
pub fn set_up() -> Result<()> {
    let root = cache::root();
    let (named, linked) = (users_own(&root), linked_own(&root));
    let named_by = if named.is_some() { NamedBy::Environment } else { NamedBy::Link };
    if let Some(own) = named.or(linked.clone()) {
        check(&own, named_by)?;
        if linked.as_ref() != Some(&own) {
            link_own(&root, &own)?;
            eprintln!("libtorch: .libtorch leads to yours from now on (remove it to go back to ours)");
        }
        eprintln!("libtorch: yours, {}", own.display());
        return Ok(());
    }
    refuse_other_platforms()?;
    let folder = cache::folder()?.join(FOLDER);
    cache::once(&folder, unpack)?;
    link(&root, &folder)?;
    eprintln!("libtorch 2.11.0: {}", folder.display());
    Ok(())
}

fn refuse_other_platforms() -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("no pinned libtorch for this platform: install libtorch 2.11.0 and set LIBTORCH to its folder");
    }
    Ok(())
}

/// A LIBTORCH from the user's environment, not the one that .cargo/config.toml sets for us.
fn users_own(root: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(std::env::var_os("LIBTORCH")?).ok()?;
    (path != root.join(".libtorch/torch")).then_some(path)
}

/// One that the user named earlier: a shell that does not know of it builds with the same.
fn linked_own(root: &Path) -> Option<PathBuf> {
    if root.join(".libtorch").is_symlink() { None } else { fs::read_link(root.join(".libtorch/torch")).ok() }
}

/// Which of the two says where the user's own libtorch is: what is to be corrected where it is not there.
#[derive(Clone, Copy)]
enum NamedBy {
    Environment,
    Link,
}

fn check(own: &Path, named_by: NamedBy) -> Result<()> {
    let shown = own.display();
    let (found, remedy) = match named_by {
        NamedBy::Environment => (format!("LIBTORCH={shown}"), "unset it or correct it"),
        NamedBy::Link => (
            format!("{shown}, to which .libtorch leads since LIBTORCH named it,"),
            "remove .libtorch to go back to ours, or set LIBTORCH to another",
        ),
    };
    if !own.join("lib/libtorch_cpu.so").exists() || !own.join("include").exists() {
        bail!("{found} holds no lib/libtorch_cpu.so and include/: {remedy}");
    }
    let version = version(own).with_context(|| format!("{found} has no build-version and no version.py: {remedy}"))?;
    ensure!(version.starts_with(VERSION), "{found} is libtorch {version}: {VERSION}0 is needed: {remedy}");
    Ok(())
}

/// What a libtorch says of itself: the distributions in one way, the Python packages in another.
fn version(folder: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(line.trim_matches(['\'', '"']).to_owned())
}

fn unpack(folder: &Path) -> Result<()> {
    eprintln!("unpacking libtorch …");
    // What only a GPU build or Python needs stays in the wheel.
    let unwanted = ["libtorch_cuda", "libc10_cuda", "libtorch_python", "nvshmem", "caffe2_nvrtc", "libtorch.so"];
    TORCH.unpack(folder, |name| {
        let wanted = is_of_libtorch(name) && !unwanted.iter().any(|part| name.contains(part));
        wanted.then(|| name.to_owned())
    })?;
    for artefact in [CUDA_RUNTIME, CUDA_CUPTI] {
        artefact.unpack(folder, |name| (name.contains("/lib/") && name.contains(".so")).then(|| name.to_owned()))?;
    }
    // The wheel's libtorch.so does nothing but name its parts, libtorch_cuda among them. Ours names the CPU's alone,
    // as the CPU-only distribution of libtorch does.
    let lib = folder.join("torch/lib");
    let empty = lib.join("empty.cc");
    fs::write(&empty, "")?;
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-shared", "-fPIC", "-o"]).arg(lib.join("libtorch.so")).arg(&empty).arg("-L").arg(&lib);
    compiler.args(["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-ltorch_cpu", "-lc10", "-Wl,-rpath,$ORIGIN"]);
    cache::run(&mut compiler).context("a C++ compiler is needed (g++ or clang++)")?;
    Ok(fs::remove_file(empty)?)
}

/// As the wheels would be installed: torch's libraries look for the others beside them.
fn unpack_cuda(folder: &Path) -> Result<()> {
    eprintln!("unpacking libtorch with CUDA …");
    TORCH
        .unpack(folder, |name| (is_of_libtorch(name) && !name.contains("libtorch_python")).then(|| name.to_owned()))?;
    for artefact in CUDA.iter().chain([&CUDA_RUNTIME, &CUDA_CUPTI]) {
        artefact.unpack(folder, |name| {
            let wanted = name.contains("/include/") || (name.contains("/lib/") && name.contains(".so"));
            wanted.then(|| name.to_owned())
        })?;
    }
    Ok(())
}

fn is_of_libtorch(name: &str) -> bool {
    name.starts_with("torch/include/") || name.starts_with("torch/lib/") || name == "torch/version.py"
}

/// `.libtorch` becomes a link to this folder.
fn link(root: &Path, folder: &Path) -> Result<()> {
    let link = root.join(".libtorch");
    if fs::read_link(&link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    unlink(root)?;
    symlink(folder, &link).with_context(|| format!("cannot make the link {}", link.display()))
}

/// `.libtorch` becomes a folder with a link to the user's own, whatever that is called.
fn link_own(root: &Path, own: &Path) -> Result<()> {
    unlink(root)?;
    let folder = root.join(".libtorch");
    fs::create_dir(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    symlink(own, folder.join("torch")).with_context(|| format!("cannot make a link in {}", folder.display()))
}

fn unlink(root: &Path) -> Result<()> {
    let link = root.join(".libtorch");
    if link.is_symlink() {
        fs::remove_file(&link)?;
    } else if link.is_dir() {
        if link.join("torch").is_symlink() {
            fs::remove_file(link.join("torch"))?;
        }
        fs::remove_dir(&link).with_context(|| format!("{} is not ours to remove", link.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("trireme-libtorch-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn ones_own_libtorch_is_linked_and_ours_again() {
        let root = scratch("link");
        let (own, ours) = (root.join("my-libtorch"), root.join("ours"));
        fs::create_dir_all(own.join("include")).unwrap();
        fs::create_dir_all(ours.join("torch/lib")).unwrap();
        for _ in 0..2 {
            link(&root, &ours).unwrap();
            assert!(root.join(".libtorch/torch/lib").is_dir());
            assert_eq!(linked_own(&root), None);
            link_own(&root, &own).unwrap();
            assert!(root.join(".libtorch/torch/include").is_dir());
            assert_eq!(linked_own(&root), Some(own.clone()));
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn another_version_is_refused() {
        let own = scratch("version");
        for folder in ["include", "lib"] {
            fs::create_dir_all(own.join(folder)).unwrap();
        }
        fs::write(own.join("lib/libtorch_cpu.so"), "").unwrap();
        let message = |own: &Path| check(own, NamedBy::Environment).map_err(|error| format!("{error:#}"));
        assert!(message(&own).unwrap_err().contains("no build-version"), "nobody knows what it is");
        fs::write(own.join("version.py"), "debug = False\n__version__ = '2.11.0+cu130'\n").unwrap();
        assert_eq!(message(&own), Ok(()));
        fs::write(own.join("build-version"), "2.10.1+cpu\n").unwrap();
        assert!(message(&own).unwrap_err().contains("is libtorch 2.10.1+cpu: 2.11.0 is needed"));
        fs::remove_dir_all(own).unwrap();
    }

    #[test]
    fn a_linked_one_that_is_gone_is_not_blamed_on_the_environment() {
        let root = scratch("gone");
        let own = root.join("my-libtorch");
        link_own(&root, &own).unwrap();
        let linked = linked_own(&root).unwrap();
        let message = |named_by| format!("{:#}", check(&linked, named_by).unwrap_err());
        let told = message(NamedBy::Link);
        assert!(told.contains("remove .libtorch") && !told.contains("unset"), "{told}");
        assert!(message(NamedBy::Environment).contains("unset it or correct it"));
        fs::remove_dir_all(root).unwrap();
    }
}
