//! What libtorch has no fast operator for, or tch no binding: a few operators in C++, each with a safe function.
//!
//! - [`linear`], [`attention`], [`embedding`], [`gelu`], [`masked_loss`] and [`dropout`] are differentiable and do what
//!   libtorch's own operators do, faster on the CPU; on other devices and kinds they are libtorch's.
//! - [`row_attention`] is attention of rows of different lengths, of all tokens or those near by, without padding.
//! - [`checkpoint`] runs a part of a network whose inner tensors are made again in the backward pass instead of kept, and
//!   [`peak_memory`] shows what that saves.
//! - [`Graph`] is a part of a network as a CUDA graph: recorded once, replayed without the cost of launching.
//! - [`fixed_point`] turns gradients into integers and back: what exact reduction is made of. [`backward`] is the backward
//!   pass of fast mode.
//! - [`fused_adamw`] is torch's fused optimizer step, [`norms`] its norms of many tensors at once.
//! - Every program with this crate has another allocator for the CPU's tensors than libtorch's, from before main on
//!   (docs/adr/008); [`keep_freed_memory`] and [`return_freed_memory`] say what malloc does with what they leave.
//! - [`with_bfloat16`] and [`deterministic_algorithms`] are modes of libtorch; [`traced`] is its profiler.
//!
//! The crate knows no models and no workers. All of the project's `unsafe` and C++ is here and in `c10d`.

#![allow(unsafe_code)]

mod adamw;
mod backward;
mod checkpoint;
mod ffi;
pub mod fixed_point;
mod graph;
mod memory;
mod modes;
pub mod native;
mod operators;
mod rows;
mod trace;

pub use adamw::{AdamW, fused_adamw};
pub use backward::backward;
pub use checkpoint::{checkpoint, peak_memory};
pub use graph::Graph;
pub use memory::{keep_freed_memory, return_freed_memory};
pub use modes::{deterministic_algorithms, with_bfloat16};
pub use native::NativeError;
pub use operators::{
    attention, dropout, embedding, gated_gelu, gelu, linear, masked_loss, masked_loss_in_parts, norms,
};
pub use rows::row_attention;
pub use trace::traced;
