//! Who hangs: told by progress, not by being alive.
//!
//! A member whose trainer is not heard any more while others are, and no step was committed meanwhile (a step takes all
//! members), is left out at once: a stopped process, a host that is gone. How long a step of a run takes is learned from
//! its commits. A run with no new step for several times as long is looked into: the one that all others wait for in a
//! collective is left out. The run's events say so. While nobody waits for anybody, nothing is done for long.

use crate::run::{Seat, SeatState, Stage};
use crate::{Control, Millis, Phase};
use types::{Generation, RunId, Step, WorkerId};

/// A run that stands still is looked at so often.
const LOOK_EVERY: Millis = Millis(250);
/// After so long without a call what workers said meanwhile may be on its way: nobody is to blame for silence.
const LATE: Millis = Millis(500);
/// The longest step counts for a thousandth less with every step.
const FORGET: f64 = 0.999;
/// The longest pause between two signs of life counts for a hundredth less with every one of them.
const FORGET_PAUSE: f64 = 0.99;
/// A silence is longer than this many times the longest pause of late.
const PAUSE_FACTOR: u64 = 3;
/// After so many percent of the least silence it is one, however a member used to pause.
const MOST_PERCENT: u64 = 175;
/// `recovery.hang_factor`, as it is if nobody sets it: whoever asks for more patience gets it here too.
const USUAL_HANG_FACTOR: u64 = 10;
/// A stall is longer than this many times the longest step of late.
const LONGEST_FACTOR: f64 = 3.0;
/// The first step of a generation waits for state, memory and samples: this long at least, in milliseconds.
const FIRST_MS: f64 = 5_000.0;
/// Waiting for samples depends on disks and networks: nobody is blamed for less.
const DATA_MIN: Millis = Millis(10_000);
/// A stall with everybody computing and nobody waiting is given so much more time.
const NOBODY_WAITS: u64 = 3;

/// How fast a run's steps come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The usual time from step to step, in milliseconds; none before the second commit.
    usual_ms: Option<f64>,
    /// The longest of late, slowly forgotten: reading the next unit may take far longer than a step.
    longest_ms: f64,
    /// The longest of late from the beginning of a generation to its first commit.
    longest_first_ms: f64,
    /// Since the last commit somebody did what is no part of a step.
    aside: bool,
    /// The last commit of this generation.
    last: Option<Millis>,
    /// The last sign of movement: a commit, or the beginning of the generation.
    moved: Millis,
    /// When to look next.
    look_at: Millis,
}

/// What a member's last heartbeat said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    pub step: Step,
    pub phase: Phase,
    pub collective: u64,
    /// For how long nothing had moved then.
    pub quiet: Millis,
    /// When it came.
    pub at: Millis,
}

impl Beat {
    /// For how long nothing has moved.
    fn quiet(&self, now: Millis) -> Millis {
        self.quiet + (now - self.at)
    }
}

/// When a member's trainer was heard.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hearing {
    last: Millis,
    /// The longest pause of late, in milliseconds.
    longest_ms: f64,
}

impl Hearing {
    /// It was heard now for the first time.
    pub fn begin(now: Millis) -> Self {
        Self { last: now, longest_ms: 0.0 }
    }

    /// What came before says nothing: it counts as heard now.
    pub fn resume(&mut self, now: Millis) {
        self.last = now;
    }

    fn heard(&mut self, at: Millis, least: Millis) {
        if at > self.last {
            let pause = at - self.last;
            // Who was away for longer than anybody is waited for has no such habit.
            let habit = if pause > most(least) { 0.0 } else { pause.0 as f64 };
            self.longest_ms = habit.max(self.longest_ms * FORGET_PAUSE);
            self.last = at;
        }
    }

    /// How long a silence must be to mean something.
    fn patience(&self, least: Millis) -> Millis {
        Millis(self.longest_ms as u64 * PAUSE_FACTOR).clamp(least, most(least))
    }
}

fn most(least: Millis) -> Millis {
    Millis(least.0 * MOST_PERCENT / 100)
}

impl Pace {
    /// A generation begins.
    pub fn begin(&mut self, now: Millis) {
        (self.last, self.moved, self.look_at, self.aside) = (None, now, now, false);
    }

    /// A step was committed. `computed_ms`: how long its computation took by the worker's own clock, since reports that
    /// were held up come all at once.
    pub fn committed(&mut self, now: Millis, computed_ms: f64) {
        let took = ((now - self.last.unwrap_or(self.moved)).0 as f64).max(computed_ms);
        match self.last {
            None => self.longest_first_ms = took.max(self.longest_first_ms / 2.0),
            Some(_) if self.aside => {}
            Some(_) => {
                self.usual_ms = Some(self.usual_ms.map_or(took, |usual| usual + (took - usual) / 8.0));
                self.longest_ms = took.max(self.longest_ms * FORGET);
            }
        }
        (self.last, self.moved, self.aside) = (Some(now), now, false);
    }

