//! Who works on what: workers that come, go and come back, and the making of a new generation.

use crate::balance::shares;
use crate::run::{Asked, Run, Seat, SeatState, Stage};
use crate::slots::deal;
use crate::watch::Hearing;
use crate::worker::{Return, Worker};
use crate::{Assignment, Control, Directive, Effect, Holding, Member, RunStatus, WorkerFacts};
use types::{Generation, Rank, RunId, WorkerId};

impl Control {
    /// False: nothing follows from it.
    pub(crate) fn connected(
        &mut self,
        id: WorkerId,
        session: u64,
        facts: WorkerFacts,
        holding: Option<Holding>,
        ready: bool,
    ) -> bool {
        if let Some(known) = self.workers.get(&id).filter(|known| known.session.is_some()) {
            if known.session >= Some(session) {
                return false;
            }
            if !known.is_same_process(&facts) {
                let reason = format!(
                    "a worker named {id} is connected already (another process); start this one with another --name"
                );
                self.emit(Effect::Refuse { worker: id, session, reason });
                return false;
            }
        }
        let worker = self.workers.entry(id.clone()).or_insert(Worker {
            session: None,
            facts: None,
            ready,
            leaving: false,
            run: None,
            hearing: Hearing::begin(self.now),
            rests_until: None,
            suspected: 0,
            strikes: 0,
        });
        let stays = worker.leaving && !worker.is_same_process(&facts);
        worker.leaving &= !stays;
        // A trainer that holds something is there, whatever else is said.
        let ready = ready || holding.is_some();
        let changed = worker.ready != ready;
        (worker.session, worker.facts, worker.ready) = (Some(session), Some(facts), ready);
        let moved = self.settle_seat(&id, holding.as_ref());
        match self.workers[&id].run.clone() {
            Some(run) => self.seated_worker_returned(&run, &id, holding) || stays || changed || moved,
            None => {
                self.free_worker_came(&id, holding);
                true
            }
        }
    }

    /// A former process may have written of two runs that this worker is a member: it was lost to one and joined the
    /// other, and the first had no new generation yet. What it holds tells where it belongs. True if that was so.
    fn settle_seat(&mut self, worker: &WorkerId, holding: Option<&Holding>) -> bool {
        let seated = self.runs.iter().filter(|(_, run)| run.seats.contains_key(worker));
        let seated: Vec<RunId> = seated.map(|(id, _)| id.clone()).collect();
        let Some(first) = seated.first().filter(|_| seated.len() > 1) else { return false };
        let held = seated.iter().find(|id| holding.is_some_and(|held| held.run == **id));
        let home = held.unwrap_or(first).clone();
        for other in seated.iter().filter(|id| **id != home) {
            self.lose(other, worker);
        }
        self.workers.get_mut(worker).expect("just connected").run = Some(home);
        true
    }

    /// False: nothing follows from it. When a coordinator was away all its members return at the same time.
    fn seated_worker_returned(&mut self, run_id: &RunId, worker: &WorkerId, holding: Option<Holding>) -> bool {
        let present = self.runs[run_id].record.generation;
        let since = self.since(run_id, worker).unwrap_or(present);
        let stage = self.runs[run_id].stage;
        let ready = self.workers[worker].ready;
        let seat = self.run_mut(run_id).seats.get_mut(worker).expect("its worker points to this run");
        seat.away = None;
        let trains = stage == Stage::Training && seat.state == SeatState::Training;
        // Without a trainer it cannot do what it may have been told, and the others would wait for it in vain.
        let unheard = ready && since == present && !seat.seen;
        match Return::judge(holding.as_ref(), run_id, present, since, unheard) {
            Return::Attached => {
                seat.seen = true;
                if seat.state == SeatState::Training {
                    self.repeat_orders(run_id, worker);
                }
            }
            // In any other stage the next generation is about to be made, and assigned.
            Return::MissedAssign if stage == Stage::Training => {
                if let Some(other) = holding.filter(|held| held.run != *run_id) {
                    self.send(worker, Directive::Release { run: Some(other.run) });
                }
                self.assign(run_id, worker);
                self.repeat_orders(run_id, worker);
            }
            Return::MissedAssign => {}
            Return::Empty => {
                let what = if ready { "without the state it held" } else { "without a trainer" };
                self.note(run_id, format!("{worker} came back {what}"));
                self.lose(run_id, worker);
                if let Some(held) = holding {
                    self.send(worker, Directive::Release { run: Some(held.run) });
                }
                return true;
            }
        }
        if trains {
            let silent = self.silent_at(worker);
            self.due_by(silent);
        }
        !trains
    }

