//! How a generation ends: all members stopped, or those who are left have gathered; and how a run ends.

use crate::run::{Ahead, SeatState, Stage};
use crate::worker::workers;
use crate::{CheckpointAt, Control, Millis, Refusal, RunStatus};
use types::{Digest, Generation, RunId, Step, WorkerId};

impl Control {
    /// Whether a run can be cancelled.
    pub fn check_cancel(&self, run: &RunId) -> Result<(), Refusal> {
        let record = self.run(run).ok_or_else(|| Refusal::NoSuchRun(run.clone()))?;
        if record.status.has_ended() {
            Err(Refusal::Ended { run: run.clone(), status: record.status })
        } else if record.cancelling {
            Err(Refusal::Cancelling(run.clone()))
        } else {
            Ok(())
        }
    }

    pub(crate) fn cancel(&mut self, id: &RunId) {
        if self.check_cancel(id).is_err() {
            return;
        }
        if self.runs[id].is_waiting() {
            return self.end(id, RunStatus::Cancelled, None);
        }
        // Its members stop at the next step boundary, with a checkpoint.
        self.run_mut(id).record.cancelling = true;
        self.persist(id);
        self.note(id, "cancelling: stops at the next step".to_owned());
    }

    pub(crate) fn paused(&mut self, worker: &WorkerId, id: &RunId, generation: Generation, step: Step) -> bool {
        if !self.set_state(worker, id, generation, SeatState::Paused(step)) {
            return true;
        }
        self.claim(id, step);
        !self.others_are_awaited(id)
    }

    pub(crate) fn finished(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        generation: Generation,
        step: Step,
        weights_digest: Digest,
    ) -> bool {
        if !self.set_state(worker, id, generation, SeatState::Finished) {
            return true;
        }
        let run = self.run_mut(id);
        let total = run.record.spec.total_steps;
        let may_be_early = run.record.spec.patience.is_some() && Step(0) < step && step < total;
        if step != total && !may_be_early {
            self.fail(id, format!("{worker} finished after step {step} of {total}"));
            return true;
        }
        self.claim(id, step);
        let run = self.run_mut(id);
        match run.finished {
            None => run.finished = Some((step, weights_digest)),
            Some((at, _)) if at != step => {
                let text = format!("replicas disagree: {worker} ends after step {step}, another after {at}");
                self.fail_for_now(id, &text);
            }
            Some((_, first)) if first != weights_digest => {
                let text =
                    format!("replicas disagree: {worker} ends with weights {weights_digest}, another with {first}");
                self.fail_for_now(id, &text);
            }
            Some(_) => {}
        }
        !self.others_are_awaited(id)
    }

    pub(crate) fn checkpoint_wanted(&mut self, id: &RunId) {
        if let Some(run) = self.runs.get_mut(id).filter(|run| run.stage == Stage::Training) {
            run.touch();
            run.asked.checkpoint = true;
            self.request(id);
        }
    }

