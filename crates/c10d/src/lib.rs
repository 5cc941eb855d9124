//! A safe binding of libtorch's own collective library, c10d: the process group, DDP's Reducer, and the two native
//! passes that exact reduction is made of.
//!
//! All of the project's `unsafe` and C++ lives here. The crate knows neither models nor gRPC: rendezvous goes through
//! whatever [`KeyValueStore`] it is given, and nothing but that store knows the peers' addresses.
//!
//! - [`ProcessGroup`] is Gloo between CPU processes, NCCL between CUDA devices (feature `cuda`) or [`Backend::Solo`] for
//!   a single worker. One thread at a time makes collectives; [`AbortHandle`] ends them from another one.
//! - [`Reducer`] overlaps the reduction with the backward pass (`fast` mode).
//! - [`fixed_point`] turns gradients into integers and back (`exact` mode).
//! - [`fused_adamw`] is torch's fused optimizer step, which tch does not bind.

#![allow(unsafe_code)]

mod adamw;
mod error;
mod ffi;
pub mod fixed_point;
mod group;
mod reducer;
mod report;
mod store;

pub use adamw::{AdamW, fused_adamw};
pub use error::{GroupError, NativeError};
pub use group::abort::AbortHandle;
pub use group::{Backend, GroupOptions, ProcessGroup};
pub use reducer::{Compression, Reducer};
pub use report::{RuntimeReport, runtime_report};
pub use store::memory::MemoryStore;
pub use store::{KeyValueStore, StoreError};
