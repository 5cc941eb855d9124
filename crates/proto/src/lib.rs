//! The wire: code generated from `proto/trireme/v1`, conversions of ids, and the one mapping from errors to statuses.
//!
//! This room must not know any domain logic.

mod address;
pub mod convert;
mod failure;

pub use address::{ADDRESS_HELP, authority};
pub use failure::{Failure, FailureKind};

/// How many bytes of one stream the coordinator takes before it has handled any of them (HTTP/2's window; the usual
/// 64 KiB would make each megabyte of a checkpoint wait for sixteen round trips). What a worker has sent may wait there.
pub const STREAM_WINDOW: u32 = 4 << 20;

/// More reports of one worker than ever wait in the coordinator's and the worker's queues.
pub const QUEUED_MAX: usize = 6000;

/// Version 1 of the protocol.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("trireme.v1");
}

/// The protocol's file descriptors, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
