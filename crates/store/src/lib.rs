//! What a coordinator keeps: the run database (SQLite) and the checkpoint repository (an object store).
//!
//! Bytes, hashes and rows only. The room knows no tensors and takes no decisions about runs: `control` decides, the
//! coordinator converts its records to the rows here and back. Nothing here reads a clock; times are arguments.

mod checkpoints;
mod database;

pub use checkpoints::{
    Best, CheckpointError, CheckpointFile, CheckpointId, CheckpointProblem, CheckpointRepository, Manifest, NewestGood,
    Retained, RetentionPolicy, Shard, ShardOutcome, Standing,
};
pub use database::{
    AttemptRow, Change, CheckpointRow, CommitRow, Database, DatabaseError, EventRow, MemberRow, MetricPosition,
    MetricQuery, MetricRow, Reader, RunRow, SweepRow, SweepRunRow,
};
