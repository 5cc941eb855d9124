//! The step loop: slots → gradients → exact or fast reduction → optimizer → capture of state.
//!
//! A [`Trainer`] holds the state of one run in memory for as long as its process lives. [`Trainer::run`] takes part in
//! one generation of it: first the members agree on the state (a live peer broadcasts it, a checkpoint is read, or the
//! initial model is made), then they go from step to step until the run is done, a pause was agreed, or a collective
//! failed. In `exact` mode every parameter is bit-identical for any number of workers and any history of failures:
//! nothing computed here may depend on the rank, the world size or the time.
//!
//! This room knows no gRPC, no tokio and no files of a run: what it needs from outside comes through [`Host`].

pub mod answers;
mod average;
mod capture;
mod error;
mod evaluate;
mod gradients;
mod host;
mod initial;
mod losses;
pub mod metrics;
mod objective;
pub mod optimizer;
mod seeds;
mod state;
mod step;
mod stopping;
mod sync;
mod teacher;
mod tensors;
mod trainer;
mod verify;

pub use capture::{Capture, StateHeader};
pub use error::{Divergence, TrainError};
pub use host::{CheckpointFiles, Host, Membership, Outcome, Phase, Requests, StepReport};
pub use objective::tasks::{choice_scores, label_scores};
pub use stopping::Evaluated;
pub use trainer::{Trainer, set_threads, use_deterministic_algorithms};

/// What a trainer process does with the memory of its steps.
pub use kernels::{keep_freed_memory, return_freed_memory};