    /// What was sent on the lost session may not have arrived.
    fn repeat_orders(&mut self, run: &RunId, worker: &WorkerId) {
        let Run { stage, asked, record, .. } = &self.runs[run];
        match stage {
            Stage::Training if *asked != Asked::default() => self.request_one(run, worker),
            Stage::Stopping { .. } => {
                let generation = record.generation;
                self.send(worker, Directive::Abort { run: run.clone(), generation });
            }
            _ => {}
        }
    }

    fn free_worker_came(&mut self, worker: &WorkerId, holding: Option<Holding>) {
        let Some(held) = holding else { return };
        if !self.can_use(&held, worker) {
            return self.send(worker, Directive::Release { run: Some(held.run) });
        }
        self.run_mut(&held.run).seats.insert(worker.clone(), Seat::holding());
        self.workers.get_mut(worker).expect("just connected").run = Some(held.run.clone());
        self.note(&held.run, format!("{worker} is back with the state of step {}", held.step));
        if matches!(self.runs[&held.run].stage, Stage::Stopping { .. }) {
            self.send(worker, Directive::Abort { run: held.run, generation: held.generation });
        }
    }

    /// The run still has use for the state that a worker without a seat brings back.
    fn can_use(&self, held: &Holding, worker: &WorkerId) -> bool {
        let Some(run) = self.runs.get(&held.run) else { return false };
        let in_need = match run.stage {
            Stage::Waiting | Stage::Restoring => run.record.status == RunStatus::Interrupted,
            Stage::Stopping { .. } | Stage::Resting { .. } => !run.record.cancelling,
            Stage::Training | Stage::Saving { .. } | Stage::Ended => false,
        };
        in_need && run.record.generation == held.generation && self.since(&held.run, worker).is_some()
    }

