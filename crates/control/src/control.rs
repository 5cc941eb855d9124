//! The state machine's surface: what comes in, what goes out, and the order in which things are looked at.
//!
//! With thousands of members most of what comes in changes nothing that anything follows from: a heartbeat, the report
//! of a step that is committed, one of many that say where they stopped. Such an event costs a few look-ups. The others
//! have only those runs looked at that were touched or have something due.

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
    /// When something is due without anything happening, or earlier: what nothing follows from may put it off, and
    /// comes too often to change it.
    due: Option<Millis>,
    /// Nothing was concluded yet from what a former process left.
    unsettled: bool,
    /// No worker's rest ends before.
    rested: Option<Millis>,
    /// See [`Control::verify_shortcuts`].
    distrusts: bool,
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
            unsettled: false,
            rested: None,
            distrusts: false,
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
        self.unsettled = true;
    }

    /// Something happened at `now`. Time that goes back is taken to stand still.
    pub fn handle(&mut self, now: Millis, event: Event) {
        self.advance(now);
        if let Some((worker, ago)) = event.speaker() {
            self.hear(worker, ago);
        }
        if self.take(event) || self.unsettled || self.due.is_some_and(|due| due <= self.now) {
            self.settle();
        } else if self.distrusts {
            self.verify();
        }
    }

    /// Notes what happened. False: nothing more can follow from it now, and what is due was put off at most.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Submit { run, spec } => self.submit(run, spec),
            Event::Cancel { run } => self.cancel(&run),
            Event::Resume { run } => self.resume(&run),
            Event::CheckpointWanted { run } => self.checkpoint_wanted(&run),
            Event::WorkerConnected { worker, session, facts, holding, ready } => {
                return self.connected(worker, session, facts, holding, ready);
            }
            Event::WorkerDisconnected { worker, session } => return self.disconnected(&worker, session),
            Event::WorkerLeaving { worker } => self.leaving(&worker),
            Event::TrainerReady { worker } => self.trainer_ready(&worker),
            Event::Heartbeat { worker, run, generation, step, phase, collective, since_progress_ms, .. } => {
                let beat = Beat { step, phase, collective, quiet: Millis(since_progress_ms), at: self.now };
                return self.heartbeat(&worker, &run, generation, beat);
            }
            Event::Progress { worker, run, generation, step, segments, samples_digest, tokens, seconds } => {
                let report = Report { generation, segments, samples_digest, computed_ms: 1000.0 * seconds };
                return self.progress(&worker, &run, generation, step, report, tokens);
            }
            Event::StepFailed { worker, run, generation, step, error } => {
                return self.step_failed(&worker, &run, generation, step, &error);
            }
            Event::Paused { worker, run, generation, step } => return self.paused(&worker, &run, generation, step),
            Event::Finished { worker, run, generation, step, weights_digest } => {
                return self.finished(&worker, &run, generation, step, weights_digest);
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
        true
    }

    /// From now on it makes sure, at the price of looking at everything each time, that what it passes over has no
    /// consequences. For tests.
    pub fn verify_shortcuts(&mut self) {
        self.distrusts = true;
    }

    /// # Panics
    /// Something would follow from the present state and time.
    fn verify(&mut self) {
        let (known, due) = (self.effects.len(), self.due);
        self.touch_all();
        self.settle();
        let decided: Vec<_> = self.effects.range(known..).collect();
        assert!(decided.is_empty(), "it was passed over that {decided:?} follows");
        let is_early = self.due.is_some_and(|at| due.is_none_or(|due| at < due));
        assert!(!is_early, "something is due at {:?}, before {due:?}", self.due);
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

    fn next_due(&mut self) -> Option<Millis> {
        let stale = self.runs.iter().filter(|(_, run)| run.due_is_stale).map(|(id, _)| id.clone());
        for id in stale.collect::<Vec<_>>() {
            let due = self.runs[&id].deadline().into_iter().chain(self.look_due(&id)).chain(self.end_due(&id)).min();
            let run = self.runs.get_mut(&id).expect("runs are never forgotten");
            (run.due, run.due_is_stale) = (due, false);
        }
        if self.rested.is_some_and(|until| until <= self.now) {
            let rests = self.workers.values().filter_map(|worker| worker.rests_until);
            self.rested = rests.filter(|until| *until > self.now).min();
        }
        self.runs.values().filter_map(|run| run.due).chain(self.rested).min()
    }

    /// Something is due then, too.
    pub(crate) fn due_by(&mut self, at: Millis) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A worker rests until then.
    pub(crate) fn rested_by(&mut self, until: Millis) {
        self.rested = Some(self.rested.map_or(until, |rested| rested.min(until)));
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
        self.unsettled = false;
        let is_due = |run: &Run| run.due.is_some_and(|due| due <= self.now);
        let concerned = self.runs.iter().filter(|(_, run)| run.stage != Stage::Ended && (run.touched || is_due(run)));
        for id in concerned.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let run = self.runs.get_mut(&id).expect("runs are never forgotten");
            (run.touched, run.due_is_stale) = (false, true);
            self.expire(&id);
            self.look(&id);
            self.conclude(&id);
        }
        self.admit();
        self.ask_members();
        self.due = self.next_due();
    }

    /// A run that is about to change.
    pub(crate) fn run_mut(&mut self, id: &RunId) -> &mut Run {
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        run.touch();
        run
    }

    /// What changed may concern every run.
    pub(crate) fn touch_all(&mut self) {
        self.runs.values_mut().for_each(Run::touch);
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