    /// How long the run may stand still, if `factor` usual steps are too long; none before anything was learned.
    fn patience_ms(&self, factor: f64) -> Option<f64> {
        let patience = (factor * self.usual_ms?).max(LONGEST_FACTOR * self.longest_ms);
        let first = if self.last.is_none() { (LONGEST_FACTOR * self.longest_first_ms).max(FIRST_MS) } else { 0.0 };
        Some(patience.max(first))
    }

    /// The usual time from step to step.
    pub fn usual_ms(&self) -> Option<f64> {
        self.usual_ms
    }

    /// The last sign of movement: a commit, or the beginning of the generation.
    pub fn moved(&self) -> Millis {
        self.moved
    }

    pub fn last_commit(&self) -> Option<Millis> {
        self.last
    }
}

impl Control {
    /// Time goes on. If the shell slept, nothing could be heard meanwhile: with workers at work, somebody always speaks.
    pub(crate) fn advance(&mut self, now: Millis) {
        if now - self.now > LATE {
            for worker in self.workers.values_mut() {
                worker.hearing.resume(now);
            }
            for run in self.runs.values_mut() {
                run.pace.moved = now;
            }
        }
        self.now = self.now.max(now);
    }

    /// A worker's trainer said something so long ago.
    pub(crate) fn hear(&mut self, worker: &WorkerId, ago: Millis) {
        let least = self.least_silence(self.workers.get(worker).and_then(|known| known.run.as_ref()));
        let Some(known) = self.workers.get_mut(worker) else { return };
        let before = known.hearing.patience(least);
        known.hearing.heard(self.now - ago, least);
        let patience = known.hearing.patience(least);
        // Its patience is shorter than it was when this was last looked at: a silence that begins now may be one
        // earlier.
        let shorter = (patience < before).then(|| (known.run.clone(), known.hearing.last + patience));
        if let Some((run, silent)) = shorter {
            if let Some(run) = run.and_then(|id| self.runs.get_mut(&id)) {
                run.due = run.due.map(|due| due.min(silent));
            }
            self.due_by(silent);
        }
    }

    /// When a member's silence begins to mean something, unless it is heard or a step is done.
    pub(crate) fn silent_at(&self, worker: &WorkerId) -> Millis {
        let known = &self.workers[worker];
        known.hearing.last + known.hearing.patience(self.least_silence(known.run.as_ref()))
    }

    /// No shorter silence means anything in this run.
    fn least_silence(&self, run: Option<&RunId>) -> Millis {
        let factor = run.map_or(0, |id| u64::from(self.runs[id].record.spec.recovery.hang_factor));
        Millis(self.settings.silence.0 * factor.max(USUAL_HANG_FACTOR) / USUAL_HANG_FACTOR)
    }

    /// True if a decision follows from it.
    pub(crate) fn heartbeat(&mut self, worker: &WorkerId, id: &RunId, generation: Generation, beat: Beat) -> bool {
        let (now, hang, since) = (self.now, self.settings.hang, self.since(id, worker));
        let Some(run) = self.runs.get_mut(id) else { return false };
        let present = run.record.generation;
        let Some(seat) = run.seats.get_mut(worker) else { return false };
        if generation == present {
            (seat.seen, seat.beat) = (true, Some(beat));
            run.pace.aside |= !is_of_a_step(&beat);
        }
        // One that is stuck in an earlier generation never saw its new assignment.
        let one_of_ours = generation <= present && since.is_some_and(|since| generation >= since);
        let hangs = one_of_ours && seat.state == SeatState::Training && beat.quiet > hang;
        // Who waits for one that is getting on, with a long step or a large checkpoint, does not hang.
        let moves =
            |seat: &Seat| seat.state == SeatState::Training && seat.beat.is_some_and(|beat| beat.quiet(now) <= hang);
        let acts = hangs && run.stage == Stage::Training && !run.seats.values().any(moves);
        if acts {
            self.note(id, format!("{worker} has made no progress for {} s", beat.quiet.0 / 1000));
            self.run_mut(id).last_error = format!("{worker} made no progress");
            self.stop(id, false, true);
        }
        acts
    }

    /// How long a run may stand still before it is looked into.
    fn patience(&self, id: &RunId) -> Option<Millis> {
        let run = &self.runs[id];
        let factor = f64::from(run.record.spec.recovery.hang_factor);
        let learned = Millis(run.pace.patience_ms(factor)? as u64);
        Some(learned.clamp(self.settings.stall_min, self.settings.hang))
    }

    /// When a run that trains is looked at next.
    pub(crate) fn look_due(&self, id: &RunId) -> Option<Millis> {
        let run = self.runs.get(id).filter(|run| run.stage == Stage::Training && run.seats.len() > 1)?;
        let silence = self.silences(id).map(|(_, since, patience)| since + patience).min();
        let stall = self.patience(id).map(|patience| run.pace.moved + patience);
        Some(run.pace.look_at.max(silence.into_iter().chain(stall).min()?))
    }

