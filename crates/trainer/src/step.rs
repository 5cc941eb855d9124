//! One step: samples, agreement, gradients, reduction, update.
//!
//! Up to the update nothing of the state changes, so a collective that fails leaves it as it was after the step before.

use crate::gradients::{FastReduction, Local, exact, write_gradients};
use crate::host::{Host, Membership, Phase, StepReport};
use crate::objective::{Targets, loss_from_fixed};
use crate::optimizer::{clip, global_norm};
use crate::state::State;
use crate::tensors::to_i64;
use crate::{Divergence, TrainError};
use c10d::{GroupError, ProcessGroup};
use config::{CheckedConfig, ReduceMode};
use corpus::{Loader, SlotStep};
use std::time::Instant;
use tch::{Device, Tensor};
use types::{Cursor, Segment, SlotId, Step};

/// What all steps of one generation have in common.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub config: &'a CheckedConfig,
    pub membership: &'a Membership,
    pub group: &'a ProcessGroup,
    pub host: &'a dyn Host,
    pub device: Device,
}

/// Goes from step to step within one generation.
pub(crate) struct Stepper<'a> {
    pub context: Context<'a>,
    /// `fast` mode: made at the first step.
    pub fast: Option<FastReduction>,
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
    main_loss: f64,
    main_correct: i64,
    next_sentence_loss: f64,
    next_sentence_correct: i64,
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

        self.context.host.phase(Phase::Compute);
        let computing = Instant::now();
        let local = match self.context.config.reduce.mode {
            ReduceMode::Exact => exact(&self.context, state, &own, agreement.targets).map_err(failed)?,
            ReduceMode::Fast => {
                if self.fast.is_none() {
                    self.fast =
                        Some(FastReduction::new(self.context.config, state, self.context.group).map_err(failed)?);
                }
                let fast = self.fast.as_mut().expect("made just above");
                fast.compute(&self.context, state, &own, agreement.targets).map_err(failed)?
            }
        };
        let seconds = computing.elapsed().as_secs_f64();

        self.context.host.phase(Phase::Reduce);
        let outcome = self.share(&local, &own, &agreement).map_err(failed)?;
        if !outcome.overflowed {
            self.context.host.phase(Phase::Reduce);
            write_gradients(self.context.config, state, self.context.group).map_err(failed)?;
        }

        self.context.host.phase(Phase::Update);
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
            seconds,
        };
        Ok(Done { report, checkpoint: agreement.checkpoint, pause: agreement.pause })
    }

    /// The first collective: requests, the counts that the losses are divided by, and how many segments each slot used.
    fn agree(&self, own: &[(SlotId, SlotStep)]) -> Result<Agreement, GroupError> {
        const FIXED: usize = 5;
        let requests = self.context.host.requests();
        let mut values = vec![0; FIXED + self.context.config.batch.slots as usize];
        values[0] = i64::from(requests.checkpoint);
        values[1] = i64::from(requests.pause);
        for (slot, samples) in own {
            for batch in &samples.batches {
                let targets = Targets::of(batch);
                values[2] += targets.main;
                values[3] += targets.next_sentence;
                values[4] += batch.tokens() as i64;
            }
            values[FIXED + slot.0 as usize] = samples.segments.len() as i64;
        }
        let values = self.sum(&values)?;
        Ok(Agreement {
            checkpoint: values[0] > 0,
            pause: values[1] > 0,
            targets: Targets { main: values[2], next_sentence: values[3] },
            tokens: values[4] as u64,
            segments: values[FIXED..].iter().map(|&count| count as usize).collect(),
        })
    }

    /// The second collective: whether anything overflowed, the losses, and every slot's cursor and segments.
    fn share(&self, local: &Local, own: &[(SlotId, SlotStep)], agreement: &Agreement) -> Result<Outcome, GroupError> {
        const FIXED: usize = 5;
        // Each slot's place: its cursor (2), then its segments (4 each).
        let mut places = Vec::with_capacity(agreement.segments.len());
        let mut length = FIXED;
        for &count in &agreement.segments {
            places.push(length);
            length += 2 + 4 * count;
        }
        let mut values = vec![0; length];
        values[0] = local.overflows as i64;
        values[1] = local.main_loss;
        values[2] = local.main_correct;
        values[3] = local.next_sentence_loss;
        values[4] = local.next_sentence_correct;
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
        Ok(Outcome {
            overflowed: values[0] > 0,
            main_loss: loss_from_fixed(values[1]),
            main_correct: values[2],
            next_sentence_loss: loss_from_fixed(values[3]),
            next_sentence_correct: values[4],
            cursors,
            segments,
        })
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
            clip(&mut state.buffers.gradients, norm, self.context.config.optimizer.clip_norm);
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
            return Err(TrainError::Diverged {
                step: state.header.step,
                kind: Divergence::Skipped,
                reason: format!(
                    "the gradients of {skipped} steps in a row, up to step {next}, were not finite or too large: lower \
                     optimizer.learning_rate or reduce.fraction_bits (now {}), raise schedule.warmup, or look for \
                     broken samples in data.paths",
                    self.context.config.reduce.fraction_bits
                ),
            });
        }
        Ok(())
    }

    /// Losses and accuracies of the global batch.
    fn metrics(&self, outcome: &Outcome, agreement: &Agreement) -> Vec<(String, f64)> {
        let mut metrics = Vec::with_capacity(8);
        let mut push = |name: &str, value: f64| metrics.push((format!("train/{name}"), value));
        let main = agreement.targets.main.max(1) as f64;
        let next = agreement.targets.next_sentence.max(1) as f64;
        let (main_loss, next_loss) = (outcome.main_loss / main, outcome.next_sentence_loss / next);
        // The loss of a step that overflowed may hold only a part of the batch.
        if !outcome.overflowed {
            push("loss", main_loss + next_loss);
        }
        if self.context.config.objective.kind.is_supervised() {
            if !self.context.config.objective.regression {
                push("accuracy", outcome.main_correct as f64 / main);
            }
            return metrics;
        }
        push("mlm_accuracy", outcome.main_correct as f64 / main);
        if !outcome.overflowed {
            push("mlm_loss", main_loss);
        }
        if agreement.targets.next_sentence > 0 {
            push("nsp_accuracy", outcome.next_sentence_correct as f64 / next);
            if !outcome.overflowed {
                push("nsp_loss", next_loss);
            }
        }
        metrics
    }
}

/// Whether something that happens every `every` steps (0: never) happens after `step`.
pub(crate) fn due(step: Step, every: u64) -> bool {
    every > 0 && step.0 > 0 && step.0.is_multiple_of(every)
}