    /// False: nothing follows from it before the member's time to come back is over.
    pub(crate) fn disconnected(&mut self, id: &WorkerId, session: u64) -> bool {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.session == Some(session)) else {
            return false;
        };
        worker.session = None;
        let Some(run_id) = worker.run.clone() else {
            self.workers.remove(id);
            return true;
        };
        let until = self.now + self.settings.grace;
        let run = self.run_mut(&run_id);
        let stage = run.stage;
        match stage {
            Stage::Training | Stage::Saving { .. } => {
                run.seats.get_mut(id).expect("its worker points to this run").away = Some(until);
                self.due_by(until);
            }
            // The others wait already; if it comes back in time it is taken in again.
            Stage::Stopping { .. } | Stage::Resting { .. } | Stage::Waiting | Stage::Restoring | Stage::Ended => {
                self.lose(&run_id, id);
            }
        }
        stage != Stage::Training
    }

    pub(crate) fn leaving(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.leaving = true;
        let Some(run) = worker.run.clone() else {
            return self.send(id, Directive::Release { run: None });
        };
        self.touch_all();
        if self.runs[&run].is_waiting() {
            self.release_seat(&run, id);
        }
    }

    pub(crate) fn trainer_ready(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.ready = true;
        // Not yet heard of in its generation: the first trainer of a worker that was assigned at once.
        if let Some(run) = worker.run.clone()
            && self.runs[&run].seats[id].seen
        {
            self.note(&run, format!("{id} has a new trainer: what the old one held is gone"));
            self.lose(&run, id);
        }
    }

    /// The seat's worker is gone or has lost the state.
    pub(crate) fn lose(&mut self, run_id: &RunId, worker: &WorkerId) {
        self.unseat(run_id, worker);
        let stage = self.runs[run_id].stage;
        match stage {
            Stage::Training | Stage::Saving { .. } => self.stop(run_id, true, false),
            Stage::Stopping { until, hung, .. } => {
                self.run_mut(run_id).stage = Stage::Stopping { until, lost: true, hung };
            }
            Stage::Resting { .. } | Stage::Waiting | Stage::Restoring | Stage::Ended => {}
        }
    }

    /// Takes the seat away from a worker whose session may be gone.
    pub(crate) fn unseat(&mut self, run: &RunId, worker: &WorkerId) {
        // News can be late: its trainer may hold a state by now that must not turn up again in a later attempt. And a
        // leaving worker waits for its release, whatever became of its state.
        if self.workers.get(worker).is_some_and(|worker| worker.session.is_some()) {
            self.release_seat(run, worker);
        } else {
            self.vacate(run, worker);
        }
    }

    /// Takes the seat away and makes the worker forget the run.
    pub(crate) fn release_seat(&mut self, run: &RunId, worker: &WorkerId) {
        let seat = self.runs[run].seats.get(worker);
        if seat.is_some_and(|seat| seat.state == SeatState::Training) {
            let generation = self.runs[run].record.generation;
            self.send(worker, Directive::Abort { run: run.clone(), generation });
        }
        self.send(worker, Directive::Release { run: Some(run.clone()) });
        self.vacate(run, worker);
    }

    fn vacate(&mut self, run: &RunId, worker: &WorkerId) {
        self.run_mut(run).seats.remove(worker);
        // A former process may have written of another run too that it is a member there.
        let elsewhere = self.runs.iter().find(|(_, other)| other.seats.contains_key(worker)).map(|(id, _)| id.clone());
        if let Some(known) = self.workers.get_mut(worker).filter(|known| known.run.as_ref() == Some(run)) {
            known.run = elsewhere;
            if known.session.is_none() && known.run.is_none() {
                self.workers.remove(worker);
            }
        }
    }

    /// Since when a member of the present generation has held the run's state.
    pub(crate) fn since(&self, run: &RunId, worker: &WorkerId) -> Option<Generation> {
        self.runs.get(run)?.member(worker).map(|(_, member)| member.since)
    }

    /// A new generation of those who sit in the run, in their old order, and the joiners.
    pub(crate) fn form(&mut self, id: &RunId, joiners: &[WorkerId]) {
        self.stop_trainers(id);
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        run.touch();
        let generation = run.record.generation.next();
        let stayed = run.record.members.iter().filter(|member| run.seats.contains_key(&member.worker));
        let workers: Vec<(WorkerId, Generation)> = stayed
            .map(|member| (member.worker.clone(), member.since))
            .chain(joiners.iter().map(|worker| (worker.clone(), generation)))
            .collect();
        let names: Vec<&WorkerId> = workers.iter().map(|(worker, _)| worker).collect();
        let dealt = deal(&shares(run.record.spec.slots, &run.balance.speeds(&names)));
        let members = workers.into_iter().zip(dealt);
        let grows = !joiners.is_empty() && !run.seats.is_empty();
        let went_on = run.record.status == RunStatus::Running;
        let record = &mut run.record;
        if run.seats.is_empty() {
            // Nobody brought the state along that was not to be trusted.
            record.trusted = None;
        }
        record.members = members.map(|((worker, since), slots)| Member { worker, slots, since }).collect();
        (record.generation, record.status, record.reason) = (generation, RunStatus::Running, None);
        let names: Vec<WorkerId> = record.members.iter().map(|member| member.worker.clone()).collect();
        run.find_places();
        run.seats = names.iter().map(|worker| (worker.clone(), Seat::assigned())).collect();
        (run.stage, run.asked, run.finished) = (Stage::Training, Asked::default(), None);
        if grows {
            run.growth.last = Some(self.now);
        }
        (run.growth.due, run.saves_again) = (None, false);
        run.paused_since = run.pace.last_commit().filter(|_| went_on);
        run.pace.begin(self.now);
        run.balance.begin();
        for worker in &names {
            let known = self.workers.get_mut(worker).expect("members are connected");
            known.run = Some(id.clone());
            // Who has no work is silent.
            known.hearing.resume(self.now);
        }
        self.persist(id);
        let list: Vec<&str> = names.iter().map(WorkerId::as_str).collect();
        self.note(id, format!("generation {generation}: {}: {}", crate::worker::workers(list.len()), list.join(", ")));
        for worker in &names {
            self.assign(id, worker);
        }
    }

    /// Members that have not said that they stopped must give up the old generation first.
    fn stop_trainers(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let generation = run.record.generation;
        let training = run.seats.iter().filter(|(_, seat)| seat.state == SeatState::Training);
        for worker in training.map(|(worker, _)| worker.clone()).collect::<Vec<_>>() {
            self.send(&worker, Directive::Abort { run: id.clone(), generation });
        }
    }

    fn assign(&mut self, id: &RunId, worker: &WorkerId) {
        let (place, member) = self.runs[id].member(worker).expect("it is a member");
        let record = &self.runs[id].record;
        let assignment = Assignment {
            run: id.clone(),
            generation: record.generation,
            attempt: record.attempt,
            rank: Rank(u32::try_from(place).expect("at most as many as slots")),
            world: record.world_size(),
            slots: member.slots.clone(),
            restore: record.restore,
        };
        self.send(worker, Directive::Assign(assignment));
    }
}
