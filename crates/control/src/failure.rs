//! What goes wrong: failed steps, ended trainers, hanging members, missing reports, and the end of patience.

use crate::run::{Ahead, SeatState, Stage};
use crate::{Control, Directive, Millis, RunStatus};
use types::{Generation, HELP, RunId, Step, WorkerId};

impl Control {
    pub(crate) fn step_failed(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        generation: Generation,
        step: Step,
        error: &str,
    ) -> bool {
        if !self.set_state(worker, id, generation, SeatState::Failed(step)) {
            return true;
        }
        self.claim(id, step);
        // What the others say then only follows from that.
        if self.runs[id].stage == Stage::Training {
            self.run_mut(id).last_error = format!("{worker}: {error}");
            self.note(id, format!("generation {generation}: {worker}: {error}"));
            self.stop(id, false, false);
            return true;
        }
        !self.others_are_awaited(id)
    }

    /// A member has said that it stopped, and nothing follows from that: another one has yet to say so.
    pub(crate) fn others_are_awaited(&mut self, id: &RunId) -> bool {
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        matches!(run.stage, Stage::Training | Stage::Stopping { .. }) && run.somebody_trains()
    }

    /// Notes what a member of the present generation says of itself. False: it is none.
    pub(crate) fn set_state(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        generation: Generation,
        state: SeatState,
    ) -> bool {
        // Whatever generation it speaks of, and whatever it says: the trainer answers.
        if let Some(known) = self.workers.get_mut(worker).filter(|known| known.run.is_none()) {
            known.ready = true;
        }
        let Some(run) = self.runs.get_mut(id) else { return false };
        let current = run.record.generation == generation;
        let Some(seat) = run.seats.get_mut(worker).filter(|_| current) else {
            self.refused += 1;
            return false;
        };
        (seat.state, seat.seen) = (state, true);
        run.touch();
        true
    }

    pub(crate) fn trainer_exited(
        &mut self,
        worker: &WorkerId,
        run: Option<&RunId>,
        generation: Generation,
        cause: &str,
        last_lines: &[String],
    ) {
        let Some(known) = self.workers.get_mut(worker) else { return };
        known.ready = false;
        let Some(id) = known.run.clone().filter(|seated| run.is_none_or(|run| run == seated)) else { return };
        let limit = self.settings.restarts;
        let run = self.run_mut(&id);
        // What kills one trainer of a generation often kills the others too: one incident.
        let known = run.crashed_in.is_some_and(|known| generation <= known);
        if !known {
            run.crashed_in = Some(generation);
            run.record.restarts += 1;
        }
        let restarts = run.record.restarts;
        if !known {
            self.persist(&id);
        }
        let mut text = format!("the trainer of {worker} ended: {cause}");
        if !last_lines.is_empty() {
            text = format!("{text}\n{}", last_lines.join("\n"));
        }
        if restarts >= limit {
            let text = format!("trainers ended {restarts} times with no step between them; the last: {text}");
            return self.fail_for_now(&id, &text);
        }
        self.note(&id, text);
        if !known {
            self.strike(&id, worker);
        }
        self.lose(&id, worker);
    }

    /// A member ended by itself, or is left out. Who does so again before the run has done a step with it would
    /// interrupt the others for ever: it is given no work for a while, where the run can do without.
    pub(crate) fn strike(&mut self, id: &RunId, worker: &WorkerId) {
        let run = &self.runs[id];
        let spare = run.seats.len() > run.need();
        let known = self.workers.get_mut(worker).expect("members are known");
        known.strikes += 1;
        let strikes = known.strikes;
        if spare && strikes >= self.settings.strikes {
            self.rest(worker);
            self.note(id, format!("{worker} rests for a while: it was lost {strikes} times with no step between them"));
        }
    }

    pub(crate) fn run_failed(&mut self, worker: &WorkerId, id: &RunId, generation: Generation, reason: &str) {
        if self.set_state(worker, id, generation, SeatState::Failed(Step(0))) {
            self.fail(id, format!("{worker}: {reason}"));
        }
    }

