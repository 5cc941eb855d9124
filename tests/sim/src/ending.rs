//! What must be true in the end.

use crate::group::last_step;
use crate::world::World;
use control::RunStatus;
use types::RunId;

impl World {
    pub fn has_ended(&self) -> bool {
        self.disk.runs.values().all(|kept| kept.record.status.has_ended())
    }

    /// Every run has reached its end, and its ledger is without a hole.
    pub fn check_end(&mut self) {
        for run in self.disk.runs.keys().cloned().collect::<Vec<_>>() {
            self.check_reason(&run);
            if let Err(text) = self.check_run(&run) {
                self.violated(format!("{run}: {text}"));
            }
        }
    }

    fn check_run(&self, run: &RunId) -> Result<(), String> {
        let kept = &self.disk.runs[run];
        let record = &kept.record;
        kept.ledger.verify()?;
        // What the same run computes when nothing disturbs it.
        let data = &self.disk.data[run];
        let undisturbed = (0..last_step(&record.spec).0).fold(data.initial(), |state, _| data.step(&state).1);
        let gave_up = record.reason.as_deref().is_some_and(|reason| reason.starts_with("diverged at step"));
        match record.status {
            RunStatus::Completed if record.step != last_step(&record.spec) => Err("completed too early".to_owned()),
            RunStatus::Completed if kept.ledger.digest() != undisturbed.digest => Err("other samples".to_owned()),
            RunStatus::Completed if record.weights_digest != Some(undisturbed.weights()) && !kept.tainted => {
                Err("other weights".to_owned())
            }
            RunStatus::Completed | RunStatus::Cancelled => Ok(()),
            // It diverged again although it had gone back, or is to stop then: for a person to look at.
            RunStatus::Failed if gave_up => Ok(()),
            status => Err(format!("is {status} at step {} of {}", record.step, record.spec.total_steps)),
        }
    }

    /// A run may fail because its trainers crash again and again, but never because the coordinator lost its way.
    pub fn check_reason(&mut self, run: &RunId) {
        let record = &self.disk.runs[run].record;
        let expected = |reason: &str| {
            ["trainers ended", "generations failed", "diverged at step"].iter().any(|known| reason.contains(known))
        };
        if record.status == RunStatus::Failed && !record.reason.as_deref().is_some_and(expected) {
            let text = format!("{run} failed: {:?}", record.reason);
            self.violated(text);
        }
    }
}
