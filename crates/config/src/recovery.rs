//! `[recovery]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to a run whose state is not to be trusted any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDivergence {
    /// It goes back to the newest good checkpoint as a new attempt; if it diverges again before it has a checkpoint past
    /// that step, it fails.
    #[default]
    Rollback,
    /// It fails with the reason.
    Stop,
}

/// What counts as going wrong, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryConfig {
    /// When too many steps in a row are skipped, or replicas differ and no majority tells whose state is right:
    /// `rollback` to the newest good checkpoint, or `stop`.
    pub on_divergence: OnDivergence,
    /// Steps between comparisons of the workers' parameters and optimizer states; 0: never.
    pub verify_every: u64,
    /// So many steps in a row may be skipped for numbers that are not finite; then the run has diverged. One that has
    /// skipped all of its steps has, however few they are.
    pub max_skipped_steps: u64,
    /// A worker that everyone has waited for so many times longer than a step usually takes is taken to hang and is
    /// left out. Above 10 it stretches the second alike after which a worker that is not heard at all is left out: for
    /// hosts that are busy with other things.
    pub hang_factor: u32,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self { on_divergence: OnDivergence::Rollback, verify_every: 100, max_skipped_steps: 10, hang_factor: 10 }
    }
}
