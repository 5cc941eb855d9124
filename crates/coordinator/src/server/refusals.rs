//! What was refused because it came from a generation that is over (fencing), counted by kind, for people.
//!
//! Refusing is done where the call comes in; here it is only counted, and told once for each kind and generation.

use super::clock::Clock;
use super::driver::Command;
use control::{Control, Event};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::{Change, EventRow};
use tokio::sync::mpsc;
use types::{Generation, RunId, WorkerId};

/// So many generations' refusals are remembered as told.
const TOLD_MAX: usize = 1024;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To commit a step.
    Commit,
    /// To log its metrics.
    Metrics,
    /// To say anything else of the run.
    Report,
    /// To meet others.
    Rendezvous,
    /// To write to a checkpoint.
    Upload,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Commit, Self::Metrics, Self::Report, Self::Rendezvous, Self::Upload];

    fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Metrics => "metrics",
            Self::Report => "report",
            Self::Rendezvous => "rendezvous",
            Self::Upload => "upload",
        }
    }
}

/// What a worker's report would have had an effect on.
#[derive(Debug)]
pub struct Claim {
    worker: WorkerId,
    run: RunId,
    generation: Generation,
    kind: Kind,
    with_metrics: bool,
}

impl Claim {
    /// `None` for what is never refused.
    pub fn of(event: &Event, metrics: &[v1::Metric]) -> Option<Self> {
        let (worker, run, generation, kind) = match event {
            Event::Progress { worker, run, generation, .. } => (worker, run, generation, Kind::Commit),
            Event::StepFailed { worker, run, generation, .. }
            | Event::Paused { worker, run, generation, .. }
            | Event::Finished { worker, run, generation, .. }
            | Event::Diverged { worker, run, generation, .. }
            | Event::RunFailed { worker, run, generation, .. } => (worker, run, generation, Kind::Report),
            _ => return None,
        };
        let (worker, run, generation) = (worker.clone(), run.clone(), *generation);
        Some(Self { worker, run, generation, kind, with_metrics: !metrics.is_empty() })
    }

    /// Whether its generation is the run's present one.
    pub fn is_current(&self, control: &Control) -> bool {
        control.is_current(&self.run, self.generation)
    }
}

#[derive(Debug, Default)]
struct OfRun {
    counts: BTreeMap<Kind, u64>,
    told: BTreeSet<(Generation, Kind)>,
}

/// Of all runs, since this process started.
#[derive(Debug)]
pub struct Refusals {
    runs: Mutex<BTreeMap<RunId, OfRun>>,
    events: mpsc::Sender<Command>,
}

impl Refusals {
    /// Nothing refused yet.
    pub fn new(events: mpsc::Sender<Command>) -> Self {
        Self { runs: Mutex::default(), events }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, OfRun>> {
        // A count is whole at any time.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is such a run. What names another one is nobody's refusal.
    pub fn know(&self, run: &RunId) {
        self.lock().entry(run.clone()).or_default();
    }

    /// Counts, and tells it in the run's events the first time.
    pub fn count(&self, run: &RunId, generation: Generation, kind: Kind, worker: &str) {
        let mut runs = self.lock();
        let Some(of_run) = runs.get_mut(run) else { return };
        *of_run.counts.entry(kind).or_default() += 1;
        // What else a worker says of a generation that has just ended is no news: it cannot know yet.
        if kind == Kind::Report || !of_run.told.insert((generation, kind)) {
            return;
        }
        if of_run.told.len() > TOLD_MAX {
            of_run.told.pop_first();
        }
        drop(runs);
        let what = kind.as_str();
        tracing::warn!(run = %run, generation = generation.0, worker, what, "refused: the generation is over");
        let text = format!("refused {worker}: {what} of generation {generation}, which is over");
        let event = Change::Event(EventRow { run: run.clone(), time_ms: Clock::wall_ms(), text });
        // An event more or less must not hold up anybody.
        let _ = self.events.try_send(Command::Write { changes: vec![event] });
    }

    /// Counts a report, and the metrics that came with it.
    pub fn count_report(&self, claim: Option<Claim>) {
        let Some(Claim { worker, run, generation, kind, with_metrics }) = claim else { return };
        self.count(&run, generation, kind, worker.as_str());
        if with_metrics {
            self.count(&run, generation, Kind::Metrics, worker.as_str());
        }
    }

    /// All kinds with their counts.
    pub fn of(&self, run: &RunId) -> Vec<(&'static str, u64)> {
        let runs = self.lock();
        let count = |kind| runs.get(run).and_then(|of_run| of_run.counts.get(&kind)).copied().unwrap_or(0);
        Kind::ALL.into_iter().map(|kind| (kind.as_str(), count(kind))).collect()
    }
}
