//! Compiles the C++ shim against libtorch's headers and tells the linker where libtorch is.
//!
//! Where libtorch is, the build script of `kernels` says. Environment, with the feature `cuda`: `TRIREME_CUDA_ROOT`, a
//! folder with `nvidia/*/include`, as the site-packages folder of a Python that has the CUDA wheels; by default the folder
//! that holds libtorch.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let of_kernels = |name: &str| {
        variable(&format!("DEP_TRIREME_KERNELS_{name}")).expect("the build script of kernels tells where libtorch is")
    };
    let library_dir = PathBuf::from(of_kernels("LIBTORCH_LIBRARY"));
    let include_dir = PathBuf::from(of_kernels("LIBTORCH_INCLUDE"));
    assert!(
        include_dir.join("torch/csrc/distributed/c10d/ProcessGroupGloo.hpp").is_file(),
        "{} has no c10d headers: set LIBTORCH to the torch folder of an unpacked torch 2.11.0 wheel",
        include_dir.display()
    );
    let cuda = env::var_os("CARGO_FEATURE_CUDA").is_some();

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .warnings(false) // libtorch's headers are not warning-free
        .define("_GLIBCXX_USE_CXX11_ABI", of_kernels("CXX11_ABI").as_str())
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .include("native")
        .include(of_kernels("INCLUDE"))
        .include(&include_dir)
        .include(include_dir.join("torch/csrc/api/include"));
    for file in ["store.cpp", "waits.cpp", "group.cpp", "reducer.cpp", "report.cpp"] {
        build.file(Path::new("native").join(file));
    }
    if cuda {
        let root = match variable("TRIREME_CUDA_ROOT") {
            Some(root) => PathBuf::from(root),
            None => library_dir.join("../.."),
        };
        build.define("USE_C10D_NCCL", None).define("USE_NCCL", None).file("native/nccl.cpp");
        for folder in cuda_include_dirs(&root) {
            build.include(folder);
        }
        assert!(
            library_dir.join("libtorch_cuda.so").is_file(),
            "the feature `cuda` needs a CUDA libtorch, and {} has no libtorch_cuda.so: set LIBTORCH to the torch \
             folder of a full CUDA installation of torch 2.11.0",
            library_dir.display()
        );
    }
    println!("cargo:rerun-if-changed=native");
    build.compile("trireme_c10d");

    println!("cargo:rustc-link-search=native={}", library_dir.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    if cuda {
        println!("cargo:rustc-link-lib=dylib=torch_cuda");
        println!("cargo:rustc-link-lib=dylib=c10_cuda");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library_dir.display());
    println!("cargo:libraries={}", library_dir.display());
}

fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every `nvidia/<package>/include` below the root, and the folder of the CUDA C++ core libraries inside it.
fn cuda_include_dirs(root: &Path) -> Vec<PathBuf> {
    let packages = std::fs::read_dir(root.join("nvidia")).map(|entries| entries.flatten().map(|e| e.path()).collect());
    let mut packages: Vec<PathBuf> = packages.unwrap_or_default();
    packages.sort();
    let mut found: Vec<PathBuf> = packages.iter().map(|package| package.join("include")).collect();
    found.retain(|folder| folder.is_dir());
    let nested: Vec<PathBuf> =
        found.iter().map(|folder| folder.join("cccl")).filter(|folder| folder.is_dir()).collect();
    found.extend(nested);
    for (header, wheel) in [
        ("cuda_runtime_api.h", "nvidia-cuda-runtime"),
        ("crt/host_defines.h", "nvidia-cuda-crt"),
        ("nccl.h", "nvidia-nccl-cu13"),
    ] {
        assert!(
            found.iter().any(|folder| folder.join(header).is_file()),
            "the feature `cuda` needs {header} (wheel {wheel}) in a nvidia/*/include folder below {}: set \
             TRIREME_CUDA_ROOT",
            root.display()
        );
    }
    found
}
