//! One step: samples, agreement, gradients, reduction, update.
//!
//! Up to the update nothing of the state changes, so a collective that fails leaves it as it was after the step before.

use crate::capture::StateHeader;
use crate::gradients::{Local, Reduction, Work};
use crate::host::{Host, Membership, Phase, StepReport};
use crate::losses::{Loss, Tally, Targets, weighted};
use crate::optimizer::{clip_factor, global_norm};
use crate::state::State;
use crate::teacher::Teacher;
use crate::tensors::to_i64;
use crate::{Divergence, TrainError};
use c10d::{GroupError, ProcessGroup};
use config::{CheckedConfig, ReduceMode};
use corpus::{Loader, SlotStep};
use std::time::Instant;
use tch::{Device, Tensor};
use types::{Cursor, HELP, Segment, SlotId, Step};

/// What all steps of one generation have in common.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub config: &'a CheckedConfig,
    /// What the objective adds up.
    pub losses: &'a [Loss],
    /// Where a student learns from one.
    pub teacher: Option<&'a Teacher>,
    pub membership: &'a Membership,
    pub group: &'a ProcessGroup,
    pub host: &'a dyn Host,
    pub device: Device,
}

/// Goes from step to step within one generation.
pub(crate) struct Stepper<'a> {
    pub context: Context<'a>,
    /// None before the first step.
    pub reduction: Option<Reduction>,
    /// The loss of the last step was not finite.
    pub broken: bool,
}

/// A step that was done.
pub(crate) struct Done {
    pub report: StepReport,
    /// Any member wants a checkpoint.
    pub checkpoint: bool,
    /// Any member wants to stop.
    pub pause: bool,
}

/// What all members know after the first collective of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    checkpoint: bool,
    pause: bool,
    /// Of the global batch: what the losses are divided by.
    pub targets: Targets,
    tokens: u64,
    /// How many segments each slot used.
    segments: Vec<usize>,
}

/// What all members know after the second.
struct Outcome {
    overflowed: bool,
    tally: Tally,
    cursors: Vec<Cursor>,
    segments: Vec<Segment>,
}

