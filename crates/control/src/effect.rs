//! What the shell has to do, in this order.

use crate::{CheckpointAt, Record};
use types::{Attempt, Generation, Rank, RunId, SlotId, Step, WorkerId, WorldSize};

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make it durable before any later effect is carried out.
    Persist(Record),
    /// Send it on the worker's present session; drop it if there is none.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        directive: Directive,
    },
    /// Send it to all members of the run's present generation that have a session. What they were sent of this kind
    /// before, and have not taken yet, may be dropped for it.
    SendMembers {
        /// Whose members.
        run: RunId,
        /// What.
        directive: Directive,
    },
    /// End this session and say why.
    Refuse {
        /// The name it wanted.
        worker: WorkerId,
        /// Which session; the worker may have another, good one.
        session: u64,
        /// For a person.
        reason: String,
    },
    /// Look for the newest checkpoint that verifies and is not past `at_most`, and answer with
    /// [`crate::Event::RestoreFound`]. A later one would leave steps without a commit.
    FindRestore {
        /// Of which run.
        run: RunId,
        /// The last committed step.
        at_most: Step,
    },
}

/// What a worker is told. A worker obeys in the order of arrival; each ends what a former one began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Be a member of a new generation.
    Assign(Assignment),
    /// Give up this generation: end any collective, report where you stopped, keep the state.
    Abort {
        /// Of which run.
        run: RunId,
        /// Which.
        generation: Generation,
    },
    /// Do something at the next step boundary.
    Request {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Save a checkpoint.
        checkpoint: bool,
        /// Stop and report it.
        pause: bool,
    },
    /// This step is durable, and so are all before it: nobody need say any more what its samples were.
    Committed {
        /// Of which run.
        run: RunId,
        /// In which attempt.
        attempt: Attempt,
        /// The last step.
        step: Step,
    },
    /// Give up and forget. A worker that said it is leaving may go now.
    Release {
        /// Which run. None is for a leaving worker that has no run any more: it may go, whatever it holds.
        run: Option<RunId>,
    },
}

/// A member's part in a generation. The shell adds the config and the parent checkpoint, which the core does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// Its new generation.
    pub generation: Generation,
    /// What metrics are keyed by beside the step.
    pub attempt: Attempt,
    /// The member's place.
    pub rank: Rank,
    /// How many members there are.
    pub world: WorldSize,
    /// The member's slots, ascending.
    pub slots: Vec<SlotId>,
    /// Where the state comes from if no member holds any; none: the initial model.
    pub restore: Option<CheckpointAt>,
}
