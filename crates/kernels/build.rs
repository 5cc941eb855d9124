//! Compiles the C++ kernels against libtorch's headers and tells the linker where libtorch is.
//!
//! Environment: `LIBTORCH` (a folder with `include/` and `lib/`, set by .cargo/config.toml) and `LIBTORCH_CXX11_ABI` (as
//! torch-sys reads it); with the feature `cuda` also `TRIREME_CUDA_ROOT`, a folder with `nvidia/*/include`, as the
//! site-packages folder of a Python that has the CUDA wheels; by default the folder that holds libtorch.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let library_dir = PathBuf::from(variable("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    let library_dir = std::fs::canonicalize(&library_dir).unwrap_or(library_dir);
    let include_dir = match variable("LIBTORCH_INCLUDE").or_else(|| variable("LIBTORCH")) {
        Some(root) => PathBuf::from(root).join("include"),
        None => library_dir.join("../include"),
    };
    assert!(
        include_dir.join("torch/csrc/autograd/custom_function.h").is_file(),
        "{} has no libtorch headers: set LIBTORCH to the torch folder of an unpacked torch 2.11.0 wheel",
        include_dir.display()
    );
    let abi = variable("LIBTORCH_CXX11_ABI").unwrap_or_else(|| "1".to_owned());

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3) // the hot loops, also in a debug build
        .debug(false)
        .pic(true)
        .warnings(false) // libtorch's headers are not warning-free
        .flag("-fopenmp") // at::parallel_for is serial without it
        .flag("-ffp-contract=off") // the same bits on every instruction set
        .flag("-fno-math-errno") // a root is one instruction
        .flag("-fno-trapping-math") // nobody looks at exception flags, and for their sake loops would keep their branches
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include("native")
        .include(&include_dir)
        .include(include_dir.join("torch/csrc/api/include"));
    build.files(sources("native"));
    let cuda = env::var_os("CARGO_FEATURE_CUDA").is_some();
    if cuda {
        assert!(
            library_dir.join("libtorch_cuda.so").is_file(),
            "the feature `cuda` needs a CUDA libtorch, and {} has no libtorch_cuda.so: set LIBTORCH to the torch \
             folder of a full CUDA installation of torch 2.11.0",
            library_dir.display()
        );
        let root = variable("TRIREME_CUDA_ROOT").map_or_else(|| library_dir.join("../.."), PathBuf::from);
        let includes = cuda_include_dirs(&root);
        build.includes(&includes).files(sources("native/cuda"));
        let includes = env::join_paths(&includes).expect("folders of packages have no colon in their names");
        println!("cargo:cuda_include={}", includes.display());
    }
    println!("cargo:rerun-if-changed=native");
    build.compile("trireme_kernels");

    println!("cargo:rustc-link-search=native={}", library_dir.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    if cuda {
        println!("cargo:rustc-link-lib=dylib=torch_cuda");
        println!("cargo:rustc-link-lib=dylib=c10_cuda");
    }
    println!("cargo:rustc-link-lib=dylib=gomp");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library_dir.display());
    // What c10d's build script needs: where the headers are, and how to compile against them.
    let native = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("native");
    println!("cargo:include={}", native.display());
    println!("cargo:libtorch_include={}", include_dir.display());
    println!("cargo:libtorch_library={}", library_dir.display());
    println!("cargo:cxx11_abi={abi}");
}

fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The C++ files in a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the sources lie beside this script");
    let mut sources: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
    sources.sort();
    sources
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
    for (header, wheel) in [("cuda_runtime_api.h", "nvidia-cuda-runtime"), ("crt/host_defines.h", "nvidia-cuda-crt")] {
        assert!(
            found.iter().any(|folder| folder.join(header).is_file()),
            "the feature `cuda` needs {header} (wheel {wheel}) in a nvidia/*/include folder below {}: set \
             TRIREME_CUDA_ROOT",
            root.display()
        );
    }
    found
}
