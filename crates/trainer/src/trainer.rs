//! The trainer of one run: what it keeps between generations, and the way through one generation.

use crate::capture::Measured;
use crate::evaluate::HeldOut;
use crate::host::{Host, Membership, Outcome, Phase, StepReport};
use crate::initial::{self, Recipe};
use crate::state::State;
use crate::step::{Context, Done, Stepper, due};
use crate::teacher::Teacher;
use crate::{TrainError, objective, sync, verify};
use c10d::ProcessGroup;
use config::CheckedConfig;
use corpus::{Corpus, Loader, Tokenizer};
use model::{Model, safetensors_io};
use std::sync::Arc;
use tch::Device;
use types::{Digest, Step};

/// Sets how many threads libtorch uses inside one operation, for the whole process. In `exact` mode the weights are
/// bit-identical only between workers that use the same number.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(threads.max(1) as i32);
}

/// Has every operator of this process give the same bits each time: on a GPU some do not by themselves.
pub fn use_deterministic_algorithms() -> Result<(), TrainError> {
    kernels::deterministic_algorithms().map_err(|error| TrainError::fatal(error.to_string()))
}

/// Trains one run. It holds the run's state from its first generation on, until it is dropped.
pub struct Trainer {
    config: CheckedConfig,
    config_digest: Digest,
    tokenizer: Arc<Tokenizer>,
    labels: Vec<String>,
    device: Device,
    loader: Loader,
    held_out: Option<HeldOut>,
    held: Option<State>,
    /// Read in the first generation.
    teacher: Option<Teacher>,
    /// The held state's step is due for evaluation, but the collective for it failed.
    unevaluated: Option<StepReport>,
}

impl Trainer {
    /// Checks everything that can be decided before the first step; an error names the key and the fix.
    pub fn new(
        config: CheckedConfig,
        corpus: Arc<Corpus>,
        tokenizer: Arc<Tokenizer>,
        device: Device,
    ) -> Result<Self, TrainError> {
        let labels = corpus.labels().to_vec();
        initial::check(&config, &tokenizer, &labels)?;
        let config_digest = Digest::blake3(config::to_toml(&config).as_bytes());
        let loader = Loader::new(corpus.clone(), tokenizer.clone(), &config);
        let held_out = if corpus.plan().eval_units().is_empty() {
            tracing::warn!(
                run = %config.run.name,
                "nothing is held out, so nothing is evaluated: set data.eval_paths or a larger data.eval_fraction"
            );
            None
        } else {
            Some(HeldOut::new(&config, &labels))
        };
        Ok(Self {
            config,
            config_digest,
            tokenizer,
            labels,
            device,
            loader,
            held_out,
            held: None,
            teacher: None,
            unevaluated: None,
        })
    }

    /// The run's config.
    pub fn config(&self) -> &CheckedConfig {
        &self.config
    }

    /// Steps done by the state that is held; `None` if none is.
    pub fn step(&self) -> Option<Step> {
        self.held.as_ref().map(|state| state.header.step)
    }

    /// The model that is held, between two generations, with the weights that training goes on from.
    pub fn model(&self) -> Option<&Model> {
        self.held.as_ref().map(|state| &state.model)
    }

    /// Takes part in one generation, until the run is done, a pause was agreed, or something failed. After a
    /// [`TrainError::Collective`] the state is that after `step`, and `run` may be called again in a new generation.
    ///
    /// # Panics
    /// Where libtorch fails in a way that only a new process can mend (out of memory, a device fault).
    pub fn run(
        &mut self,
        membership: &Membership,
        group: &ProcessGroup,
        host: &dyn Host,
    ) -> Result<Outcome, TrainError> {
        self.check_membership(membership, group)?;
        host.phase(Phase::Restore);
        if self.teacher.is_none() {
            self.teacher = Teacher::load(&self.config, &self.tokenizer, host, self.device)?;
        }
        if let Some(teacher) = &self.teacher {
            teacher.compare(group)?;
        }
        let recipe = Recipe {
            teacher: self.teacher.as_ref(),
            config: &self.config,
            config_digest: self.config_digest,
            tokenizer: &self.tokenizer,
            labels: &self.labels,
            device: self.device,
            attempt: membership.attempt,
        };
        let before = self.held.as_ref().map(|state| (state.header.attempt, state.header.step));
        sync::synchronise(&mut self.held, &recipe, membership, group, host)?;
        let mut state =
            self.held.take().ok_or_else(|| TrainError::fatal("no state after all members agreed on one"))?;
        if before != Some((state.header.attempt, state.header.step)) {
            self.unevaluated = None;
        }
        // Taken out like the state, since what follows changes the rest of the trainer.
        let teacher = self.teacher.take();
        let outcome = self.go_on(&mut state, teacher.as_ref(), membership, group, host);
        self.teacher = teacher;
        self.held = Some(state);
        outcome
    }

