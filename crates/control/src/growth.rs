//! Interrupting a run at a step boundary: for workers that wait to join, for leavers, to cancel, to move slots.
//!
//! Joining costs everybody a pause, so those who come together are taken together, and not too often.

use crate::run::{Asked, Stage};
use crate::{Control, Directive, Millis};
use types::{RunId, WorkerId};

/// Whoever comes within this many settling times of the first is waited for, no longer.
const SETTLE_MAX: u64 = 4;

/// Workers that wait to join a run.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// How many wait.
    count: usize,
    /// Since when.
    first: Millis,
    /// When they are taken in; none if nobody waits.
    pub due: Option<Millis>,
    /// When the run last took somebody in.
    pub last: Option<Millis>,
}

impl Control {
    /// Asks the members of running runs to pause where somebody waits to join or to leave, slots are to move, or the
    /// run is cancelled.
    pub(crate) fn ask_members(&mut self) {
        let somebody_leaves = self.workers.values().any(|worker| worker.leaving);
        let training = self.runs.iter().filter(|(_, run)| run.stage == Stage::Training);
        for id in training.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let grows = self.grows(&id);
            let run = &self.runs[&id];
            let leaving = |worker: &WorkerId| self.workers.get(worker).is_some_and(|worker| worker.leaving);
            let cancelling = run.record.cancelling;
            // The last one to leave must not take the state along.
            let all_leave = somebody_leaves && run.seats.keys().all(leaving);
            let wanted = Asked {
                pause: cancelling || grows || run.balance.due || somebody_leaves && run.seats.keys().any(leaving),
                checkpoint: cancelling || all_leave,
            };
            let asked = run.asked;
            let both = Asked { pause: asked.pause || wanted.pause, checkpoint: asked.checkpoint || wanted.checkpoint };
            if both != asked {
                self.run_mut(&id).asked = both;
                self.request(&id);
            }
        }
    }

    /// Whether it is time to take in who waits to join.
    fn grows(&mut self, id: &RunId) -> bool {
        let count = self.may_join(id).len();
        let (now, settle, interval) = (self.now, self.settings.join_settle, self.settings.join_interval);
        let run = self.runs.get_mut(id).expect("runs are never forgotten");
        // Also the end of this wait is something that is due.
        run.due_is_stale |= count != run.growth.count;
        let growth = &mut run.growth;
        if count == 0 {
            (growth.count, growth.due) = (0, None);
            return false;
        }
        if growth.due.is_none() {
            growth.first = now;
        }
        if count != growth.count {
            let settled = (now + settle).min(growth.first + Millis(SETTLE_MAX * settle.0));
            growth.due = Some(growth.last.map_or(settled, |last| settled.max(last + interval)));
            growth.count = count;
        }
        growth.due.is_some_and(|due| due <= now)
    }

    /// Sends what was asked for to all members that still train.
    pub(crate) fn request(&mut self, id: &RunId) {
        for worker in self.runs[id].training() {
            self.request_one(id, &worker);
        }
    }

    pub(crate) fn request_one(&mut self, id: &RunId, worker: &WorkerId) {
        let run = &self.runs[id];
        let Asked { checkpoint, pause } = run.asked;
        let directive = Directive::Request { run: id.clone(), generation: run.record.generation, checkpoint, pause };
        self.send(worker, directive);
    }
}
