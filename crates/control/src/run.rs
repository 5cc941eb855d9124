//! What the core keeps of a run beside its record: who sits where and what is under way. Nothing of it outlives the
//! process.

use crate::balance::Balance;
use crate::growth::Growth;
use crate::watch::{Beat, Pace};
use crate::{CheckpointAt, Member, Millis, RunRecord};
use std::collections::BTreeMap;
use types::{Attempt, Digest, Generation, Segment, Step, WorkerId};

/// So many recent samples digests are kept to compare late reports with.
const DIGESTS_KEPT: usize = 4096;

/// A run and what is under way.
#[derive(Debug)]
pub(crate) struct Run {
    pub record: RunRecord,
    /// Each member's place in the record's list.
    places: BTreeMap<WorkerId, usize>,
    pub stage: Stage,
    /// It changed since it was last looked at.
    pub touched: bool,
    /// When something is due without anything happening, or earlier; as long as it is not stale.
    pub due: Option<Millis>,
    pub due_is_stale: bool,
    /// A member that had not stopped when it was last asked for one.
    trains: Option<WorkerId>,
    /// The members of the present generation that are still counted on.
    pub seats: BTreeMap<WorkerId, Seat>,
    /// What the members of this generation were asked to do at the next boundary.
    pub asked: Asked,
    /// Of the latest commits of this attempt.
    pub digests: BTreeMap<Step, Digest>,
    /// Reports of steps past the next one.
    pub ahead: Ahead,
    /// The first generation whose checkpoints are of this attempt's states.
    pub lineage: Generation,
    /// A durable checkpoint of a step that is not committed yet. It is kept in the record's place for the present one.
    pub early_checkpoint: Option<CheckpointAt>,
    /// The checkpoint before the present one: retention keeps it until that has been verified.
    pub older_checkpoint: Option<CheckpointAt>,
    /// The last checkpoint was damaged: another generation writes it again.
    pub saves_again: bool,
    /// The last generation in which a trainer ended by itself.
    pub crashed_in: Option<Generation>,
    /// How fast its steps come.
    pub pace: Pace,
    /// Who waits to join.
    pub growth: Growth,
    /// How fast its workers are.
    pub balance: Balance,
    /// The last commit before the present generation; none once it has one of its own.
    pub paused_since: Option<Millis>,
    /// When slots last moved for the sake of speed.
    pub balanced_at: Option<Millis>,
    /// The generation of the last commit that this process saw.
    pub committed_by: Generation,
    /// How many generations in a row came to nothing: a failed step with nobody lost, or a member that hung.
    pub fruitless: u32,
    /// What the last failed step said.
    pub last_error: String,
    /// The last step and the finished model's digest, from the first member that finished in this generation.
    pub finished: Option<(Step, Digest)>,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In the queue.
    Waiting,
    /// At the head of the queue; the shell looks for a checkpoint.
    Restoring,
    /// A generation is at work.
    Training,
    /// The generation is broken; its members are asked where they stopped.
    Stopping {
        until: Millis,
        /// A member was lost: it does not count as a generation that came to nothing, since the next one differs.
        lost: bool,
        /// Members that do not answer are left out.
        hung: bool,
    },
    /// The last generations came to nothing, and the next one is put off. Who has the state keeps it.
    Resting { until: Millis },
    /// All members have stopped; their checkpoint is awaited.
    Saving { until: Millis },
    /// Nothing is under way.
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub checkpoint: bool,
    pub pause: bool,
}

/// A member as the core sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub state: SeatState,
    /// Its session is gone; it is given up at this time.
    pub away: Option<Millis>,
    /// It has been heard of in this generation, so the assignment did arrive.
    pub seen: bool,
    /// What its last heartbeat of this generation said.
    pub beat: Option<Beat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeatState {
    Training,
    /// A collective failed when it had done so many steps.
    Failed(Step),
    Paused(Step),
    Finished,
}

/// What members say of steps that are not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Reports that wait for an earlier one.
    pub reports: BTreeMap<Step, Report>,
    /// The highest step that a member says it has done.
    pub claimed: Step,
    /// When the next report is given up.
    pub until: Option<Millis>,
}

/// A step that a member applied.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Which generation did it.
    pub generation: Generation,
    /// None: it leaves them to others.
    pub segments: Option<Vec<Segment>>,
    pub samples_digest: Digest,
    /// How long the worker computed.
    pub computed_ms: f64,
}

impl Run {
    pub fn new(mut record: RunRecord) -> Self {
        let early_checkpoint = record.restore.take_if(|at| at.step > record.step);
        // Members joined in this attempt, so the first of them tells when it began, or later.
        let lineage = match record.attempt {
            Attempt(..=1) => Generation(0),
            _ => record.members.iter().map(|member| member.since).min().unwrap_or(record.generation.next()),
        };
        let digests = record.samples_digest.map(|digest| (record.step, digest)).into_iter().collect();
        let mut run = Self {
            record,
            places: BTreeMap::new(),
            stage: Stage::Waiting,
            touched: true,
            due: None,
            due_is_stale: true,
            trains: None,
            seats: BTreeMap::new(),
            asked: Asked::default(),
            digests,
            ahead: Ahead::default(),
            lineage,
            early_checkpoint,
            older_checkpoint: None,
            saves_again: false,
            crashed_in: None,
            pace: Pace::default(),
            growth: Growth::default(),
            balance: Balance::default(),
            paused_since: None,
            balanced_at: None,
            committed_by: Generation(0),
            fruitless: 0,
            last_error: String::new(),
            finished: None,
        };
        run.find_places();
        run
    }

