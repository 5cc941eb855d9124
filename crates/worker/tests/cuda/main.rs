//! The same numbers on a CUDA device as on the CPU, and the same bits every time. docs/guide/cuda.md says how to run them.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod networks;
mod operators;

const GPU: tch::Device = tch::Device::Cuda(0);

#[test]
#[ignore = "needs a CUDA device"]
fn there_is_a_device() {
    assert!(c10d::runtime_report().cuda_devices > 0, "libtorch sees no CUDA device");
}
