//! Which step counts: the first report of the step after the last commit, from a member whose state the present
//! generation goes on from.
//!
//! What all slots used is said by few: a member that was told in time that a step is durable leaves it out. Any that
//! was not told says it, so every step is reported in full by each member on whose word alone it may have to rest.

use crate::planted::PlantedBug;
use crate::run::Report;
use crate::{Control, Directive, Effect, Record, RunStatus};
use std::collections::btree_map::Entry;
use types::{Generation, RunId, Step, WorkerId};

/// So many reports past a missing step are kept; later ones come again from their worker or another.
const AHEAD_KEPT: usize = 4096;

impl Control {
    /// False: nothing follows from it. All members report every step, and only one report of each commits it.
    pub(crate) fn progress(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        generation: Generation,
        step: Step,
        report: Report,
        tokens: u64,
    ) -> bool {
        if !self.counts(worker, id, generation) {
            self.refused += 1;
            return false;
        }
        let run = self.runs.get_mut(id).expect("reports of others do not count");
        if let Some(seat) = run.seats.get_mut(worker).filter(|_| generation == run.record.generation) {
            seat.seen = true;
            run.balance.measured(worker, tokens, report.computed_ms / 1000.0);
        }
        if step > run.last_step() {
            self.fail(id, format!("{worker} reports step {step}, past the last one"));
            return true;
        }
        if step <= run.record.step {
            let said = report.samples_digest;
            if let Some(known) = run.digests.get(&step).copied().filter(|known| *known != said) {
                let text =
                    format!("replicas disagree: for step {step} {worker} reports samples {said}, committed is {known}");
                self.fail_for_now(id, &text);
                return true;
            }
            return false;
        }
        let has_room = run.ahead.reports.len() < AHEAD_KEPT || step == run.record.step.next();
        let is_whole = report.segments.is_some();
        if is_whole && has_room {
            match run.ahead.reports.entry(step) {
                Entry::Vacant(place) => _ = place.insert(report),
                // A later generation did the step again: who reported it first is not believed any more.
                Entry::Occupied(mut kept) if kept.get().generation < generation => _ = kept.insert(report),
                Entry::Occupied(_) => {}
            }
        }
        let mut committed = false;
        while let Some(report) = self.next_report(id) {
            committed = true;
            self.commit(id, report);
            self.run_mut(id).ahead.until = None;
            self.still_there(id, worker);
            self.promote_checkpoint(id);
        }
        // Who leaves out the samples will name them if nobody else does.
        if is_whole {
            self.claim(id, step);
        }
        if committed {
            self.weigh(id);
        }
        committed
    }

    /// A member has done `step`. If it is not committed yet, its report is awaited for a while.
    pub(crate) fn claim(&mut self, id: &RunId, step: Step) {
        let until = self.now + self.settings.gap;
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        run.ahead.claimed = run.ahead.claimed.max(step);
        if run.record.step >= run.ahead.claimed {
            run.ahead.until = None;
        } else if run.ahead.until.is_none() {
            run.ahead.until = Some(until);
            run.touch();
            self.due_by(until);
        }
    }

    /// The report comes from the present generation, or from an earlier one of a member that brought its state along.
    fn counts(&self, worker: &WorkerId, id: &RunId, generation: Generation) -> bool {
        let Some(record) = self.run(id) else { return false };
        let active = matches!(record.status, RunStatus::Running | RunStatus::Interrupted);
        let since = self.since(id, worker);
        let ours = since.is_some_and(|since| generation >= since) || self.has(PlantedBug::OldCommit);
        active && generation <= record.generation && ours
    }

    /// The report of the next step, unless the generation it comes from is older than that of the step before: then
    /// the step was done again from there, and its own report is on the way.
    fn next_report(&mut self, id: &RunId) -> Option<Report> {
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        let report = run.ahead.reports.remove(&run.record.step.next())?;
        (report.generation >= run.committed_by).then_some(report)
    }

    /// A step takes all members: one whose session ended works on.
    fn still_there(&mut self, id: &RunId, speaker: &WorkerId) {
        let until = self.now + self.settings.grace;
        for (_, seat) in self.run_mut(id).seats.iter_mut().filter(|(worker, _)| *worker != speaker) {
            seat.away = seat.away.map(|away| away.max(until));
        }
    }

    /// The step of a checkpoint that came early may be committed now.
    fn promote_checkpoint(&mut self, id: &RunId) {
        let run = self.run_mut(id);
        if let Some(at) = run.early_checkpoint.take_if(|at| at.step <= run.record.step) {
            self.checkpoint_committed(id, at);
        }
    }

    fn commit(&mut self, id: &RunId, report: Report) {
        let now = self.now;
        let run = &self.runs[id];
        if run.pace.last_commit().is_none() && report.generation == run.record.generation {
            // The first of this generation: all members are of use.
            for worker in run.seats.keys() {
                self.workers.get_mut(worker).expect("members are known").strikes = 0;
            }
        }
        let run = self.run_mut(id);
        let Report { generation, segments, samples_digest, computed_ms } = report;
        let segments = segments.expect("reports without them are not kept");
        run.committed_by = generation;
        let step = run.record.step.next();
        if generation == run.record.generation {
            run.pace.committed(now, computed_ms);
            if let Some(before) = run.paused_since.take() {
                let took = (now - before).0 as f64;
                let cost = run.balance.cost_ms.map_or(took, |cost| (cost + took) / 2.0);
                run.balance.cost_ms = Some(cost);
            }
        }
        run.record.advance(step, samples_digest);
        run.remember(step, samples_digest);
        run.fruitless = 0;
        let attempt = run.record.attempt;
        let run = id.clone();
        self.emit(Effect::Persist(Record::Commit { run, attempt, generation, step, segments, samples_digest }));
        let directive = Directive::Committed { run: id.clone(), attempt, step };
        self.emit(Effect::SendMembers { run: id.clone(), directive });
    }
}