    fn check_membership(&self, membership: &Membership, group: &ProcessGroup) -> Result<(), TrainError> {
        let slots = self.config.batch.slots;
        let fits = membership.rank.0 == group.rank()
            && membership.world.0 == group.world()
            && !membership.slots.is_empty()
            && membership.slots.windows(2).all(|pair| pair[0] < pair[1])
            && membership.slots.iter().all(|slot| slot.0 < slots);
        if fits {
            return Ok(());
        }
        Err(TrainError::fatal(format!(
            "the assignment (rank {} of {}, slots {:?}) does not fit a group of rank {} of {} and {slots} slots",
            membership.rank,
            membership.world,
            membership.slots,
            group.rank(),
            group.world()
        )))
    }

    /// From the state that all members hold to the end, a pause, or an error.
    fn go_on(
        &mut self,
        state: &mut State,
        teacher: Option<&Teacher>,
        membership: &Membership,
        group: &ProcessGroup,
        host: &dyn Host,
    ) -> Result<Outcome, TrainError> {
        let total = self.config.run.steps;
        let again = self.evaluate_again(state, teacher, group, host)?;
        let mut measured = match &again {
            Some(metrics) => self.take_in(state, Some(metrics)),
            None => state.header.known(),
        };
        let mut captured = None;
        // The failure came between that step's evaluation and its checkpoint.
        if again.is_some() && due(state.header.step, self.config.checkpoint.every_steps) {
            self.capture(state, membership, host, measured);
            captured = Some(state.header.step);
        }
        let cursors: Vec<_> =
            membership.slots.iter().map(|&slot| (slot, state.header.cursors[slot.0 as usize])).collect();
        self.loader.assign(&cursors);
        let config = self.config.clone();
        let losses = objective::losses(&config);
        let context =
            Context { config: &config, losses: &losses, teacher, membership, group, host, device: self.device };
        let mut stepper = Stepper { context, reduction: None, broken: false };
        while !self.is_over(state) {
            let Done { mut report, checkpoint, pause } = stepper.step(state, &mut self.loader)?;
            let step = state.header.step;
            let last = step.0 >= total;
            let evaluates = last || due(step, self.config.eval.every_steps);
            let captures = last || checkpoint || due(step, self.config.checkpoint.every_steps);
            let mut checked = Ok(Vec::new());
            if captures || due(step, self.config.recovery.verify_every) {
                checked = self.verify(state, group, host).map(|()| Vec::new());
            }
            if evaluates && checked.is_ok() {
                checked = self.evaluate(state, teacher, group, host);
            }
            match checked {
                Ok(metrics) => {
                    measured = self.take_in(state, evaluates.then_some(metrics.as_slice()));
                    report.metrics.extend(metrics);
                }
                Err(error) => {
                    // The step itself was applied, and must be reported by whoever survives.
                    host.progress(report.clone());
                    self.unevaluated =
                        evaluates.then_some(StepReport { metrics: Vec::new(), tokens: 0, seconds: 0.0, ..report });
                    return Err(error);
                }
            }
            host.progress(report);
            if self.is_over(state) && state.header.updates == 0 {
                return Err(stepper.diverged(&state.header, step));
            }
            if captures {
                self.capture(state, membership, host, measured);
                captured = Some(step);
            }
            if pause && !self.is_over(state) {
                host.phase(Phase::Checkpoint);
                if let Err(error) = host.wait_for_checkpoints() {
                    tracing::error!(run = %membership.run, step = step.0, error, "a checkpoint could not be stored");
                }
                return Ok(Outcome::Paused { step });
            }
        }
        let step = state.header.step;
        if captured != Some(step) {
            self.verify(state, group, host)?;
            self.capture(state, membership, host, measured);
        }
        host.phase(Phase::Checkpoint);
        host.wait_for_checkpoints()
            .map_err(|error| TrainError::fatal(format!("the last checkpoint could not be stored: {error}")))?;
        let weights_digest = safetensors_io::digest(state.weights().iter().map(|(_, tensor)| tensor))
            .map_err(|error| TrainError::fatal(error.to_string()))?;
        Ok(Outcome::Finished { step, weights_digest })
    }

