//! Which run gets workers: the queue, admission and growth.
//!
//! First come, first served, and strictly: the head of the queue is never overtaken by a run that needs fewer workers,
//! so that a large run gets its turn. Interrupted runs come first.

use crate::run::{Ahead, Run, Seat, Stage};
use crate::worker::{Worker, workers};
use crate::{CheckpointAt, Control, Effect, Record, Refusal, RunRecord, RunSpec, RunStatus};
use types::{RunId, Step, WorkerId};

impl Control {
    /// Whether a run of this id can be submitted.
    pub fn check_submit(&self, run: &RunId) -> Result<(), Refusal> {
        if self.runs.contains_key(run) { Err(Refusal::Exists(run.clone())) } else { Ok(()) }
    }

    /// Whether a run can be resumed.
    pub fn check_resume(&self, run: &RunId) -> Result<(), Refusal> {
        let record = self.run(run).ok_or_else(|| Refusal::NoSuchRun(run.clone()))?;
        match record.status {
            RunStatus::Failed | RunStatus::Cancelled | RunStatus::Interrupted => Ok(()),
            _ if record.cancelling => Err(Refusal::Cancelling(run.clone())),
            status => Err(Refusal::NotResumable { run: run.clone(), status }),
        }
    }

    pub(crate) fn submit(&mut self, id: RunId, spec: RunSpec) {
        if self.check_submit(&id).is_err() {
            return;
        }
        let record = RunRecord::new(id.clone(), spec, self.take_place());
        self.runs.insert(id.clone(), Run::new(record));
        self.persist(&id);
    }

    pub(crate) fn resume(&mut self, id: &RunId) {
        // An interrupted run goes on by itself, and sooner than a queued one would.
        if self.check_resume(id).is_err() || self.runs[id].record.status == RunStatus::Interrupted {
            return;
        }
        let place = self.take_place();
        let run = self.run_mut(id);
        let record = &mut run.record;
        (record.status, record.reason, record.place, record.restarts) = (RunStatus::Queued, None, place, 0);
        record.diverged_at = None;
        (run.stage, run.fruitless, run.finished) = (Stage::Waiting, 0, None);
        self.persist(id);
        self.note(id, "resumed: waits for workers".to_owned());
    }

    /// Why a run that waits still waits, for people.
    pub fn waiting_for(&self, id: &RunId) -> Option<String> {
        let run = self.runs.get(id).filter(|run| run.is_waiting())?;
        let ahead = self.queue().into_iter().take_while(|other| other != id).count();
        if ahead > 0 {
            let are = if ahead == 1 { "run is" } else { "runs are" };
            return Some(format!("{ahead} {are} ahead of it in the queue"));
        }
        let there = run.seats.len() + self.idle().count();
        let are = if there == 1 { "is" } else { "are" };
        Some(format!("it needs {} and {there} {are} free", workers(run.need())))
    }

    /// Lets the runs at the head of the queue start while there are enough workers for them.
    pub(crate) fn admit(&mut self) {
        while let Some(id) = self.queue().into_iter().next() {
            let run = &self.runs[&id];
            if run.stage == Stage::Restoring || !self.gather_for(&id) {
                return;
            }
            let run = &self.runs[&id];
            if !run.seats.is_empty() || run.record.step == Step(0) {
                let joiners = self.joiners(&id);
                self.form(&id, &joiners);
            } else {
                let at_most = run.restorable();
                self.run_mut(&id).stage = Stage::Restoring;
                self.emit(Effect::FindRestore { run: id, at_most });
                return;
            }
        }
    }

