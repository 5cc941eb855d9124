//! The trainer's surroundings within a worker: reports go to the agent, checkpoints to the coordinator.

use crate::downloads;
use crate::training::current::{Current, Key};
use crate::training::remote::{Remote, reading};
use crate::training::reporter::Reporter;
use crate::training::uploads::Uploads;
use proto::v1;
use proto::v1::worker_message::Kind;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;
use trainer::{Capture, CheckpointFiles, Host, Phase, Requests, StepReport};

/// For one assignment.
pub struct RunHost<'a> {
    /// Which.
    pub key: &'a Key,
    /// Where the coordinator's wishes arrive.
    pub current: &'a Current,
    /// The way to the agent.
    pub reporter: &'a Reporter,
    /// The way to the checkpoints.
    pub uploads: &'a Uploads,
    /// The coordinator.
    pub remote: &'a Remote,
    /// Ends with the assignment.
    pub over: CancellationToken,
    /// Where the state comes from if nobody holds any.
    pub restore: Option<v1::CheckpointRef>,
    /// Where the encoder comes from.
    pub parent: Option<v1::CheckpointRef>,
}

impl RunHost<'_> {
    fn download(&self, from: &v1::CheckpointRef, wanted: fn(&str) -> bool) -> Result<CheckpointFiles, String> {
        let v1::CheckpointRef { run, step, .. } = from;
        tracing::info!(run, step, "reading a checkpoint");
        // Also a new try: a coordinator that is away does not make us hang.
        let call = || downloads::checkpoint(&self.remote.coordinator, from, wanted, || self.reporter.transferred());
        self.remote
            .persist_through(&self.over, "checkpoint download", reading, call)
            .map(|files| CheckpointFiles { files })
            .map_err(|failure| format!("the checkpoint of run {run} at step {step} cannot be read: {failure}"))
    }
}

impl Host for RunHost<'_> {
    fn requests(&self) -> Requests {
        self.current.requests(self.key)
    }

    fn phase(&self, phase: Phase) {
        let phase = match phase {
            Phase::Restore => v1::Phase::Restore,
            Phase::Data => v1::Phase::Data,
            Phase::Compute => v1::Phase::Compute,
            Phase::Reduce => v1::Phase::Reduce,
            Phase::Update => v1::Phase::Update,
            Phase::Evaluate => v1::Phase::Evaluate,
            Phase::Checkpoint => v1::Phase::Checkpoint,
        };
        self.reporter.phase(phase);
    }

    fn moved(&self) {
        self.reporter.moved();
    }

    fn progress(&self, report: StepReport) {
        let StepReport { step, segments, samples_digest, metrics, tokens, seconds } = report;
        let time_ms = now_ms();
        let metrics = metrics.into_iter();
        let metrics =
            metrics.map(|(key, value)| v1::Metric { attempt: 0, step: step.0, key, value, time_ms }).collect();
        self.reporter.step(step.0);
        self.reporter.send(Kind::Progress(v1::Progress {
            run: self.key.run.clone(),
            generation: self.key.generation,
            step: step.0,
            segments: segments.into_iter().map(Into::into).collect(),
            samples_digest: samples_digest.0.to_vec(),
            metrics,
            tokens,
            seconds,
        }));
    }

    fn checkpoint(&self, capture: Capture) {
        self.current.checkpoint_made(self.key);
        self.uploads.add(self.key.run.clone(), capture, &self.over);
    }

    fn wait_for_checkpoints(&self) -> Result<(), String> {
        self.uploads.finish(&self.over)
    }

    fn restore(&self) -> Result<Option<CheckpointFiles>, String> {
        self.restore.as_ref().map(|from| self.download(from, |_| true)).transpose()
    }

    fn parent(&self) -> Result<CheckpointFiles, String> {
        match &self.parent {
            Some(from) => self.download(from, |name| !name.starts_with("optimizer-")),
            None => Err("the config names another run, but the assignment names no checkpoint of it".to_owned()),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
