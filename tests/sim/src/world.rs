//! The world of one seed: the agenda of what will happen, the links, and the coordinator's shell.

use crate::data::State;
use crate::disk::Disk;
use crate::group::Group;
use crate::node::Node;
use control::{CheckpointAt, Control, Directive, Effect, Event, Millis, Settings};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use types::{Generation, Rank, RunId, WorkerId};

/// Faults stop at this time.
const CALM_AT: Millis = Millis(15_000);
/// By then every run must have ended.
const END_AT: Millis = Millis(400_000);

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
    Share { key: (RunId, Generation) },
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
    Unstick { worker: WorkerId },
    Mend { worker: WorkerId },
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
        let mut calm = false;
        while self.violation.is_none() {
            if !calm && self.now >= CALM_AT {
                calm = true;
                self.mend_everything();
            }
            let Some(((at, _), item)) = self.agenda.pop_first() else { break };
            self.now = at;
            if calm && (self.has_ended() || self.now > END_AT) {
                break;
            }
            if !(calm && matches!(item, Item::Fault)) {
                self.happen(item);
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
            Item::Share { key } => self.share(&key),
            Item::Step { key } => self.step(&key),
            Item::RendezvousTimeout { key } => self.rendezvous_timeout(&key),
            Item::MemberFails { worker, process, key, error } => {
                let node = &self.nodes[&worker];
                if node.up && node.process == process {
                    if node.stuck {
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
            Item::Unstick { worker } => self.nodes.get_mut(&worker).expect("known").stuck = false,
            Item::Mend { worker } => self.nodes.get_mut(&worker).expect("known").cut_off = false,
        }
    }

    /// The coordinator starts from what is on disk.
    pub fn boot(&mut self) {
        if self.control.is_some() {
            return;
        }
        self.boot += 1;
        self.log(|| "the coordinator starts".to_owned());
        let settings = Settings { hang: Millis(6_000), hang_gather: Millis(1_000), ..Settings::default() };
        let mut control = Control::new(settings);
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
        for link in self.nodes.values().filter_map(|node| node.link).collect::<Vec<_>>() {
            self.close(link, true);
        }
        self.after(100..4000, Item::Boot);
    }

    /// Tells the core what happened and carries out what it says.
    pub fn tell(&mut self, event: Event) {
        let now = self.now;
        if self.control.is_none() {
            return;
        }
        self.log(|| format!("-> {}", brief(&event)));
        self.control.as_mut().expect("just checked").handle(now, event);
        self.carry_out();
    }

    fn alarm(&mut self) {
        let now = self.now;
        if let Some(control) = &mut self.control {
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
                    self.commits += u64::from(matches!(record, control::Record::Commit { .. }));
                    if let Err(text) = self.disk.persist(record) {
                        self.violated(text);
                    }
                }
                Effect::Send { worker, directive } => self.direct(&worker, directive),
                Effect::Refuse { worker: _, session, reason: _ } => {
                    self.send_down(session, None);
                }
                Effect::FindRestore { run, at_most } => {
                    let kept = &self.disk.runs[&run];
                    let at = kept.checkpoints.keys().rev().find(|at| at.step <= at_most).copied();
                    self.shell_event(Event::RestoreFound { run, at });
                }
            }
        }
        if let Some(at) = self.control.as_ref().and_then(Control::poll_timeout) {
            if at <= self.now {
                return self.violated(format!("due at {} and still due at {}", at.0, self.now.0));
            }
            self.at(at, Item::Alarm);
        }
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

    fn deliver(&mut self, link: u64, directive: Option<Directive>) {
        let Link { worker, down_cut, .. } = &self.links[&link];
        let worker = worker.clone();
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
        let delay = self.delay();
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
