//! The wire: code generated from `proto/trireme/v1`, conversions of ids, and the one mapping from errors to statuses.
//!
//! This room must not know any domain logic.

pub mod convert;
mod failure;

pub use failure::{Failure, FailureKind};

/// Version 1 of the protocol.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("trireme.v1");
}

/// The protocol's file descriptors, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