    /// Where the evaluation of the present step failed on any member in the last generation, all do it again. Whoever
    /// has the report of that step sends it once more, with the numbers. None: there was nothing to do again.
    fn evaluate_again(
        &mut self,
        state: &State,
        teacher: Option<&Teacher>,
        group: &ProcessGroup,
        host: &dyn Host,
    ) -> Result<Option<Vec<(String, f64)>>, TrainError> {
        let step = state.header.step;
        let last = step.0 >= self.config.run.steps;
        if self.held_out.is_none() || !(last || due(step, self.config.eval.every_steps)) {
            return Ok(None);
        }
        let wanted = group
            .all_gather_i64(i64::from(self.unevaluated.is_some()))
            .map_err(|error| TrainError::collective(Some(step), error))?;
        if wanted.iter().all(|&wanted| wanted == 0) {
            return Ok(None);
        }
        // Of the checkpoint that follows. Nothing may fail between what is remembered of this and that.
        if due(step, self.config.checkpoint.every_steps) {
            self.verify(state, group, host)?;
        }
        let metrics = self.evaluate(state, teacher, group, host)?;
        if let Some(report) = self.unevaluated.take() {
            host.progress(StepReport { metrics: metrics.clone(), ..report });
        }
        Ok(Some(metrics))
    }

    /// Whether the members still hold one state, where the config wants that to be known.
    fn verify(&self, state: &State, group: &ProcessGroup, host: &dyn Host) -> Result<(), TrainError> {
        if self.config.recovery.verify_every == 0 {
            return Ok(());
        }
        verify::compare(state, group, host)
    }

    /// `eval/…`; nothing if nothing is held out.
    fn evaluate(
        &mut self,
        state: &State,
        teacher: Option<&Teacher>,
        group: &ProcessGroup,
        host: &dyn Host,
    ) -> Result<Vec<(String, f64)>, TrainError> {
        let Some(held_out) = &mut self.held_out else { return Ok(Vec::new()) };
        host.phase(Phase::Evaluate);
        held_out.evaluate(state, teacher, &self.loader, group, host, self.device)
    }

    /// What an evaluation of the present step says of the model; and it counts for early stopping.
    fn take_in(&self, state: &mut State, metrics: Option<&[(String, f64)]>) -> Measured {
        let eval = &self.config.eval;
        let Some(metrics) = metrics.filter(|_| self.held_out.is_some()) else { return Measured::default() };
        let find = |wanted: &str| {
            let found = metrics.iter().find(|(name, _)| name.strip_prefix("eval/") == Some(wanted));
            found.map(|(_, value)| *value)
        };
        let measured = Measured { loss: find("loss"), score: find(&eval.best_metric) };
        if let Some(patience) = eval.patience {
            let step = state.header.step;
            let evaluated = state.header.evaluated.get_or_insert_default();
            evaluated.add(eval, step, measured.score);
            if evaluated.is_over(eval) && step.0 < self.config.run.steps {
                tracing::info!(
                    run = %self.config.run.name, step = step.0, metric = eval.best_metric, patience,
                    best = evaluated.best(), best_step = evaluated.best_step.0, "stops early"
                );
            }
        }
        state.header.measured = Some((state.header.step, measured));
        measured
    }

    /// All steps are done, or nothing better is expected.
    fn is_over(&self, state: &State) -> bool {
        let stops = state.header.evaluated.is_some_and(|evaluated| evaluated.is_over(&self.config.eval));
        stops || state.header.step.0 >= self.config.run.steps
    }

    fn capture(&self, state: &State, membership: &Membership, host: &dyn Host, measured: Measured) {
        host.phase(Phase::Checkpoint);
        host.checkpoint(state.capture(membership, &self.tokenizer, self.is_over(state), measured));
    }
}
