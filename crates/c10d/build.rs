//! Compiles the C++ shim against libtorch's headers and tells the linker where libtorch is.
//!
//! Where libtorch is and, with the feature `cuda`, CUDA's headers are, the build script of `kernels` says.

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
        build.define("USE_C10D_NCCL", None).define("USE_NCCL", None).file("native/nccl.cpp");
        let includes: Vec<PathBuf> = env::split_paths(&of_kernels("CUDA_INCLUDE")).collect();
        assert!(
            includes.iter().any(|folder| folder.join("nccl.h").is_file()),
            "the feature `cuda` needs nccl.h (wheel nvidia-nccl-cu13) beside CUDA's other headers: set TRIREME_CUDA_ROOT"
        );
        build.includes(includes);
    }
    println!("cargo:rerun-if-changed=native");
    build.compile("trireme_c10d");

    println!("cargo:rustc-link-search=native={}", library_dir.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library_dir.display());
    println!("cargo:libraries={}", library_dir.display());
}

fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}
