//! Which step counts: the first report of the step after the last commit, from a member whose state the present
//! generation goes on from.

use crate::run::Report;
use crate::{Control, Effect, Record, RunStatus};
use types::{Digest, Generation, RunId, Segment, Step, WorkerId};

/// So many reports past a missing step are kept; later ones come again from their worker or another.
const AHEAD_KEPT: usize = 4096;

impl Control {
    pub(crate) fn progress(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        generation: Generation,
        step: Step,
        segments: Vec<Segment>,
        samples_digest: Digest,
    ) {
        if !self.counts(worker, id, generation) {
            self.refused += 1;
            return;
        }
        let run = self.run_mut(id);
        if let Some(seat) = run.seats.get_mut(worker).filter(|_| generation == run.record.generation) {
            seat.seen = true;
        }
        if step > run.record.spec.total_steps {
            return self.fail(id, format!("{worker} reports step {step}, past the last one"));
        }
        if step <= run.record.step {
            if let Some(known) = run.digests.get(&step).copied().filter(|known| *known != samples_digest) {
                let text = format!(
                    "replicas disagree: for step {step} {worker} reports samples {samples_digest}, committed is {known}"
                );
                self.fail(id, text);
            }
            return;
        }
        if run.ahead.reports.len() < AHEAD_KEPT || step == run.record.step.next() {
            let report = Report { generation, segments, samples_digest };
            let kept = run.ahead.reports.entry(step).or_insert_with(|| report.clone());
            // A later generation did the step again: who reported it first is not believed any more.
            if kept.generation < generation {
                *kept = report;
            }
        }
        while let Some(report) = self.next_report(id) {
            self.commit(id, report);
            self.run_mut(id).ahead.until = None;
        }
        self.claim(id, step);
    }

    /// A member has done `step`. If it is not committed yet, its report is awaited for a while.
    pub(crate) fn claim(&mut self, id: &RunId, step: Step) {
        let until = self.now + self.settings.gap;
        let run = self.run_mut(id);
        run.ahead.claimed = run.ahead.claimed.max(step);
        if run.record.step >= run.ahead.claimed {
            run.ahead.until = None;
        } else if run.ahead.until.is_none() {
            run.ahead.until = Some(until);
        }
    }

    /// The report comes from the present generation, or from an earlier one of a member that brought its state along.
    fn counts(&self, worker: &WorkerId, id: &RunId, generation: Generation) -> bool {
        let Some(record) = self.run(id) else { return false };
        let active = matches!(record.status, RunStatus::Running | RunStatus::Interrupted);
        let since = self.since(id, worker);
        active && generation <= record.generation && since.is_some_and(|since| generation >= since)
    }

    /// The report of the next step, unless the generation it comes from is older than that of the step before: then
    /// the step was done again from there, and its own report is on the way.
    fn next_report(&mut self, id: &RunId) -> Option<Report> {
        let run = self.run_mut(id);
        let report = run.ahead.reports.remove(&run.record.step.next())?;
        (report.generation >= run.committed_by).then_some(report)
    }

    fn commit(&mut self, id: &RunId, report: Report) {
        let run = self.run_mut(id);
        let Report { generation, segments, samples_digest } = report;
        run.committed_by = generation;
        let step = run.record.step.next();
        run.record.advance(step, samples_digest);
        run.remember(step, samples_digest);
        run.fruitless = 0;
        let attempt = run.record.attempt;
        let run = id.clone();
        self.emit(Effect::Persist(Record::Commit { run, attempt, generation, step, segments, samples_digest }));
    }
}