    pub(crate) fn checkpoint_committed(&mut self, id: &RunId, at: CheckpointAt) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.touch();
        if at.generation < run.lineage || run.record.restore.is_some_and(|known| known >= at) {
            return;
        }
        // The manifest may come before the report of its step. Until that is committed a rewind can supersede it.
        if at.step > run.record.step {
            run.early_checkpoint = run.early_checkpoint.max(Some(at));
            return self.persist(id);
        }
        run.older_checkpoint = run.record.restore.replace(at);
        run.record.diverged_at.take_if(|step| *step < at.step);
        if !run.asked.pause {
            run.asked.checkpoint = false;
        }
        self.persist(id);
        self.note(id, format!("checkpoint at step {}", at.step));
    }

    pub(crate) fn checkpoint_lost(&mut self, id: &RunId, at: CheckpointAt) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.touch();
        run.early_checkpoint.take_if(|early| *early == at);
        // Members that have finished still hold the state: they save it once more.
        // Of one that may end early it is not known yet which step is the last.
        let may_be_last = run.record.spec.patience.is_some() && at.step == run.record.step;
        run.saves_again |= at.step == run.last_step() || may_be_last;
        if run.record.restore == Some(at) {
            run.record.restore = run.older_checkpoint.take();
            self.persist(id);
        }
        self.note(id, format!("the checkpoint at step {} is damaged or gone", at.step));
    }

    /// Draws the conclusion if all members have stopped or the time for it is over.
    pub(crate) fn conclude(&mut self, id: &RunId) {
        let now = self.now;
        let until = now + self.settings.save;
        let run = &self.runs[id];
        let stopped =
            |wanted: fn(&SeatState) -> bool| run.seats.values().all(|seat| seat.away.is_none() && wanted(&seat.state));
        let all_finished = run.finished.is_some() && stopped(|state| *state == SeatState::Finished);
        let all_stopped = stopped(|state| *state != SeatState::Training);
        match run.stage {
            Stage::Training | Stage::Stopping { .. } | Stage::Resting { .. } | Stage::Saving { .. }
                if run.is_complete() =>
            {
                let weights_digest = run.finished.map(|(_, digest)| digest);
                let reason = run.stopped_early();
                self.run_mut(id).record.weights_digest = weights_digest;
                self.end(id, RunStatus::Completed, reason);
            }
            Stage::Training | Stage::Saving { .. } if all_finished && run.saves_again => self.regroup(id, false),
            Stage::Training if all_finished => self.run_mut(id).stage = Stage::Saving { until },
            Stage::Training if all_stopped => self.regroup(id, true),
            Stage::Training if self.end_due(id).is_some_and(|due| due <= now) => {
                self.note(id, "the last checkpoint could not be stored in time; the run stops without it".to_owned());
                self.stop(id, false, false);
            }
            Stage::Stopping { until, lost, hung } if all_stopped || now >= until => self.broken(id, lost, hung),
            Stage::Resting { until } if now >= until || run.record.cancelling || self.somebody_leaves(id) => {
                self.regroup(id, false);
            }
            Stage::Saving { until } if all_finished && now >= until => {
                self.fail_for_now(id, "all steps are done, but the last checkpoint was not committed in time");
            }
            Stage::Saving { until } if !all_finished && (run.is_saved() || now >= until) => self.regroup(id, false),
            _ => {}
        }
    }

    /// All steps are done and there is no boundary to come: who waits for the last checkpoint to be stored can only be
    /// stopped, where somebody wants to go or a person cancels the run.
    pub(crate) fn end_due(&self, id: &RunId) -> Option<Millis> {
        let run = &self.runs[id];
        let waits = run.stage == Stage::Training && run.record.step == run.last_step();
        let wanted = waits && (run.record.cancelling || self.somebody_leaves(id));
        wanted.then(|| run.pace.moved() + self.settings.save)
    }

    /// The generation is over: cancel, wait for workers, or make the next one. `may_save`: all members paused together,
    /// so that a checkpoint of where they stand can be complete.
    fn regroup(&mut self, id: &RunId, may_save: bool) {
        let run = &self.runs[id];
        let leavers: Vec<WorkerId> = run.seats.keys().filter(|worker| self.workers[*worker].leaving).cloned().collect();
        let nobody_stays = leavers.len() == run.seats.len();
        if may_save && run.asked.checkpoint && !run.is_saved() && (run.record.cancelling || nobody_stays) {
            let until = self.now + self.settings.save;
            self.run_mut(id).stage = Stage::Saving { until };
            return;
        }
        if run.record.cancelling {
            return self.end(id, RunStatus::Cancelled, None);
        }
        for worker in &leavers {
            self.release_seat(id, worker);
            self.note(id, format!("{worker} left"));
        }
        let run = &self.runs[id];
        let joiners = self.may_join(id);
        let (have, need) = (run.seats.len(), run.need());
        if have > 0 && run.is_forgotten() {
            // Its checkpoint has to be looked for, and verified.
            let step = run.record.step;
            self.rewind(id, &format!("nobody holds the state of step {step} any more"));
        } else if have == 0 || have + joiners.len() < need {
            self.interrupt(id, format!("it has {} left and needs {need}", workers(have)));
        } else {
            self.form(id, &joiners);
        }
    }

    fn somebody_leaves(&self, id: &RunId) -> bool {
        self.runs[id].seats.keys().any(|worker| self.workers[worker].leaving)
    }

    /// A broken generation is over: leaves out who does not answer. The next one follows at once, but if generations
    /// come to nothing again and again, later and later, and in the end the run fails. So what passes within seconds,
    /// like a network that is down, does not use up the run's patience.
    fn broken(&mut self, id: &RunId, lost: bool, hung: bool) {
        let silent = if hung { self.runs[id].training() } else { Vec::new() };
        for worker in &silent {
            self.leave_out(id, worker, format!("{worker} does not answer and is left out"));
        }
        if lost && !hung {
            return self.regroup(id, false);
        }
        let (limit, after) = (self.settings.fruitless_generations, self.settings.suspect_after);
        let run = self.run_mut(id);
        run.fruitless += 1;
        let count = run.fruitless;
        if count >= limit {
            let text = format!("{limit} generations failed with no step between them; {}", run.last_error);
            return self.fail_for_now(id, &text);
        }
        if silent.is_empty() {
            self.suspect(id);
        }
        if count <= after {
            return self.regroup(id, false);
        }
        let Millis(pause) = self.settings.pause;
        let pause = Millis(pause << (count - after - 1).min(16)).min(self.settings.pause_max);
        self.note(
            id,
            format!("{count} generations failed with no step between them: the next in {} s", pause.0 / 1000),
        );
        let until = self.now + pause;
        self.run_mut(id).stage = Stage::Resting { until };
    }

    /// When generations fail and nobody is lost, one member may be cut off from the others while all reach the
    /// coordinator: one after the other is left out for a while, where the run can do without.
    fn suspect(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let Some(turn) = run.fruitless.checked_sub(self.settings.suspect_after) else { return };
        if run.seats.len() <= run.need() {
            return;
        }
        let place = turn as usize % run.seats.len();
        let worker = run.seats.keys().nth(place).expect("it is less than there are").clone();
        self.note(id, format!("{worker} is left out for a while: it may be why generations fail"));
        self.rest(&worker);
        self.release_seat(id, &worker);
    }

    /// Gives a worker no work for a while, longer every time.
    pub(crate) fn rest(&mut self, worker: &WorkerId) {
        let (now, Millis(rest)) = (self.now, self.settings.rest);
        let known = self.workers.get_mut(worker).expect("members are known");
        let until = now + Millis(rest << known.suspected.min(6));
        known.rests_until = Some(until);
        known.suspected += 1;
        self.rested_by(until);
    }

    /// Nothing more is done for the run.
    pub(crate) fn end(&mut self, id: &RunId, status: RunStatus, reason: Option<String>) {
        self.release_all(id);
        let run = self.run_mut(id);
        (run.stage, run.ahead) = (Stage::Ended, Ahead::default());
        let record = &mut run.record;
        (record.status, record.cancelling) = (status, false);
        record.reason.clone_from(&reason);
        self.persist(id);
        self.note(id, reason.map_or_else(|| status.to_string(), |reason| format!("{status}: {reason}")));
    }
}
