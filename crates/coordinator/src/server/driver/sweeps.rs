//! Sweeps: all of what they are, or what is done to all of their runs, goes into one transaction.

use super::batch::Batch;
use super::{Answer, Driver};
use crate::server::submit::Submission;
use control::Event;
use proto::{Failure, FailureKind};
use std::collections::BTreeMap;
use store::{Change, SweepRow};
use tokio::sync::oneshot;
use types::{Digest, RunId};

/// Names and digests of all sweeps.
pub type KnownSweeps = BTreeMap<String, Digest>;

/// What is asked about sweeps.
#[derive(Debug)]
pub enum SweepCommand {
    /// A new sweep, whose runs were found good. Answered when it is durable: whether it was there already.
    Submit {
        /// Its row.
        row: SweepRow,
        /// Its runs, in the order of the row's.
        runs: Vec<Submission>,
        /// The answer.
        done: oneshot::Sender<Result<bool, Failure>>,
    },
    /// Cancel runs, where they have not ended. Answered when the wish is durable: how many that were.
    Cancel {
        /// Which.
        runs: Vec<RunId>,
        /// The answer.
        done: oneshot::Sender<u32>,
    },
}

/// Another sweep has that name.
pub fn conflict(name: &str) -> Failure {
    let message = format!(
        "there is a sweep `{name}` with another config\n  help: give this one another run.name; `coordinator sweep show \
         {name}` shows the other"
    );
    Failure::new(FailureKind::Conflict, message)
}

impl Driver {
    pub(super) fn handle_sweep(&mut self, command: SweepCommand, batch: &mut Batch, answers: &mut Vec<Answer>) {
        let now = self.clock.now();
        match command {
            SweepCommand::Submit { row, runs, done } => {
                // Looked at here, where one comes after the other.
                if let Some(digest) = self.sweeps.get(&row.name) {
                    let answer = if *digest == row.digest { Ok(true) } else { Err(conflict(&row.name)) };
                    answers.push(Box::new(move || _ = done.send(answer)));
                    return;
                }
                let mut pins = Vec::with_capacity(runs.len());
                for Submission { run, spec, details, parent, .. } in runs {
                    self.refusals.know(&run);
                    self.details.insert(run.clone(), details);
                    self.control.handle(now, Event::Submit { run, spec });
                    pins.push(parent);
                }
                // The runs' rows come before the one that names them.
                self.collect(batch);
                self.sweeps.insert(row.name.clone(), row.digest);
                batch.changes.push(Change::Sweep(row));
                answers.push(Box::new(move || {
                    drop(pins);
                    let _ = done.send(Ok(false));
                }));
            }
            SweepCommand::Cancel { runs, done } => {
                let mut cancelled = 0;
                for run in runs {
                    if self.control.check_cancel(&run).is_ok() {
                        self.control.handle(now, Event::Cancel { run });
                        cancelled += 1;
                    }
                }
                answers.push(Box::new(move || _ = done.send(cancelled)));
            }
        }
    }
}
