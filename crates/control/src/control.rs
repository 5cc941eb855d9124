//! The state machine's surface: what comes in, what goes out, and the order in which things are looked at.

use crate::planted::PlantedBug;
use crate::run::{Report, Run, Stage};
use crate::watch::Beat;
use crate::worker::Worker;
use crate::{Directive, Effect, Event, Millis, Record, RunRecord, RunStatus, Settings};
use std::collections::{BTreeMap, VecDeque};
use types::{Generation, RunId, WorkerId};

/// The coordinator's decisions. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Control {
    pub(crate) settings: Settings,
    pub(crate) now: Millis,
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) next_place: u64,
    pub(crate) refused: u64,
    /// When something is due without anything happening; heartbeats only put it off, and are so many that they do not
    /// change it.
    due: Option<Millis>,
    effects: VecDeque<Effect>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<PlantedBug>,
}

impl Control {
    /// A coordinator that knows no run and no worker.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Millis(0),
            runs: BTreeMap::new(),
            workers: BTreeMap::new(),
            next_place: 0,
            refused: 0,
            due: None,
            effects: VecDeque::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// Takes over the runs of a former process, once, before anything is handled. Members of running runs have a
    /// longer grace to come back.
    pub fn restore(&mut self, now: Millis, runs: Vec<RunRecord>) {
        self.now = now;
        for mut record in runs {
            if self.has(PlantedBug::GenerationRestarts) {
                record.generation = Generation(0);
            }
            self.next_place = self.next_place.max(record.place + 1);
            let id = record.id.clone();
            let status = record.status;
            self.runs.insert(id.clone(), Run::new(record));
            if status == RunStatus::Running {
                self.expect_members(&id);
            } else if status.has_ended() {
                self.run_mut(&id).stage = Stage::Ended;
            }
        }
        self.due = self.next_due();
    }

    /// Something happened at `now`. Time that goes back is taken to stand still.
    pub fn handle(&mut self, now: Millis, event: Event) {
        self.advance(now);
        if let Some((worker, ago)) = event.speaker() {
            self.hear(worker, ago);
        }
        match event {
            Event::Submit { run, spec } => self.submit(run, spec),
            Event::Cancel { run } => self.cancel(&run),
            Event::Resume { run } => self.resume(&run),
            Event::CheckpointWanted { run } => self.checkpoint_wanted(&run),
            Event::WorkerConnected { worker, session, facts, holding, ready } => {
                self.connected(worker, session, facts, holding, ready);
            }
            Event::WorkerDisconnected { worker, session } => self.disconnected(&worker, session),
            Event::WorkerLeaving { worker } => self.leaving(&worker),
            Event::TrainerReady { worker } => self.trainer_ready(&worker),
            Event::Heartbeat { worker, run, generation, step, phase, collective, since_progress_ms, .. } => {
                let beat = Beat { step, phase, collective, quiet: Millis(since_progress_ms), at: self.now };
                // There are many of them: nothing else is looked at unless it matters.
                let acts = self.heartbeat(&worker, &run, generation, beat);
                if !acts && self.due.is_none_or(|due| due > self.now) {
                    return;
                }
            }
            Event::Progress { worker, run, generation, step, segments, samples_digest, tokens, seconds } => {
                let report = Report { generation, segments, samples_digest, computed_ms: 1000.0 * seconds };
                self.progress(&worker, &run, generation, step, report, tokens);
            }
            Event::StepFailed { worker, run, generation, step, error } => {
                self.step_failed(&worker, &run, generation, step, &error);
            }
            Event::Paused { worker, run, generation, step } => self.paused(&worker, &run, generation, step),
            Event::Finished { worker, run, generation, step, weights_digest } => {
                self.finished(&worker, &run, generation, step, weights_digest);
            }
            Event::TrainerExited { worker, run, generation, cause, last_lines } => {
                self.trainer_exited(&worker, run.as_ref(), generation, &cause, &last_lines);
            }
            Event::RunFailed { worker, run, generation, reason } => {
                self.run_failed(&worker, &run, generation, &reason);
            }
            Event::Diverged { worker, run, generation, step, kind, reason } => {
                self.diverged(&worker, &run, (generation, step), kind, &reason);
            }
            Event::CheckpointCommitted { run, at } => self.checkpoint_committed(&run, at),
            Event::CheckpointLost { run, at } => self.checkpoint_lost(&run, at),
            Event::RestoreFound { run, at } => self.restore_found(&run, at),
        }
        self.settle();
    }

    /// Nothing happened, but [`Control::poll_timeout`] is due.
    pub fn handle_timeout(&mut self, now: Millis) {
        self.advance(now);
        self.settle();
    }

    /// When [`Control::handle_timeout`] has to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.due
    }

    fn next_due(&self) -> Option<Millis> {
        let looks = self.runs.keys().filter_map(|id| self.look_due(id));
        let rests = self.workers.values().filter_map(|worker| worker.rests_until).filter(|until| *until > self.now);
        let ends = self.runs.keys().filter_map(|id| self.end_due(id));
        self.runs.values().filter_map(Run::deadline).chain(looks).chain(rests).chain(ends).min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A run's record.
    pub fn run(&self, id: &RunId) -> Option<&RunRecord> {
        self.runs.get(id).map(|run| &run.record)
    }

    /// All runs, in the order of their ids.
    pub fn runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs.values().map(|run| &run.record)
    }

    /// All workers that are connected or expected back, in the order of their names.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    /// How many reports came from a generation that was over.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether calls that name this generation may have an effect; if not, the shell refuses them (fencing).
    pub fn is_current(&self, run: &RunId, generation: Generation) -> bool {
        generation.0 > 0 && self.runs.get(run).is_some_and(|run| run.record.generation == generation)
    }

    /// Everything that follows from the present state and time.
    fn settle(&mut self) {
        let under_way = self.runs.iter().filter(|(_, run)| run.stage != Stage::Ended);
        for id in under_way.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.expire(&id);
            self.look(&id);
            self.conclude(&id);
        }
        self.admit();
        self.ask_members();
        self.due = self.next_due();
    }

    pub(crate) fn run_mut(&mut self, id: &RunId) -> &mut Run {
        self.runs.get_mut(id).expect("runs are never forgotten")
    }

    pub(crate) fn send(&mut self, worker: &WorkerId, directive: Directive) {
        self.effects.push_back(Effect::Send { worker: worker.clone(), directive });
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn persist(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let restore = run.early_checkpoint.or(run.record.restore);
        let record = RunRecord { restore, ..run.record.clone() };
        self.emit(Effect::Persist(Record::Run(record)));
    }

    pub(crate) fn note(&mut self, id: &RunId, text: String) {
        self.emit(Effect::Persist(Record::Note { run: id.clone(), text }));
    }
}