impl Stepper<'_> {
    /// Does one step.
    pub fn step(&mut self, state: &mut State, loader: &mut Loader) -> Result<Done, TrainError> {
        let began = Instant::now();
        let step = state.header.step;
        let failed = |error: GroupError| TrainError::collective(Some(step), error);

        self.context.host.phase(Phase::Data);
        let mut own = Vec::with_capacity(self.context.membership.slots.len());
        for &slot in &self.context.membership.slots {
            let samples = loader.next(slot, step.next());
            let samples = samples.map_err(|error| TrainError::corpus(&error, format!("slot {slot}: {error}")))?;
            self.context.host.moved();
            own.push((slot, samples));
        }
        self.context.host.phase(Phase::Reduce);
        let agreement = self.agree(&own).map_err(failed)?;
        let mut reduction = match self.reduction.take() {
            Some(reduction) => reduction.next(&self.context, state),
            None => Reduction::new(&self.context, state),
        }
        .map_err(failed)?;

        self.context.host.phase(Phase::Compute);
        let local = reduction
            .compute(&self.context, state, Work { samples: &own, targets: &agreement.targets })
            .map_err(failed)?;

        self.context.host.phase(Phase::Reduce);
        let outcome = self.share(&local, &own, &agreement).map_err(failed)?;
        if !outcome.overflowed {
            self.context.host.phase(Phase::Reduce);
            reduction.finish(&self.context, state).map_err(failed)?;
        }

        self.context.host.phase(Phase::Update);
        self.reduction = Some(reduction);
        self.broken = outcome.tally.broken > 0;
        let mut metrics = self.metrics(&outcome, &agreement);
        self.apply(state, outcome.overflowed, &mut metrics)?;
        let header = &mut state.header;
        header.step = step.next();
        header.cursors = outcome.cursors;
        header.samples_digest = header.samples_digest.chain_samples(header.step, &outcome.segments);
        metrics.push(("train/tokens_per_second".into(), agreement.tokens as f64 / began.elapsed().as_secs_f64()));
        let tokens = own.iter().flat_map(|(_, samples)| &samples.batches).map(corpus::Batch::tokens).sum();
        let report = StepReport {
            step: header.step,
            segments: outcome.segments,
            samples_digest: header.samples_digest,
            metrics,
            tokens,
            seconds: local.seconds,
        };
        Ok(Done { report, checkpoint: agreement.checkpoint, pause: agreement.pause })
    }

    /// The first collective: requests, the counts that the losses are divided by, and how many segments each slot used.
    fn agree(&self, own: &[(SlotId, SlotStep)]) -> Result<Agreement, GroupError> {
        let losses = self.context.losses;
        let fixed = 3 + losses.len();
        let requests = self.context.host.requests();
        let mut values = vec![0; fixed + self.context.config.batch.slots as usize];
        values[0] = i64::from(requests.checkpoint);
        values[1] = i64::from(requests.pause);
        for (slot, samples) in own {
            for batch in &samples.batches {
                values[2] += batch.tokens() as i64;
                for (total, count) in values[3..].iter_mut().zip(Targets::of(losses, batch).0) {
                    *total += count;
                }
            }
            values[fixed + slot.0 as usize] = samples.segments.len() as i64;
        }
        let values = self.sum(&values)?;
        Ok(Agreement {
            checkpoint: values[0] > 0,
            pause: values[1] > 0,
            tokens: values[2] as u64,
            targets: Targets(values[3..fixed].to_vec()),
            segments: values[fixed..].iter().map(|&count| count as usize).collect(),
        })
    }

    /// The second collective: whether anything overflowed, the losses, and every slot's cursor and segments.
    fn share(&self, local: &Local, own: &[(SlotId, SlotStep)], agreement: &Agreement) -> Result<Outcome, GroupError> {
        let fixed = 1 + Tally::words(self.context.losses.len());
        // Each slot's place: its cursor (2), then its segments (4 each).
        let mut places = Vec::with_capacity(agreement.segments.len());
        let mut length = fixed;
        for &count in &agreement.segments {
            places.push(length);
            length += 2 + 4 * count;
        }
        let mut values = vec![0; length];
        values[0] = local.overflows as i64;
        values[1..fixed].copy_from_slice(&local.tally.to_words());
        for (slot, samples) in own {
            let place = places[slot.0 as usize];
            values[place] = samples.cursor.turn as i64;
            values[place + 1] = samples.cursor.sample as i64;
            for (index, segment) in samples.segments.iter().enumerate() {
                let words = [segment.turn, segment.start, segment.end, segment.total].map(|word| word as i64);
                values[place + 2 + 4 * index..][..4].copy_from_slice(&words);
            }
        }
        let values = self.sum(&values)?;
        let mut cursors = Vec::with_capacity(places.len());
        let mut segments = Vec::new();
        for (slot, (&place, &count)) in places.iter().zip(&agreement.segments).enumerate() {
            cursors.push(Cursor { turn: values[place] as u64, sample: values[place + 1] as u64 });
            for words in values[place + 2..][..4 * count].chunks_exact(4) {
                let [turn, start, end, total] = [words[0], words[1], words[2], words[3]].map(|word| word as u64);
                segments.push(Segment { slot: SlotId(slot as u32), turn, start, end, total });
            }
        }
        let tally = Tally::from_words(&values[1..fixed]);
        Ok(Outcome { overflowed: values[0] > 0 || tally.broken > 0, tally, cursors, segments })
    }

    fn sum(&self, values: &[i64]) -> Result<Vec<i64>, GroupError> {
        let tensor = Tensor::from_slice(values).to_device(self.context.device);
        self.context.group.all_reduce_sum(&tensor)?;
        Ok(to_i64(&tensor))
    }

    /// Clips and updates, or skips; the same on every member, since all see the same gradients.
    fn apply(&self, state: &mut State, overflowed: bool, metrics: &mut Vec<(String, f64)>) -> Result<(), TrainError> {
        let next = state.header.step.next();
        let factor = self.context.config.schedule.factor(next.0, self.context.config.run.steps);
        metrics.push(("train/learning_rate".into(), factor * self.context.config.optimizer.learning_rate));
        let norm = if overflowed { f64::NAN } else { global_norm(&state.buffers.gradients) };
        if norm.is_finite() {
            metrics.push(("train/gradient_norm".into(), norm));
            state.header.updates += 1;
            state.header.skipped_in_a_row = 0;
            if let Some(factor) = clip_factor(norm, self.context.config.optimizer.clip_norm) {
                state.buffers.scale_gradients(factor);
            }
            let updates = state.header.updates;
            state
                .optimizer
                .update(&state.parameters, &state.buffers.gradients, updates, factor)
                .map_err(|error| TrainError::fatal(format!("the optimizer failed at step {next}: {error}")))?;
            if let Some(average) = &mut state.average {
                average.update(&state.parameters, updates);
            }
            return Ok(());
        }
        metrics.push(("train/skipped".into(), 1.0));
        state.header.skipped_in_a_row += 1;
        let skipped = state.header.skipped_in_a_row;
        tracing::warn!(run = %self.context.membership.run, step = next.0, skipped, "gradients overflowed; the step is skipped");
        if u64::from(skipped) >= self.context.config.recovery.max_skipped_steps {
            return Err(self.diverged(&state.header, next));
        }
        Ok(())
    }

    /// The run has skipped too many steps, `last` among them.
    pub fn diverged(&self, header: &StateHeader, last: Step) -> TrainError {
        let skipped = header.skipped_in_a_row;
        let seen =
            format!("the gradients of {skipped} steps in a row, up to step {last}, were not finite or too large");
        TrainError::Diverged {
            step: header.step,
            kind: Divergence::Skipped,
            reason: format!("{seen}{HELP}submit it again with {}", self.remedy(header.updates)),
        }
    }

    /// What most likely makes gradients fit, after so many updates: where there was none, the learning rate has had no part
    /// in it.
    fn remedy(&self, updates: u64) -> String {
        let config = self.context.config;
        match config.reduce.mode {
            _ if updates > 0 => format!("a lower optimizer.learning_rate (now {})", config.optimizer.learning_rate),
            _ if config.objective.regression => "labels scaled to a few units".to_owned(),
            _ if self.broken => "other data, or another model to start from: the loss was not finite".to_owned(),
            ReduceMode::Exact => format!("a lower reduce.fraction_bits (now {})", config.reduce.fraction_bits),
            ReduceMode::Fast => "another model or other data: not one gradient was finite".to_owned(),
        }
    }

    /// Losses and accuracies of the global batch.
    fn metrics(&self, outcome: &Outcome, agreement: &Agreement) -> Vec<(String, f64)> {
        let mut metrics = Vec::with_capacity(8);
        let mut push = |name: &str, value: f64| metrics.push((format!("train/{name}"), value));
        let losses = self.context.losses;
        let means = outcome.tally.means(&agreement.targets);
        // The loss of a step that overflowed may hold only a part of the batch.
        if !outcome.overflowed {
            push("loss", weighted(losses, &means));
        }
        for (index, loss) in losses.iter().enumerate() {
            let count = agreement.targets.0[index];
            if index > 0 && count == 0 {
                continue;
            }
            if loss.has_answers {
                push(&loss.metric("accuracy"), outcome.tally.sums[index].correct as f64 / count.max(1) as f64);
            }
            if !outcome.overflowed && !loss.name.is_empty() {
                push(&loss.metric("loss"), means[index]);
            }
        }
        metrics
    }
}

/// Whether something that happens every `every` steps (0: never) happens after `step`.
pub(crate) fn due(step: Step, every: u64) -> bool {
    every > 0 && step.0 > 0 && step.0.is_multiple_of(every)
}
