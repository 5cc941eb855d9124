//! A safe binding of libtorch's own collective library, c10d: the process group and DDP's Reducer.
//!
//! All of the project's `unsafe` and C++ lives here and in `kernels`. The crate knows neither models nor gRPC: rendezvous goes through
//! whatever [`KeyValueStore`] it is given, and nothing but that store knows the peers' addresses.
//!
//! - [`ProcessGroup`] is Gloo between CPU processes, NCCL between CUDA devices (feature `cuda`) or [`Backend::Solo`] for
//!   a single worker. One thread at a time makes collectives; [`AbortHandle`] ends them from another one.
//! - [`Reducer`] overlaps the reduction with the backward pass (`fast` mode).

#![allow(unsafe_code)]

mod error;
mod ffi;
mod group;
mod reducer;
mod report;
mod store;

pub use error::GroupError;
pub use group::abort::AbortHandle;
pub use group::{Backend, GroupOptions, ProcessGroup};
pub use reducer::{Compression, Reducer};
pub use report::{RuntimeReport, runtime_report};
pub use store::memory::MemoryStore;
pub use store::{KeyValueStore, StoreError};
