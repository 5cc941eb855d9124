//! The world of one seed: the agenda of what will happen, the links, and the coordinator's shell.

use crate::data::State;
use crate::disk::Disk;
use crate::faults::Trouble;
use crate::group::Group;
use crate::node::Node;
use control::{CheckpointAt, Control, Directive, Effect, Event, Millis, PlantedBug, Record, Settings};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use types::{Generation, Rank, RunId, WorkerId};

/// Faults stop at this time.
const CALM_AT: Millis = Millis(20_000);
/// By then every run must have ended.
const END_AT: Millis = Millis(400_000);

/// A bug that is there on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In the core, see [`PlantedBug`].
    GenerationRestarts,
    /// The same.
    OldCommit,
    /// In the data plan.
    UnitDealtTwice,
}

/// How a history went.
#[derive(Debug)]
pub struct Outcome {
    /// What was violated, if anything.
    pub violation: Option<String>,
    /// Line by line, if it was asked for.
    pub trace: Vec<String>,
    /// Steps that were committed, with those that were superseded.
    pub commits: u64,
    /// Generations that were made.
    pub generations: u64,
    /// Attempts beyond the first of each run.
    pub rewinds: u64,
    /// How many things happened.
    pub events: u64,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Item {
    Start { worker: WorkerId },
    Dial { worker: WorkerId, process: u32 },
    TrainerUp { worker: WorkerId, process: u32 },
    Beat { worker: WorkerId, process: u32 },
    Join { worker: WorkerId, process: u32 },
    Share { key: (RunId, Generation), tries: u32 },
    Step { key: (RunId, Generation) },
    RendezvousTimeout { key: (RunId, Generation) },
    MemberFails { worker: WorkerId, process: u32, key: (RunId, Generation), error: &'static str },
    Upload { worker: WorkerId, process: u32, key: (RunId, Generation), rank: Rank, state: Box<State>, tries: u32 },
    Up { link: u64, event: Event },
    Down { link: u64, directive: Option<Directive> },
    Closed { link: u64 },
    Shell { boot: u32, event: Event },
    Alarm,
    Boot,
    Fault,
    Mend { worker: WorkerId, what: Trouble },
    Deaf { worker: WorkerId, since: Millis },
    Spare { worker: WorkerId, process: u32 },
    Resume { run: RunId },
    Unblock,
}

/// A session: two ordered streams.
#[derive(Debug)]
pub(crate) struct Link {
    worker: WorkerId,
    boot: u32,
    /// Nothing that is under way upwards arrives any more.
    up_cut: bool,
    down_cut: bool,
    up_last: Millis,
    down_last: Millis,
}

#[derive(Debug)]
pub(crate) struct World {
    pub seed: u64,
    pub rng: ChaCha8Rng,
    pub now: Millis,
    agenda: BTreeMap<(Millis, u64), Item>,
    sequence: u64,
    pub control: Option<Control>,
    boot: u32,
    /// The coordinator's process ends after so many more effects.
    pub crash_after: Option<u32>,
    pub disk: Disk,
    /// The coordinator's own disk is full: it decides nothing, and what it is told waits.
    pub backlog: Option<Vec<Event>>,
    /// No checkpoint can be written.
    pub store_full_until: Millis,
    /// Runs that diverged and have yet to go back.
    pub diverging: BTreeSet<RunId>,
    /// For when the last alarm was set; none once it came.
    alarm_at: Option<Millis>,
    /// Whose report is being handled, and of which generation.
    speaker: Option<(WorkerId, Generation)>,
    pub planted: Option<Planted>,
    pub calm: bool,
    pub nodes: BTreeMap<WorkerId, Node>,
    pub groups: BTreeMap<(RunId, Generation), Group>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    pub processes: u32,
    trace: Option<Vec<String>>,
    violation: Option<String>,
    commits: u64,
}

/// Lives through one history.
pub fn simulate(seed: u64, trace: bool) -> Outcome {
    simulate_planted(seed, trace, None)
}

/// The same with a bug that must be found.
pub fn simulate_planted(seed: u64, trace: bool, planted: Option<Planted>) -> Outcome {
    let mut world = World {
        seed,
        rng: ChaCha8Rng::seed_from_u64(seed),
        now: Millis(0),
        agenda: BTreeMap::new(),
        sequence: 0,
        control: None,
        boot: 0,
        crash_after: None,
        disk: Disk::default(),
        backlog: None,
        store_full_until: Millis(0),
        diverging: BTreeSet::new(),
        alarm_at: None,
        speaker: None,
        planted,
        calm: false,
        nodes: BTreeMap::new(),
        groups: BTreeMap::new(),
        links: BTreeMap::new(),
        next_link: 0,
        processes: 0,
        trace: trace.then(Vec::new),
        violation: None,
        commits: 0,
    };
    world.live();
    let runs = world.disk.runs.values();
    Outcome {
        violation: world.violation,
        trace: world.trace.unwrap_or_default(),
        commits: world.commits,
        generations: runs.clone().map(|kept| kept.record.generation.0).sum(),
        rewinds: runs.map(|kept| u64::from(kept.record.attempt.0 - 1)).sum(),
        events: world.sequence,
    }
}

impl World {
    fn live(&mut self) {
        self.boot();
        self.people_and_workers();
        while self.violation.is_none() {
            if !self.calm && self.now >= CALM_AT {
                self.calm = true;
                self.mend_everything();
            }
            let Some(((at, _), item)) = self.agenda.pop_first() else { break };
            self.now = at;
            if self.calm && (self.has_ended() || self.now > END_AT) {
                break;
            }
            if self.calm && matches!(item, Item::Fault) {
                continue;
            }
            match self.frozen(&item) {
                true => self.after(100..200, item),
                false => self.happen(item),
            }
        }
        if self.violation.is_none() {
            self.check_end();
        }
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Start { worker } => {
                if !self.nodes[&worker].up {
                    self.start(&worker);
                }
            }
            Item::Dial { worker, process } => self.dial(&worker, process),
            Item::TrainerUp { worker, process } => self.trainer_up(&worker, process),
            Item::Beat { worker, process } => self.beat(&worker, process),
            Item::Join { worker, process } => self.join(&worker, process),
            Item::Share { key, tries } => self.share(&key, tries),
            Item::Step { key } => self.step(&key),
            Item::RendezvousTimeout { key } => self.rendezvous_timeout(&key),
            Item::MemberFails { worker, process, key, error } => {
                let node = &self.nodes[&worker];
                if node.up && node.process == process {
                    if node.stuck.is_some() {
                        self.after(200..201, Item::MemberFails { worker, process, key, error });
                    } else {
                        self.member_fails(&worker, &key, error);
                    }
                }
            }
            Item::Upload { worker, process, key, rank, state, tries } => {
                self.upload(&worker, process, &key, rank, state, tries);
            }
            Item::Up { link, event } => {
                if !self.links[&link].up_cut {
                    self.tell(event);
                }
            }
            Item::Down { link, directive } => self.deliver(link, directive),
            Item::Closed { link } => {
                let Link { worker, boot, .. } = &self.links[&link];
                if *boot == self.boot {
                    self.tell(Event::WorkerDisconnected { worker: worker.clone(), session: link });
                }
            }
            Item::Shell { boot, event } => {
                if boot == self.boot {
                    self.tell(event);
                }
            }
            Item::Alarm => self.alarm(),
            Item::Boot => self.boot(),
            Item::Fault => self.fault(),
            Item::Mend { worker, what } => self.mend(&worker, what),
            Item::Resume { run } => self.tell(Event::Resume { run }),
            Item::Deaf { worker, since } => self.deaf(&worker, since),
            Item::Spare { worker, process } => self.spare_due(&worker, process),
            Item::Unblock => self.unblock(),
        }
    }

    /// The coordinator starts from what is on disk.
    pub fn boot(&mut self) {
        if self.control.is_some() {
            return;
        }
        self.boot += 1;
        self.log(|| "the coordinator starts".to_owned());
        let settings = Settings { hang: Millis(15_000), rest: Millis(8_000), ..Settings::default() };
        let mut control = Control::new(settings);
        match self.planted {
            Some(Planted::GenerationRestarts) => control.plant(PlantedBug::GenerationRestarts),
            Some(Planted::OldCommit) => control.plant(PlantedBug::OldCommit),
            Some(Planted::UnitDealtTwice) | None => {}
        }
        // With thousands of workers that would take too long.
        if self.nodes.len() < 100 {
            control.verify_shortcuts();
        }
        control.restore(self.now, self.disk.records());
        self.control = Some(control);
        self.alarm();
    }

    /// The coordinator's process ends; every session with it.
    pub fn crash(&mut self) {
        if self.control.take().is_none() {
            return;
        }
        self.log(|| "the coordinator crashes".to_owned());
        self.backlog = None;
        for link in self.nodes.values().filter_map(|node| node.link).collect::<Vec<_>>() {
            self.close(link, true);
        }
        self.after(100..4000, Item::Boot);
    }

    /// Tells the core what happened and carries out what it says.
    pub fn tell(&mut self, event: Event) {
        let now = self.now;
        let Some(control) = &mut self.control else { return };
        if let Some(backlog) = &mut self.backlog {
            return backlog.push(event);
        }
        self.speaker = match &event {
            Event::Progress { worker, generation, .. } => Some((worker.clone(), *generation)),
            _ => None,
        };
        let diverged = match &event {
            Event::Diverged { run, generation, .. } if control.is_current(run, *generation) => Some(run.clone()),
            _ => None,
        };
        self.diverging.extend(diverged);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} -> {}", now.0, brief(&event)));
        }
        control.handle(now, event);
        self.carry_out();
        self.speaker = None;
    }

    fn alarm(&mut self) {
        let now = self.now;
        self.alarm_at.take_if(|at| *at <= now);
        if let Some(control) = self.control.as_mut().filter(|_| self.backlog.is_none()) {
            control.handle_timeout(now);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.control.as_mut().and_then(Control::poll_effect) {
            if let Some(left) = &mut self.crash_after {
                if *left == 0 {
                    self.crash_after = None;
                    return self.crash();
                }
                *left -= 1;
            }
            self.log(|| format!("   {effect:?}"));
            match effect {
                Effect::Persist(record) => {
                    if let Err(text) = self.check_record(&record).and_then(|()| self.disk.persist(record)) {
                        self.violated(text);
                    }
                }
                Effect::Send { worker, directive } => self.direct(&worker, directive),
                Effect::SendMembers { run, directive } => {
                    let members = self.disk.runs[&run].record.members.clone();
                    for member in members {
                        // Some have too much to read already.
                        if self.rng.random_bool(0.9) {
                            self.direct(&member.worker, directive.clone());
                        }
                    }
                }
                Effect::Refuse { worker: _, session, reason: _ } => {
                    self.send_down(session, None);
                }
                Effect::FindRestore { run, at_most } => {
                    let kept = &self.disk.runs[&run];
                    let at = kept.newest_good(at_most);
                    let is_bad = |state: &State| state.bad_since.is_some() || state.flipped.is_some() && !kept.tainted;
                    if self.diverging.contains(&run) && at.is_some_and(|at| is_bad(&kept.checkpoints[&at])) {
                        return self.violated(format!("{run} diverged and goes back to a bad state"));
                    }
                    self.shell_event(Event::RestoreFound { run, at });
                }
            }
        }
        let Some(at) = self.control.as_ref().and_then(Control::poll_timeout) else { return };
        if at <= self.now {
            return self.violated(format!("due at {} and still due at {}", at.0, self.now.0));
        }
        // Once: with thousands of workers something is told thousands of times before the next alarm.
        if self.alarm_at.replace(at) != Some(at) {
            self.at(at, Item::Alarm);
        }
    }

    /// What must hold of a record beside what the disk checks.
    fn check_record(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Commit { run, step, .. } => {
                self.commits += 1;
                // A step is committed by a member that holds the run's present state.
                let Some((worker, generation)) = &self.speaker else {
                    return Err(format!("{run}: step {step} was committed though nobody reported a step"));
                };
                let kept = &self.disk.runs[run].record;
                let member = kept.members.iter().find(|member| member.worker == *worker);
                if !member.is_some_and(|member| member.since <= *generation && *generation <= kept.generation) {
                    return Err(format!("{run}: {worker} commits step {step} of generation {generation}"));
                }
            }
            Record::Attempt { run, .. } => _ = self.diverging.remove(run),
            Record::Run(_) | Record::Note { .. } => {}
        }
        Ok(())
    }

    /// Whether an item is for somebody who is stopped.
    fn frozen(&self, item: &Item) -> bool {
        let (Item::Dial { worker, .. }
        | Item::TrainerUp { worker, .. }
        | Item::Beat { worker, .. }
        | Item::Join { worker, .. }
        | Item::MemberFails { worker, .. }
        | Item::Spare { worker, .. }
        | Item::Upload { worker, .. }) = item
        else {
            return false;
        };
        self.nodes[worker].frozen
    }

    /// The coordinator's disk is full.
    pub fn blocked(&self) -> bool {
        self.backlog.is_some()
    }

    /// It has room again.
    pub fn unblock(&mut self) {
        for event in self.backlog.take().unwrap_or_default() {
            self.tell(event);
        }
        self.alarm();
    }

    fn direct(&mut self, worker: &WorkerId, directive: Directive) {
        if let Directive::Assign(assignment) = &directive {
            let kept = &self.disk.runs[&assignment.run];
            let me = kept.record.members.get(assignment.rank.0 as usize);
            let durable = kept.record.generation == assignment.generation
                && me.is_some_and(|me| me.worker == *worker && me.slots == assignment.slots);
            let holds = assignment.restore.is_none_or(|at: CheckpointAt| kept.checkpoints.contains_key(&at));
            if !durable || !holds {
                self.violated(format!("{assignment:?} is not what is on disk"));
            }
        }
        let session = self.control.as_ref().and_then(|control| {
            let known = control.workers().find(|(name, _)| *name == worker);
            known.and_then(|(_, known)| known.session)
        });
        if let Some(session) = session {
            self.send_down(session, Some(directive));
        }
    }

    pub fn deliver(&mut self, link: u64, directive: Option<Directive>) {
        let Link { worker, down_cut, .. } = &self.links[&link];
        let worker = worker.clone();
        let node = self.nodes.get_mut(&worker).expect("known");
        if node.frozen {
            return node.inbox.push_back((link, directive));
        }
        if *down_cut || self.nodes[&worker].link != Some(link) {
            return;
        }
        match directive {
            Some(directive) => {
                self.log(|| format!("{worker} <- {directive:?}"));
                self.obey(&worker, directive);
            }
            None => self.refused(&worker),
        }
    }

    /// What the shell itself finds out, a moment later.
    pub fn shell_event(&mut self, event: Event) {
        let boot = self.boot;
        self.after(1..30, Item::Shell { boot, event });
    }

    pub fn open_link(&mut self, worker: &WorkerId) -> u64 {
        self.next_link += 1;
        let (boot, now) = (self.boot, self.now);
        let link = Link { worker: worker.clone(), boot, up_cut: false, down_cut: false, up_last: now, down_last: now };
        self.links.insert(self.next_link, link);
        self.next_link
    }

    /// The session ends at the worker. With `lossy`, what is under way to the coordinator is lost too, and it notices
    /// only after a while.
    pub fn close(&mut self, id: u64, lossy: bool) {
        let delay = if lossy { self.rng.random_range(1..2500) } else { self.rng.random_range(1..30) };
        let link = self.links.get_mut(&id).expect("opened before");
        link.down_cut = true;
        link.up_cut = lossy;
        let at = if lossy { self.now + Millis(delay) } else { link.up_last.max(self.now) + Millis(delay) };
        let worker = link.worker.clone();
        self.at(at, Item::Closed { link: id });
        let node = self.nodes.get_mut(&worker).expect("known");
        node.link = None;
        let process = node.process;
        if node.up {
            self.after(20..400, Item::Dial { worker, process });
        }
    }

    pub fn send_up(&mut self, id: u64, delay: u64, event: Event) {
        let link = self.links.get_mut(&id).expect("opened before");
        link.up_last = link.up_last.max(self.now + Millis(delay));
        let at = link.up_last;
        self.at(at, Item::Up { link: id, event });
    }

    fn send_down(&mut self, id: u64, directive: Option<Directive>) {
        let worker = self.links[&id].worker.clone();
        let delay = self.delay(&worker);
        let link = self.links.get_mut(&id).expect("opened before");
        link.down_last = link.down_last.max(self.now + Millis(delay));
        let at = link.down_last;
        self.at(at, Item::Down { link: id, directive });
    }

    pub fn after(&mut self, wait: Range<u64>, item: Item) {
        let at = self.now + Millis(self.rng.random_range(wait));
        self.at(at, item);
    }

    pub fn at(&mut self, at: Millis, item: Item) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), item);
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.now.0, line()));
        }
    }

    pub fn violated(&mut self, text: String) {
        self.log(|| format!("VIOLATED: {text}"));
        self.violation.get_or_insert_with(|| format!("at {} ms: {text}", self.now.0));
    }
}

/// An event without the lists that would fill the screen.
fn brief(event: &Event) -> String {
    match event {
        Event::Progress { worker, run, generation, step, .. } => {
            format!("Progress of {worker}: {run}, generation {generation}, step {step}")
        }
        Event::Submit { run, spec } => {
            format!("Submit {run}: {} slots, {} to {} workers", spec.slots, spec.min_workers, spec.max_workers)
        }
        other => format!("{other:?}"),
    }
}