    /// The shell found a checkpoint for the run at the head of the queue, or that there is none.
    pub(crate) fn restore_found(&mut self, id: &RunId, at: Option<CheckpointAt>) {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.stage == Stage::Restoring) else { return };
        run.touch();
        run.stage = Stage::Waiting;
        if at.is_some_and(|at| at.step > run.restorable()) {
            return self
                .fail(id, "the checkpoint to restore is later than the last step that is to be trusted".to_owned());
        }
        // A member that came back with the state is better than any checkpoint; too few workers, and it waits again.
        if !run.seats.is_empty() || !self.gather_for(id) {
            return;
        }
        let run = self.run_mut(id);
        let from_step = at.map_or(Step(0), |at| at.step);
        let attempt = run.record.attempt.next();
        run.record.begin_attempt(attempt, from_step);
        run.find_places();
        run.record.restore = at;
        run.digests.clear();
        run.ahead = Ahead::default();
        (run.early_checkpoint, run.older_checkpoint) = (None, None);
        run.lineage = run.record.generation.next();
        self.emit(Effect::Persist(Record::Attempt { run: id.clone(), attempt, from_step }));
        self.note(
            id,
            match at {
                Some(at) => format!("attempt {attempt} goes on from the checkpoint at step {}", at.step),
                None => format!("attempt {attempt} starts again: there is no good checkpoint"),
            },
        );
        let joiners = self.joiners(id);
        self.form(id, &joiners);
    }

    /// Idle workers that may join a run which has workers already. The queue goes first.
    pub(crate) fn may_join(&self, id: &RunId) -> Vec<WorkerId> {
        if self.queue().is_empty() { self.joiners(id) } else { Vec::new() }
    }

    /// Idle workers that a run has room for.
    fn joiners(&self, id: &RunId) -> Vec<WorkerId> {
        let run = &self.runs[id];
        let room = run.capacity().saturating_sub(run.seats.len());
        if room == 0 { Vec::new() } else { self.idle().take(room).cloned().collect() }
    }

    /// Whether there are enough workers for this waiting run, after taking those that later waiting runs hold back.
    fn gather_for(&mut self, id: &RunId) -> bool {
        let run = &self.runs[id];
        let mut missing = run.need().saturating_sub(run.seats.len() + self.idle().count());
        let others: Vec<RunId> = self.queue().into_iter().rev().take_while(|other| other != id).collect();
        let resting = self.workers.values().filter(|worker| worker.is_idle()).count() - self.idle().count();
        if others.iter().map(|other| self.spare(other).count()).sum::<usize>() + resting < missing {
            return false;
        }
        missing -= self.wake(missing);
        // Two interrupted runs that hold one worker each would wait for each other for ever.
        for other in others {
            for worker in self.spare(&other).take(missing).cloned().collect::<Vec<_>>() {
                self.release_seat(&other, &worker);
                self.note(&other, format!("{worker} went to run {id}, which is ahead in the queue"));
                missing -= 1;
            }
        }
        true
    }

    /// Workers that rest are better than none: so many of them may work again, those first who rest the shortest.
    fn wake(&mut self, wanted: usize) -> usize {
        let now = self.now;
        let rests = |worker: &&mut Worker| worker.is_idle() && worker.rests_until.is_some_and(|until| now < until);
        let mut resting: Vec<&mut Worker> = self.workers.values_mut().filter(rests).collect();
        resting.sort_by_key(|worker| worker.rests_until);
        let woken = resting.into_iter().take(wanted).map(|worker| worker.rests_until = None);
        woken.count()
    }

    /// Those who sit in a waiting run and could work for another. A seat may be left whose trainer is just gone.
    fn spare(&self, id: &RunId) -> impl Iterator<Item = &WorkerId> {
        let can_work = |worker: &Worker| worker.session.is_some() && worker.ready && !worker.leaving;
        self.runs[id].seats.keys().filter(move |worker| can_work(&self.workers[*worker]))
    }

    /// The runs that wait, in order.
    fn queue(&self) -> Vec<RunId> {
        let mut waiting: Vec<&RunRecord> =
            self.runs.values().filter(|run| run.is_waiting()).map(|run| &run.record).collect();
        waiting.sort_by_key(|record| (record.status != RunStatus::Interrupted, record.place));
        waiting.into_iter().map(|record| record.id.clone()).collect()
    }

    fn idle(&self) -> impl Iterator<Item = &WorkerId> {
        let rests = |worker: &Worker| worker.rests_until.is_some_and(|until| self.now < until);
        self.workers.iter().filter(move |(_, worker)| worker.is_idle() && !rests(worker)).map(|(id, _)| id)
    }

    fn take_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place - 1
    }

    /// Members of a run that was running when a former process ended: all are away and may come back.
    pub(crate) fn expect_members(&mut self, id: &RunId) {
        let until = self.now + self.settings.restart_grace;
        let run = self.runs.get_mut(id).expect("just inserted");
        run.touch();
        run.stage = Stage::Training;
        // Whether its last checkpoint was lost is not remembered: members that have finished save it again if it is
        // not there.
        run.saves_again = true;
        run.pace.begin(self.now);
        for member in &run.record.members {
            run.seats.insert(member.worker.clone(), Seat { away: Some(until), ..Seat::holding() });
            self.workers.insert(member.worker.clone(), Worker::remembered(id.clone(), self.now));
        }
    }
}