    /// It has to be looked at.
    pub fn touch(&mut self) {
        (self.touched, self.due_is_stale) = (true, true);
    }

    /// After every change of the record's members.
    pub fn find_places(&mut self) {
        let members = self.record.members.iter().enumerate();
        self.places = members.map(|(place, member)| (member.worker.clone(), place)).collect();
    }

    /// A member of the present generation, or of the last one where none is at work, and its place.
    pub fn member(&self, worker: &WorkerId) -> Option<(usize, &Member)> {
        let place = *self.places.get(worker)?;
        let member = &self.record.members[place];
        assert!(member.worker == *worker, "the places of run {} are not those of its members", self.record.id);
        Some((place, member))
    }

    /// Whether a member has yet to say that it stopped. The one that was found last is asked first and those after it
    /// next: so when all stop, one after the other in whatever order, each is asked about twice at most.
    pub fn somebody_trains(&mut self) -> bool {
        use std::ops::Bound::{Excluded, Unbounded};
        let trains = |seat: &Seat| seat.state == SeatState::Training;
        let next = match &self.trains {
            Some(known) if self.seats.get(known).is_some_and(trains) => return true,
            Some(known) => self.seats.range((Excluded(known), Unbounded)).find(|(_, seat)| trains(seat)),
            None => None,
        };
        let next = next.or_else(|| self.seats.iter().find(|(_, seat)| trains(seat)));
        self.trains = next.map(|(worker, _)| worker.clone());
        self.trains.is_some()
    }

    /// Waits for workers.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Restoring)
    }

    /// Workers it can use at most.
    pub fn capacity(&self) -> usize {
        self.record.spec.max_workers.min(self.record.spec.slots) as usize
    }

    /// Workers it needs at least.
    pub fn need(&self) -> usize {
        self.record.spec.min_workers.max(1) as usize
    }

    /// The last step whose state may be restored: a later one would leave steps without a commit.
    pub fn restorable(&self) -> Step {
        self.record.trusted.map_or(self.record.step, |trusted| trusted.min(self.record.step))
    }

    /// No member holds the run's state, or only one from before the newest checkpoint. One that is a step behind the
    /// last commit is as good as any: that step is computed again, and comes out the same.
    pub fn is_forgotten(&self) -> bool {
        let kept = self.record.restore.map_or(Step(0), |at| at.step).max(Step(1)).min(self.record.step);
        let less = |seat: &Seat| matches!(seat.state, SeatState::Failed(step) if step < kept);
        self.seats.values().all(less)
    }

    /// Members that have not said that they stopped.
    pub fn training(&self) -> Vec<WorkerId> {
        let training = self.seats.iter().filter(|(_, seat)| seat.state == SeatState::Training);
        training.map(|(worker, _)| worker.clone()).collect()
    }

    /// The highest step at which a member paused.
    pub fn paused_at(&self) -> Option<Step> {
        let paused = |seat: &Seat| match seat.state {
            SeatState::Paused(step) => Some(step),
            _ => None,
        };
        self.seats.values().filter_map(paused).max()
    }

    /// The state at which the members stopped is in a durable checkpoint.
    pub fn is_saved(&self) -> bool {
        let at = self.record.restore;
        at.is_some_and(|at| self.paused_at().is_none_or(|step| at.step >= step && step <= self.record.step))
    }

    /// The step that it ends with, as far as is known.
    pub fn last_step(&self) -> Step {
        self.finished.map_or(self.record.spec.total_steps, |(step, _)| step)
    }

    /// Why it ends before its last step.
    pub fn stopped_early(&self) -> Option<String> {
        let (step, total) = (self.last_step(), self.record.spec.total_steps);
        let patience = self.record.spec.patience.filter(|_| step < total)?;
        Some(format!(
            "stopped early, after step {step} of {total}: {patience} evaluations in a row were no better than one before \
             (eval.patience)"
        ))
    }

    /// Every step is committed, the last checkpoint is durable, and who is still there has finished.
    pub fn is_complete(&self) -> bool {
        let last = self.last_step();
        self.finished.is_some()
            && self.record.step == last
            && self.record.restore.is_some_and(|at| at.step == last)
            && self.seats.values().all(|seat| seat.state == SeatState::Finished)
    }

    /// Remembers a committed step's digest.
    pub fn remember(&mut self, step: Step, digest: Digest) {
        self.digests.insert(step, digest);
        if self.digests.len() > DIGESTS_KEPT {
            self.digests.pop_first();
        }
    }

    /// The next thing that is due without anything happening.
    pub fn deadline(&self) -> Option<Millis> {
        let stage = match self.stage {
            Stage::Stopping { until, .. } | Stage::Resting { until } | Stage::Saving { until } => Some(until),
            _ => None,
        };
        let growth = self.growth.due.filter(|_| self.stage == Stage::Training && !self.asked.pause);
        self.seats.values().filter_map(|seat| seat.away).chain(stage).chain(self.ahead.until).chain(growth).min()
    }
}

impl Seat {
    /// A member that was just assigned.
    pub fn assigned() -> Self {
        Self { state: SeatState::Training, away: None, seen: false, beat: None }
    }

    /// A member that came back and says it works in this generation; where it stands it will say.
    pub fn holding() -> Self {
        Self { state: SeatState::Training, away: None, seen: true, beat: None }
    }
}