    /// The generation is broken: everybody gives up and says where it stopped.
    pub(crate) fn stop(&mut self, id: &RunId, lost: bool, hung: bool) {
        // Who computes answers the abort after that: a usual step is waited for.
        let usual = Millis(self.runs[id].pace.usual_ms().unwrap_or_default() as u64);
        let wait = if hung { self.settings.hang_gather.max(usual) } else { self.settings.gather };
        let until = self.now + wait;
        let run = self.run_mut(id);
        let generation = run.record.generation;
        let is_away = run.seats.values().any(|seat| seat.away.is_some());
        run.stage = Stage::Stopping { until, lost: lost || is_away, hung };
        let training = run.seats.iter().filter(|(_, seat)| seat.away.is_none() && seat.state == SeatState::Training);
        for worker in training.map(|(worker, _)| worker.clone()).collect::<Vec<_>>() {
            self.send(&worker, Directive::Abort { run: id.clone(), generation });
        }
        self.drop_away(id);
    }

    /// Members without a session are not waited for any longer.
    pub(crate) fn drop_away(&mut self, id: &RunId) {
        let away = self.runs[id].seats.iter().filter(|(_, seat)| seat.away.is_some());
        for worker in away.map(|(worker, _)| worker.clone()).collect::<Vec<_>>() {
            self.note(id, format!("{worker} is lost"));
            self.lose(id, &worker);
        }
    }

    /// What is overdue.
    pub(crate) fn expire(&mut self, id: &RunId) {
        let now = self.now;
        let run = &self.runs[id];
        let overdue = |until: Option<Millis>| until.is_some_and(|until| until <= now);
        let missing = run.record.step.next();
        if overdue(run.ahead.until) {
            return self.rewind(id, &format!("the report of step {missing} is lost"));
        }
        let gone = run.seats.iter().filter(|(_, seat)| overdue(seat.away));
        for worker in gone.map(|(worker, _)| worker.clone()).collect::<Vec<_>>() {
            // The first one that is lost ends the wait for the others too.
            if self.runs[id].seats.contains_key(&worker) {
                self.note(id, format!("{worker} is lost"));
                self.lose(id, &worker);
            }
        }
    }

    /// Gives up the state that the members hold and waits for a restore. The generation is over, so nobody can bring
    /// that state back.
    pub(crate) fn rewind(&mut self, id: &RunId, reason: &str) {
        self.release_all(id);
        let run = self.run_mut(id);
        (run.ahead, run.early_checkpoint) = (Ahead::default(), None);
        run.record.generation = run.record.generation.next();
        run.record.members.clear();
        run.find_places();
        // Whether there is one is not known yet.
        self.interrupt(id, format!("{reason}: back to a checkpoint, or to the beginning if there is none"));
    }

    /// The run waits for workers and goes on by itself. Those who hold its state keep it.
    pub(crate) fn interrupt(&mut self, id: &RunId, reason: String) {
        let run = self.run_mut(id);
        run.stage = Stage::Waiting;
        (run.record.status, run.record.reason) = (RunStatus::Interrupted, Some(reason.clone()));
        self.persist(id);
        self.note(id, format!("interrupted: {reason}"));
    }

    pub(crate) fn fail(&mut self, id: &RunId, reason: String) {
        self.end(id, RunStatus::Failed, Some(reason));
    }

    /// It failed for what is wrong with machines, a network or a store, and not with the run: another try may go well.
    pub(crate) fn fail_for_now(&mut self, id: &RunId, reason: &str) {
        self.fail(id, format!("{reason}{HELP}once that is mended, `coordinator runs resume {id}` goes on"));
    }

    /// All members forget the run.
    pub(crate) fn release_all(&mut self, id: &RunId) {
        for worker in self.runs[id].seats.keys().cloned().collect::<Vec<_>>() {
            self.release_seat(id, &worker);
        }
    }
}
