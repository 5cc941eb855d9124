//! One assignment from start to end, on the main thread of the trainer process.

use crate::training::current::{Current, Key};
use crate::training::host::RunHost;
use crate::training::remote::Remote;
use crate::training::rendezvous::RendezvousStore;
use crate::training::reporter::Reporter;
use crate::training::units;
use crate::training::uploads::Uploads;
use c10d::{Backend, GroupError, GroupOptions, ProcessGroup};
use config::{CheckedConfig, ReduceBackend};
use proto::FailureKind;
use proto::v1;
use proto::v1::worker_message::Kind;
use std::sync::Arc;
use std::time::Duration;
use tch::Device;
use trainer::{Divergence, Membership, Outcome, TrainError, Trainer};
use types::{Attempt, Generation, Rank, RunId, SlotId, WorldSize};

/// A backstop only: a peer that dies or hangs is found by the coordinator, whose Abort ends a collective at once. It is
/// long because a peer may rightly be busy: reading a large checkpoint, or waiting for the coordinator to come back. How
/// long the members may take to meet is the rendezvous's own limit.
const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A run that is released has this long to store a checkpoint that is under way; the agent waits longer than that for
/// the process to end.
const FORGET_PATIENCE: Duration = Duration::from_secs(30);

/// What the main thread works with.
pub struct Workplace {
    /// This worker's name.
    pub worker: String,
    /// Where the others reach it.
    pub address: String,
    /// Where tensors live.
    pub device: Device,
    /// The coordinator.
    pub remote: Remote,
    /// The assignment that counts.
    pub current: Arc<Current>,
    /// The way to the agent.
    pub reporter: Arc<Reporter>,
    /// The way to the checkpoints.
    pub uploads: Uploads,
    /// The run whose state is in memory.
    pub held: Option<Held>,
}

/// A run in memory.
pub struct Held {
    run: String,
    trainer: Trainer,
}

/// Why an assignment did not end well.
enum Failed {
    /// Others may go on, and so may we in a new generation.
    Step { step: u64, error: String },
    /// The state is not to be trusted, on any member.
    Diverged { step: u64, kind: Divergence, reason: String },
    /// Something of this worker: only a new process, or nobody here, can mend it.
    Local(String),
    /// The run cannot go on.
    Run(String),
}

impl Workplace {
    /// Drops the run, once its checkpoints are stored or have taken too long, and gives its memory back to the system.
    pub fn forget(&mut self) {
        if let Err(message) = self.uploads.end(FORGET_PATIENCE) {
            tracing::warn!(message, "a checkpoint was not stored");
        }
        if self.held.take().is_some() {
            trainer::return_freed_memory();
        }
        self.reporter.idle();
    }

    /// Takes part in a generation and reports how it ended.
    pub fn work(&mut self, assign: v1::Assign) {
        let key = Key { run: assign.run.clone(), generation: assign.generation };
        if self.current.over(&key).is_cancelled() {
            // Told to give it up before it began; whoever waits for our word on it gets it.
            let error = "the assignment ended before it began".to_owned();
            self.report_failure(&key, Failed::Step { step: self.steps_held(&key), error });
            return;
        }
        if self.held.as_ref().is_some_and(|held| held.run != key.run) {
            self.forget();
        }
        self.uploads.forget_failure();
        self.reporter.begin(&key, self.steps_held(&key));
        let over = self.current.over(&key);
        let result = self.take_part(&key, assign);
        self.current.detach(&key);
        self.reporter.idle();
        let (run, generation) = (key.run.clone(), key.generation);
        match result {
            Ok(Outcome::Paused { step }) => {
                // A pause is planned; its checkpoint must not be lost with the state.
                if let Err(message) = self.uploads.finish(&over) {
                    tracing::warn!(message, "a checkpoint was not stored");
                }
                self.reporter.send(Kind::Paused(v1::Paused { run, generation, step: step.0 }));
            }
            Ok(Outcome::Finished { step, weights_digest }) => {
                let weights_digest = weights_digest.0.to_vec();
                self.reporter.send(Kind::Finished(v1::Finished { run, generation, step: step.0, weights_digest }));
            }
            Err(failed) => self.report_failure(&key, failed),
        }
    }

    /// The agent reports this process's end with its last lines. A worker whose processes all end like this fails the
    /// run in the end; a good one does not suffer from a bad one.
    fn end_process(run: &str, message: &str) -> ! {
        tracing::error!(run, "{message}");
        std::process::exit(1);
    }

