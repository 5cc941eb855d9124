//! The workers the coordinator knows.

use crate::watch::Hearing;
use crate::{Holding, Millis, WorkerFacts};
use types::RunId;

/// A worker that is connected, or sits in a run and may come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its present session.
    pub session: Option<u64>,
    /// What it said of itself; none after a restart of the coordinator until it registers again.
    pub facts: Option<WorkerFacts>,
    /// It has a trainer that answers.
    pub ready: bool,
    /// It was told to end.
    pub leaving: bool,
    /// The run it works on.
    pub run: Option<RunId>,
    /// When its trainer was last heard.
    pub(crate) hearing: Hearing,
    /// It may be the cause why generations failed: no work until then.
    pub rests_until: Option<Millis>,
    /// How often that was so.
    pub suspected: u32,
    /// How often it ended or was left out since the run last did a step with it.
    pub strikes: u32,
}

impl Worker {
    /// A member that a former coordinator process knew.
    pub(crate) fn remembered(run: RunId, now: Millis) -> Self {
        Self {
            session: None,
            facts: None,
            ready: true,
            leaving: false,
            run: Some(run),
            hearing: Hearing::begin(now),
            rests_until: None,
            suspected: 0,
            strikes: 0,
        }
    }

    /// Free to work.
    pub fn is_idle(&self) -> bool {
        self.session.is_some() && self.ready && !self.leaving && self.run.is_none()
    }

    /// The same operating-system process, as far as it is known.
    pub(crate) fn is_same_process(&self, facts: &WorkerFacts) -> bool {
        self.facts.as_ref().is_none_or(|known| known.host == facts.host && known.pid == facts.pid)
    }
}

/// So many of them, for people.
pub(crate) fn workers(count: usize) -> String {
    format!("{count} worker{}", if count == 1 { "" } else { "s" })
}

/// What a worker that came back can be used for.
pub(crate) enum Return {
    /// It is still in the present generation.
    Attached,
    /// It has the run's state, or needs none, but missed its assignment.
    MissedAssign,
    /// It lost the state that its seat stands for.
    Empty,
}

impl Return {
    /// Judges a seated worker by what it says it holds. `since` is its seat's; `unheard`: it joined in this generation
    /// and was never heard of.
    pub fn judge(
        holding: Option<&Holding>,
        run: &RunId,
        present: types::Generation,
        since: types::Generation,
        unheard: bool,
    ) -> Self {
        match holding {
            Some(held) if held.run == *run && held.generation == present => Return::Attached,
            Some(held) if held.run == *run && held.generation >= since && held.generation < present => {
                Return::MissedAssign
            }
            // It has nothing to lose.
            _ if unheard => Return::MissedAssign,
            _ => Return::Empty,
        }
    }
}
