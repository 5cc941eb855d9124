//! `fast` mode: floats, averaged in buckets by PyTorch's DDP.

use super::{Local, Work, contributions, loss_of};
use crate::host::Phase;
use crate::losses::Tally;
use crate::state::State;
use crate::step::Context;
use c10d::{GroupError, ProcessGroup, Reducer};
use config::CheckedConfig;
use kernels::NativeError;
use std::time::Instant;
use tch::Tensor;

/// DDP's default: buckets of 25 MiB.
const BUCKET_BYTES: usize = 25 << 20;

/// `fast`: DDP's reducer, overlapped with the backward pass of this worker's last micro-batch.
pub struct FastReduction {
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
    pub fn compute(&mut self, context: &Context<'_>, state: &mut State, work: Work<'_>) -> Result<Local, GroupError> {
        let &Context { config, losses, group, host, .. } = context;
        let began = Instant::now();
        let mut local = Local { overflows: 0, tally: Tally::new(losses.len()), seconds: 0.0 };
        // They are parts of buckets, which would live on beside those that are made new in the second step.
        state.buffers.gradients.clear();
        for parameter in &state.parameters {
            // In place, and without detaching: it may be a part of a bucket.
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = tch::no_grad(|| gradient.zero_());
            }
        }
        let last = work.micro_batches().count();
        for (number, micro_batch) in (1..).zip(work.micro_batches()) {
            group.check()?;
            let (loss, sums) = loss_of(context, state, state.header.step, micro_batch, (losses, work.targets));
            if number == last {
                self.reducer.prepare_for_backward(&[loss.shallow_clone()])?;
                // The reduction happens inside, so others may wait for this member, it may wait for others, and a lost
                // peer is an error of this call.
                host.phase(Phase::Reduce);
                let failed = |error: NativeError| GroupError::Collective {
                    operation: "the backward pass with its reduction",
                    message: error.0,
                };
                kernels::backward(&loss).map_err(failed)?;
            } else {
                kernels::backward(&loss).unwrap_or_else(|error| panic!("a backward pass failed: {error}"));
            }
            local.tally.add(&sums, contributions(config));
            host.moved();
        }
        local.seconds = began.elapsed().as_secs_f64();
        Ok(local)
    }
}

/// The reducer averages over workers; the losses are already divided by global counts.
pub fn finish(state: &mut State, group: &ProcessGroup) {
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