    fn report_failure(&self, key: &Key, failed: Failed) {
        let (run, generation) = (key.run.clone(), key.generation);
        self.reporter.send(match failed {
            Failed::Local(message) => Self::end_process(&run, &message),
            Failed::Step { step, error } => Kind::StepFailed(v1::StepFailed { run, generation, step, error }),
            Failed::Diverged { step, kind, reason } => {
                let kind = match kind {
                    Divergence::Skipped => v1::Divergence::Skipped,
                    Divergence::Replicas => v1::Divergence::Replicas,
                };
                Kind::Diverged(v1::Diverged { run, generation, step, reason, kind: kind.into() })
            }
            Failed::Run(reason) => Kind::RunFailed(v1::RunFailed { run, generation, reason }),
        });
    }

    fn steps_held(&self, key: &Key) -> u64 {
        let held = self.held.as_ref().filter(|held| held.run == key.run);
        held.and_then(|held| held.trainer.step()).map_or(0, |step| step.0)
    }

    fn take_part(&mut self, key: &Key, assign: v1::Assign) -> Result<Outcome, Failed> {
        let membership = membership(&assign).map_err(Failed::Run)?;
        if self.held.is_none() {
            self.reporter.phase(v1::Phase::Data);
            let trainer = self.open(key, &assign)?;
            self.held = Some(Held { run: key.run.clone(), trainer });
            self.reporter.phase(v1::Phase::Rendezvous);
        }
        let over = self.current.over(key);
        let asked = self.held.as_ref().expect("opened above").trainer.config().reduce.backend;
        let group = self.meet(key, &membership, asked, over.clone());
        let group = group.map_err(|error| Failed::Step { step: self.steps_held(key), error: error.to_string() })?;
        self.current.attach(key, group.abort_handle());
        self.reporter.met(group.collectives_counter());
        let host = RunHost {
            key,
            current: &self.current,
            reporter: &self.reporter,
            uploads: &self.uploads,
            remote: &self.remote,
            over,
            restore: assign.restore,
            parent: assign.parent,
        };
        let held = self.held.as_mut().expect("opened above");
        match held.trainer.run(&membership, &group, &host) {
            Ok(outcome) => Ok(outcome),
            Err(TrainError::Collective { step, message }) => {
                Err(Failed::Step { step: step.map_or(0, |step| step.0), error: message })
            }
            // What fails because the assignment was taken away says nothing about the run.
            Err(TrainError::Fatal { message } | TrainError::Local { message }) if host.over.is_cancelled() => {
                Err(Failed::Step { step: held.trainer.step().map_or(0, |step| step.0), error: message })
            }
            Err(TrainError::Diverged { step, kind, reason }) => Err(Failed::Diverged { step: step.0, kind, reason }),
            // A new process takes the state from the others.
            Err(TrainError::Corrupted { message } | TrainError::Local { message }) => Err(Failed::Local(message)),
            Err(TrainError::Fatal { message }) => Err(Failed::Run(message)),
        }
    }

    fn open(&self, key: &Key, assign: &v1::Assign) -> Result<Trainer, Failed> {
        let config =
            config::parse("the run's config", &assign.config).and_then(|config| config.check("the run's config"));
        let config: CheckedConfig = config.map_err(|error| Failed::Run(error.to_string()))?;
        let over = self.current.over(key);
        let (corpus, tokenizer) =
            units::open(&self.remote, &self.current, &self.reporter, key, &config).map_err(|failure| {
                if over.is_cancelled() {
                    return Failed::Step { step: 0, error: failure.message };
                }
                match failure.kind {
                    FailureKind::Unavailable | FailureKind::Internal | FailureKind::Timeout | FailureKind::Full => {
                        Failed::Local(failure.message)
                    }
                    _ => Failed::Run(failure.message),
                }
            })?;
        Trainer::new(config, corpus, tokenizer, self.device).map_err(|error| Failed::Run(error.to_string()))
    }

    fn meet(
        &self,
        key: &Key,
        membership: &Membership,
        asked: ReduceBackend,
        over: tokio_util::sync::CancellationToken,
    ) -> Result<ProcessGroup, GroupError> {
        let backend = match (membership.world, self.device, asked) {
            (WorldSize(1), ..) => Backend::Solo,
            (_, Device::Cuda(device), ReduceBackend::Auto) => Backend::Nccl { device },
            _ => Backend::Gloo,
        };
        let store = RendezvousStore::new(self.remote.clone(), key, &self.worker, over);
        let options = GroupOptions {
            rank: membership.rank.0,
            world: membership.world.0,
            timeout: COLLECTIVE_TIMEOUT,
            address: self.address.clone(),
        };
        ProcessGroup::new(backend, Arc::new(store), options)
    }
}

fn membership(assign: &v1::Assign) -> Result<Membership, String> {
    let run: RunId = assign.run.parse().map_err(|error: types::InvalidId| error.to_string())?;
    Ok(Membership {
        run,
        generation: Generation(assign.generation),
        attempt: Attempt(assign.attempt),
        rank: Rank(assign.rank),
        world: WorldSize(assign.world),
        slots: assign.slots.iter().copied().map(SlotId).collect(),
    })
}
