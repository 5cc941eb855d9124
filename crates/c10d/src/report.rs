//! What this build can do on this machine, for `worker doctor`.

use std::ffi::CStr;

use crate::ffi;

#[cfg(not(feature = "cuda"))]
pub(crate) const NO_CUDA_FEATURE: &str = "this program was built without the cargo feature `cuda`";

/// What is compiled in and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeReport {
    /// The libtorch this was built against, e.g. `2.11.0`.
    pub libtorch: String,
    /// Gloo is always compiled in.
    pub gloo: bool,
    /// NCCL's version, e.g. `2.28.9`, or why it is missing.
    pub nccl: Result<String, String>,
    /// The number of CUDA devices that libtorch sees.
    pub cuda_devices: u32,
    /// Threads that one tensor operation uses.
    pub threads: u32,
}

/// Looks at this build and this machine. Starts no group.
pub fn runtime_report() -> RuntimeReport {
    // SAFETY: a string literal.
    let libtorch = unsafe { CStr::from_ptr(ffi::tr_libtorch_version()) }.to_string_lossy().into_owned();
    RuntimeReport {
        libtorch,
        gloo: true,
        nccl: nccl_version(),
        cuda_devices: u32::try_from(tch::Cuda::device_count()).unwrap_or(0),
        threads: u32::try_from(tch::get_num_threads()).unwrap_or(1),
    }
}

#[cfg(feature = "cuda")]
fn nccl_version() -> Result<String, String> {
    // SAFETY: asks the library for a constant.
    match unsafe { ffi::tr_nccl_version() } {
        code if code > 0 => Ok(format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)),
        _ => Err("NCCL does not tell its version".to_owned()),
    }
}

#[cfg(not(feature = "cuda"))]
fn nccl_version() -> Result<String, String> {
    Err(NO_CUDA_FEATURE.to_owned())
}
