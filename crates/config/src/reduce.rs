//! `[reduce]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How gradients are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReduceMode {
    /// As 64-bit fixed-point integers: bit-identical for any number of workers.
    #[default]
    Exact,
    /// As floats, in buckets overlapped with the backward pass (PyTorch's DDP).
    Fast,
}

/// What `fast` sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// float32.
    #[default]
    None,
    /// bfloat16: half the bytes.
    Bf16,
}

/// What carries the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReduceBackend {
    /// NCCL between CUDA devices, Gloo between CPUs.
    #[default]
    Auto,
    /// Gloo also between CUDA devices: through main memory, slower, and workers may share a device, which NCCL refuses.
    Gloo,
}

impl ReduceBackend {
    fn is_default(&self) -> bool {
        *self == ReduceBackend::default()
    }
}

/// How gradients are summed over slots and workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceConfig {
    /// `exact` or `fast`.
    pub mode: ReduceMode,
    /// `exact`: binary digits after the point. A gradient element of 2^(51 - this) or more skips the step.
    pub fraction_bits: u32,
    /// `fast`: what is sent.
    pub compression: Compression,
    /// `auto` or `gloo`.
    #[serde(skip_serializing_if = "ReduceBackend::is_default")]
    pub backend: ReduceBackend,
}

impl Default for ReduceConfig {
    fn default() -> Self {
        Self {
            mode: ReduceMode::Exact,
            fraction_bits: 44,
            compression: Compression::None,
            backend: ReduceBackend::Auto,
        }
    }
}
