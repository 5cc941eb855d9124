//! From this worker's samples to the gradients of the global batch.
//!
//! Both modes divide the losses by counts of the global batch before the backward pass and seed dropout by (run, step,
//! slot, micro-batch), so that what a slot contributes does not depend on who computes it. `exact` then sums fixed-point
//! integers; `fast` sums floats as PyTorch's DDP does.

use crate::host::Phase;
use crate::losses::{Loss, Tally, Targets};
use crate::objective::{Computation, Sums, forward};
use crate::seeds::dropout_seed;
use crate::state::State;
use crate::step::Context;
use c10d::{GroupError, ProcessGroup, Reducer};
use config::{CheckedConfig, ReduceMode};
use corpus::{Batch, SlotStep};
use kernels::NativeError;
use kernels::fixed_point::{self, Turn};
use tch::Tensor;
use types::{SlotId, Step};

/// DDP's default: buckets of 25 MiB.
const BUCKET_BYTES: usize = 25 << 20;

/// What this worker alone has summed up.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// Gradient elements that no number can stand for.
    pub overflows: u64,
    pub tally: Tally,
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

fn micro_batches(own: &[(SlotId, SlotStep)]) -> impl Iterator<Item = (SlotId, usize, &Batch)> {
    own.iter()
        .flat_map(|(slot, samples)| samples.batches.iter().enumerate().map(move |(micro, batch)| (*slot, micro, batch)))
}

/// `exact`: every micro-batch's gradients into the fixed-point accumulator, whatever it held before. With a lost peer the
/// step cannot succeed: nothing more is computed for it.
pub(crate) fn exact(
    context: &Context<'_>,
    state: &mut State,
    own: &[(SlotId, SlotStep)],
    targets: &Targets,
) -> Result<Local, GroupError> {
    let &Context { config, losses, group, host, device, .. } = context;
    let mut local = Local { overflows: 0, tally: Tally::new(losses.len()) };
    let accumulator = state.buffers.accumulator(&state.parameters, device);
    let leaves: Vec<&Tensor> = state.parameters.iter().map(|parameter| &parameter.tensor).collect();
    let mut turn = Turn::First;
    for micro_batch in micro_batches(own) {
        group.check()?;
        let (loss, sums) = loss_of(context, state, state.header.step, micro_batch, (losses, targets));
        let bits = config.reduce.fraction_bits;
        local.overflows += fixed_point::backward(&loss, &leaves, &state.buffers.offsets, &accumulator, bits, turn);
        local.tally.add(&sums, contributions(config));
        turn = Turn::Later;
        host.moved();
    }
    if turn == Turn::First {
        let _ = tch::no_grad(|| accumulator.shallow_clone().zero_());
    }
    Ok(local)
}

/// The last part of the reduction: leaves the gradients of the global batch in the state's buffers.
pub(crate) fn write_gradients(
    config: &CheckedConfig,
    state: &mut State,
    group: &ProcessGroup,
) -> Result<(), GroupError> {
    match config.reduce.mode {
        ReduceMode::Exact => {
            let accumulator =
                state.buffers.accumulator.as_ref().expect("exact gradients were computed").shallow_clone();
            // Sums of 64 bits are made in parts, and only what they are rounded to goes to everybody.
            let own = group.reduce_scatter_sum(&accumulator)?;
            let flat = state.buffers.flat_gradients(&state.parameters, accumulator.device());
            let part = flat.narrow(0, own.start, own.end - own.start);
            fixed_point::to_float(&accumulator, own.start as usize, &part, config.reduce.fraction_bits);
            group.all_gather(&flat)?;
        }
        ReduceMode::Fast => {
            // The reducer averages over workers; the losses are already divided by global counts.
            let world = f64::from(group.world());
            state.buffers.gradients = state
                .parameters
                .iter()
                .map(|parameter| {
                    let mut gradient = parameter.tensor.grad();
                    tch::no_grad(|| gradient.g_mul_scalar_(world))
                })
                .collect();
        }
    }
    Ok(())
}

/// `fast`: DDP's reducer, overlapped with the backward pass of this worker's last micro-batch.
pub(crate) struct FastReduction {
    reducer: Reducer,
}

impl FastReduction {
    pub fn new(config: &CheckedConfig, state: &State, group: &ProcessGroup) -> Result<Self, GroupError> {
        let leaves: Vec<Tensor> = state.parameters.iter().map(|parameter| parameter.tensor.shallow_clone()).collect();
        let compression = match config.reduce.compression {
            config::Compression::None => c10d::Compression::None,
            config::Compression::Bf16 => c10d::Compression::Bf16,
        };
        Ok(Self { reducer: Reducer::new(group, &leaves, BUCKET_BYTES, compression)? })
    }

    /// Leaves the mean over workers in the parameters' `.grad`.
    pub fn compute(
        &mut self,
        context: &Context<'_>,
        state: &mut State,
        own: &[(SlotId, SlotStep)],
        targets: &Targets,
    ) -> Result<Local, GroupError> {
        let &Context { config, losses, group, host, .. } = context;
        let mut local = Local { overflows: 0, tally: Tally::new(losses.len()) };
        for parameter in &state.parameters {
            // In place, and without detaching: it may be a part of a bucket.
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = tch::no_grad(|| gradient.zero_());
            }
        }
        let count = micro_batches(own).count();
        for (index, micro_batch) in micro_batches(own).enumerate() {
            group.check()?;
            let (loss, sums) = loss_of(context, state, state.header.step, micro_batch, (losses, targets));
            if index + 1 == count {
                self.reducer.prepare_for_backward(&[loss.shallow_clone()])?;
                // The reduction happens inside, so others may wait for this member, it may wait for others, and a lost
                // peer is an error of this call.
                host.phase(Phase::Reduce);
            }
            let failed = |error: NativeError| GroupError::Collective {
                operation: "the backward pass with its reduction",
                message: error.0,
            };
            kernels::backward(&loss).map_err(failed)?;
            local.tally.add(&sums, contributions(config));
            host.moved();
        }
        Ok(local)
    }
}