    /// Looks for the one that everyone waits for.
    pub(crate) fn look(&mut self, id: &RunId) {
        let now = self.now;
        if self.look_due(id).is_none_or(|due| due > now) {
            return;
        }
        self.run_mut(id).pace.look_at = now + LOOK_EVERY;
        let silent: Vec<(WorkerId, Millis)> = self
            .silences(id)
            .filter(|(_, since, patience)| *since + *patience <= now)
            .map(|(worker, since, _)| (worker.clone(), now - since))
            .collect();
        if !silent.is_empty() {
            // If nobody was heard lately, it is this host that hears nothing.
            let lately = now - Millis(self.least_silence(Some(id)).0 / 2);
            if self.runs[id].seats.keys().any(|worker| self.workers[worker].hearing.last > lately) {
                for (worker, Millis(silence)) in &silent {
                    let text = format!("{worker} was not heard for {silence} ms, and no step was done: it is left out");
                    self.leave_out(id, worker, text);
                }
                self.stop(id, true, false);
            }
            return;
        }
        let run = &self.runs[id];
        let stalled = now - run.pace.moved;
        let Some(patience) = self.patience(id).filter(|patience| stalled >= *patience) else { return };
        let training = run.seats.iter().filter(|(_, seat)| seat.state == SeatState::Training);
        let beats: Option<Vec<(&WorkerId, Beat)>> =
            training.map(|(worker, seat)| seat.beat.map(|beat| (worker, beat))).collect();
        let quiet = |(_, beat): &(&WorkerId, Beat)| {
            beat.quiet(now) >= if beat.phase == Phase::Data { patience.max(DATA_MIN) } else { patience }
        };
        let Some(beats) = beats.filter(|beats| beats.iter().all(quiet)) else { return };
        match judge(&beats) {
            Verdict::One(worker, beat) => {
                let worker = worker.clone();
                let text = format!(
                    "{worker} was waited for by all others in step {}, phase {:?}, collective {}, for {} ms",
                    beat.step.next(),
                    beat.phase,
                    beat.collective,
                    stalled.0
                );
                self.run_mut(id).last_error.clone_from(&text);
                self.leave_out(id, &worker, format!("{text}: it is left out"));
                // It is alive and may do so again: this generation came to nothing.
                self.stop(id, false, false);
            }
            Verdict::Anyone { waited_for } if waited_for || stalled.0 >= NOBODY_WAITS * patience.0 => {
                let text = format!("no step for {} ms, and no telling who holds up the others", stalled.0);
                self.run_mut(id).last_error.clone_from(&text);
                self.note(id, text);
                self.stop(id, false, true);
            }
            Verdict::Anyone { .. } | Verdict::Wait => {}
        }
    }

    /// Since when the members that train and have a session are silent, and how long they may be. A step is a sign of
    /// life of all members.
    fn silences(&self, id: &RunId) -> impl Iterator<Item = (&WorkerId, Millis, Millis)> {
        let (run, least) = (&self.runs[id], self.least_silence(Some(id)));
        let train = |seat: &Seat| seat.away.is_none() && seat.state == SeatState::Training;
        run.seats.iter().filter(move |(_, seat)| train(seat)).map(move |(worker, _)| {
            let hearing = &self.workers[worker].hearing;
            (worker, hearing.last.max(run.pace.moved), hearing.patience(least))
        })
    }

    /// The run goes on without this member; it is given no work until its trainer answers.
    pub(crate) fn leave_out(&mut self, id: &RunId, worker: &WorkerId, text: String) {
        self.note(id, text);
        self.workers.get_mut(worker).expect("members are known").ready = false;
        self.strike(id, worker);
        self.unseat(id, worker);
    }
}

enum Verdict<'a> {
    /// All others wait for this one.
    One(&'a WorkerId, Beat),
    /// It cannot be told whom; `waited_for`: somebody is in a collective.
    Anyone { waited_for: bool },
    /// What they do may well take this long.
    Wait,
}

/// Whom the others wait for: the one that is furthest behind, or the only one that is not in the collective.
fn judge<'a>(beats: &[(&'a WorkerId, Beat)]) -> Verdict<'a> {
    let place = |beat: &Beat| (beat.step, beat.collective);
    let Some(last) = beats.iter().map(|(_, beat)| place(beat)).min() else { return Verdict::Wait };
    let waits = |beat: &Beat| beat.phase == Phase::Reduce;
    let mut behind: Vec<_> = beats.iter().filter(|(_, beat)| place(beat) == last).collect();
    if behind.len() == beats.len() {
        behind.retain(|(_, beat)| !waits(beat));
    }
    let waited_for = beats.iter().any(|(_, beat)| waits(beat));
    match behind[..] {
        _ if !beats.iter().all(|(_, beat)| is_of_a_step(beat)) => Verdict::Wait,
        [(worker, beat)] if beats.len() > 1 && waited_for => Verdict::One(worker, *beat),
        _ if waited_for || beats.iter().all(|(_, beat)| beat.phase == Phase::Compute) => Verdict::Anyone { waited_for },
        _ => Verdict::Wait,
    }
}

/// Other things may take long: nobody is blamed for them.
fn is_of_a_step(beat: &Beat) -> bool {
    matches!(beat.phase, Phase::Data | Phase::Compute | Phase::Reduce | Phase::Update)
}
