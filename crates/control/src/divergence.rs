//! A run whose state is not to be trusted: back to a checkpoint from before, or the end.

use crate::run::SeatState;
use crate::{Control, Divergence, RunRecord};
use config::OnDivergence;
use types::{Generation, HELP, RunId, Step, WorkerId};

impl Control {
    pub(crate) fn diverged(
        &mut self,
        worker: &WorkerId,
        id: &RunId,
        (generation, step): (Generation, Step),
        kind: Divergence,
        reason: &str,
    ) {
        if !self.set_state(worker, id, generation, SeatState::Failed(step)) {
            return;
        }
        let run = self.run_mut(id);
        // Also for a person who resumes it later.
        run.record.trusted = Some(trusted(&run.record, step, kind));
        let (stops, before) = (run.record.spec.recovery.on_divergence == OnDivergence::Stop, run.record.diverged_at);
        // Durable before any member is told to forget what it saw.
        self.persist(id);
        // What a person could do is said when the run ends: until then it helps itself.
        let (seen, advice) = reason.split_at(reason.find(HELP).unwrap_or(reason.len()));
        let text = format!("diverged at step {step}: {seen} ({worker})");
        let text = match before {
            _ if stops => text,
            Some(before) => format!("{text}; it diverged at step {before} before, and was tried again"),
            None => {
                self.run_mut(id).record.diverged_at = Some(step);
                return self.rewind(id, &text);
            }
        };
        match kind {
            Divergence::Replicas => self.fail_for_now(id, &text),
            // On the same data the same config skips the same steps again.
            Divergence::Skipped => self.fail(id, text + advice),
        }
    }
}

/// Up to which step the state of a run that diverged at `step` was good: nothing was skipped yet, and if the replicas
/// differ, they were found to be equal.
fn trusted(record: &RunRecord, step: Step, kind: Divergence) -> Step {
    let recovery = &record.spec.recovery;
    // Replicas that differ may have been about to say that they skip.
    let unskipped = step.0.saturating_sub(recovery.max_skipped_steps);
    let compared = match (kind, recovery.verify_every) {
        // All skip the same steps for the same numbers: that says nothing against the equality of their states, and no
        // checkpoint is saved before it was looked at.
        (Divergence::Skipped, _) | (Divergence::Replicas, 0) => u64::MAX,
        (Divergence::Replicas, every) => step.0.saturating_sub(1) / every * every,
    };
    record.step.min(Step(unskipped.min(compared)))
}
