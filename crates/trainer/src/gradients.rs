//! From this worker's samples to the gradients of the global batch.
//!
//! Both modes divide the losses by counts of the global batch before the backward pass and seed dropout by (run, step,
//! slot, micro-batch), so that what a slot contributes does not depend on who computes it. `exact` then sums fixed-point
//! integers; `fast` sums floats as PyTorch's DDP does.

mod exact;
mod fast;

use crate::losses::{Loss, Tally, Targets};
use crate::objective::{Computation, Sums, forward};
use crate::seeds::dropout_seed;
use crate::state::State;
use crate::step::Context;
use c10d::GroupError;
use config::{CheckedConfig, ReduceMode};
use corpus::{Batch, SlotStep};
use exact::ExactReduction;
use fast::FastReduction;
use tch::Tensor;
use types::{SlotId, Step};

/// What this worker alone has summed up.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// Gradient elements that no number can stand for.
    pub overflows: u64,
    pub tally: Tally,
    /// What the forward and backward passes took.
    pub seconds: f64,
}

/// What this worker does in a step.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    /// The samples of its slots.
    pub samples: &'a [(SlotId, SlotStep)],
    /// What the losses are divided by.
    pub targets: &'a Targets,
}

impl<'a> Work<'a> {
    fn micro_batches(self) -> impl Iterator<Item = (SlotId, usize, &'a Batch)> {
        self.samples.iter().flat_map(|(slot, samples)| {
            samples.batches.iter().enumerate().map(move |(micro, batch)| (*slot, micro, batch))
        })
    }
}

/// How the members of one generation add up their gradients.
pub(crate) enum Reduction {
    Exact(ExactReduction),
    Fast(FastReduction),
}

impl Reduction {
    /// All members must make one at the same time.
    pub fn new(context: &Context<'_>, state: &mut State) -> Result<Self, GroupError> {
        Ok(match context.config.reduce.mode {
            ReduceMode::Exact => Self::Exact(ExactReduction::new(state, context.group)),
            ReduceMode::Fast => Self::Fast(FastReduction::new(context.config, state, context.group)?),
        })
    }

    /// Before a further step: what the members still have to agree on.
    pub fn next(self, context: &Context<'_>, state: &mut State) -> Result<Self, GroupError> {
        Ok(match self {
            Self::Exact(exact) => Self::Exact(exact.next(state, context.group)?),
            fast @ Self::Fast(_) => fast,
        })
    }

    /// Computes this worker's gradients and adds up those of all. With a lost peer the step cannot succeed: no further
    /// micro-batch is computed for it.
    pub fn compute(&mut self, context: &Context<'_>, state: &mut State, work: Work<'_>) -> Result<Local, GroupError> {
        match self {
            Self::Exact(exact) => exact.compute(context, state, work),
            Self::Fast(fast) => fast.compute(context, state, work),
        }
    }

    /// Leaves the gradients of the global batch in the state's buffers.
    pub fn finish(&self, context: &Context<'_>, state: &mut State) -> Result<(), GroupError> {
        match self {
            Self::Exact(exact) => exact.finish(context, state),
            Self::Fast(_) => {
                fast::finish(state, context.group);
                Ok(())
            }
        }
    }
}

/// The micro-batches of a global batch, once it has grown: no step has more.
pub(crate) fn contributions(config: &CheckedConfig) -> u64 {
    u64::from(config.batch.slots) * config.batch.accumulate as u64
}

/// The seeded forward pass of one micro-batch, and its share of the global loss.
fn loss_of(
    &Context { config, teacher, device, .. }: &Context<'_>,
    state: &State,
    step: Step,
    (slot, micro, batch): (SlotId, usize, &Batch),
    (losses, targets): (&[Loss], &Targets),
) -> (Tensor, Sums) {
    tch::manual_seed(dropout_seed(config.run.seed, step, slot, micro));
    let sums = forward((&state.model, teacher), batch, Computation::of(config), device, true);
    (targets.share(losses, &sums), sums)
}
