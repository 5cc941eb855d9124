//! A model of a worker: the agent's session and what it keeps to send again, and the trainer's place in its group.

use crate::data::State;
use crate::group;
use crate::world::{Item, World};
use control::{Assignment, Directive, Event, Holding, Millis, Phase, WorkerFacts};
use rand::Rng;
use std::collections::VecDeque;
use types::{Attempt, Generation, RunId, Step, WorkerId};

/// So many reports are sent again after a new session. More than a coordinator that is away lets pile up.
const REPORTS_KEPT: usize = 400;

/// A trainer that does not obey is ended after so many milliseconds.
const OBEYS: u64 = 60_000;

/// A worker's process, or the place where one was.
#[derive(Debug)]
pub struct Node {
    pub process: u32,
    pub up: bool,
    pub leaving: bool,
    pub link: Option<u64>,
    /// Cannot reach the coordinator, though the other workers.
    pub cut_off: bool,
    pub trainer_up: bool,
    /// Since when its trainer is stopped by a signal: alive, but does nothing.
    pub stuck: Option<Millis>,
    /// What its stopped trainer was told to give up; it says so when it goes on.
    pub unanswered: Option<(RunId, Generation)>,
    /// Agent and trainer are stopped: nothing is said, nothing is heard, all connections stay.
    pub frozen: bool,
    /// Cannot reach the other workers, though the coordinator.
    pub isolated: bool,
    /// What it says takes long.
    pub slow_link: bool,
    /// What came while it was frozen.
    pub inbox: VecDeque<(u64, Option<Directive>)>,
    /// Milliseconds of computation for each slot.
    pub slot_ms: u64,
    /// Arrived before the trainer was up.
    pub pending: Option<Assignment>,
    pub part: Option<Part>,
    /// Of `part`'s run.
    pub state: Option<State>,
    pub reports: VecDeque<Event>,
    /// What was left out of the reports of these steps, and when it is to be said.
    pub spares: VecDeque<(Millis, Event)>,
    /// The last step of this attempt that it was told is durable.
    pub durable: (Attempt, Step),
}

/// The trainer's part in a generation.
#[derive(Debug)]
pub struct Part {
    pub assignment: Assignment,
    pub checkpoint: bool,
    pub pause: bool,
    /// What the last heartbeat said, and since when.
    pub beat: (Step, Phase, u64, Millis),
    /// Stopped, and this said so.
    pub status: Option<Event>,
}

impl Part {
    pub fn key(&self) -> (RunId, Generation) {
        (self.assignment.run.clone(), self.assignment.generation)
    }
}

impl Node {
    pub fn new() -> Self {
        Self {
            process: 0,
            up: false,
            leaving: false,
            link: None,
            cut_off: false,
            trainer_up: false,
            stuck: None,
            unanswered: None,
            frozen: false,
            isolated: false,
            slow_link: false,
            inbox: VecDeque::new(),
            slot_ms: 5,
            pending: None,
            part: None,
            state: None,
            reports: VecDeque::new(),
            spares: VecDeque::new(),
            durable: Default::default(),
        }
    }

    /// Does not take part in collectives with others.
    pub fn is_absent(&self) -> bool {
        self.stuck.is_some() || self.frozen || self.isolated
    }

    /// How many slots it has.
    pub fn slots(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.assignment.slots.len() as u64)
    }

    /// In each step, in milliseconds.
    pub fn computes_for(&self) -> u64 {
        self.slots() * self.slot_ms
    }

    /// How long it waits for others to say what the slots used.
    fn turn(&self) -> Millis {
        let rank = self.part.as_ref().map_or(0, |part| part.assignment.rank.0);
        // It grows by more than a half with each doubling.
        let turn =
            |doublings| [300, 480, 768, 1229, 1966, 3146, 5033].get(doublings as usize).copied().unwrap_or(8_000);
        Millis(rank.checked_ilog2().map_or(0, turn))
    }

    fn holding(&self) -> Option<Holding> {
        let part = self.part.as_ref()?;
        let step = self.state.as_ref().map(|state| state.step).unwrap_or_default();
        Some(Holding { run: part.assignment.run.clone(), generation: part.assignment.generation, step })
    }
}

fn step_of(report: &Event) -> Step {
    match report {
        Event::Progress { step, .. } => *step,
        other => unreachable!("{other:?} is no report of a step"),
    }
}

impl World {
    /// A worker's process starts.
    pub fn start(&mut self, worker: &WorkerId) {
        self.processes += 1;
        let process = self.processes;
        self.log(|| format!("{worker} starts as process {process}"));
        let node = self.nodes.get_mut(worker).expect("known");
        let Node { cut_off, isolated, slow_link, slot_ms, .. } = *node;
        *node = Node { process, up: true, cut_off, isolated, slow_link, slot_ms, ..Node::new() };
        self.after(5..50, Item::Dial { worker: worker.clone(), process });
        self.after(50..900, Item::TrainerUp { worker: worker.clone(), process });
        self.after(250..251, Item::Beat { worker: worker.clone(), process });
    }

    /// A worker's process is killed; what it sent may still arrive.
    pub fn kill(&mut self, worker: &WorkerId) {
        let node = self.nodes.get_mut(worker).expect("known");
        if !node.up {
            return;
        }
        self.log(|| format!("{worker} is killed"));
        let link = self.nodes[worker].link;
        self.leave_group(worker);
        let node = self.nodes.get_mut(worker).expect("known");
        (node.up, node.frozen, node.link, node.part, node.state) = (false, false, None, None, None);
        node.inbox.clear();
        if let Some(link) = link {
            self.close(link, false);
        }
    }

    pub fn dial(&mut self, worker: &WorkerId, process: u32) {
        let node = &self.nodes[worker];
        if !node.up || node.process != process || node.link.is_some() {
            return;
        }
        if self.control.is_none() || node.cut_off {
            return self.after(100..400, Item::Dial { worker: worker.clone(), process });
        }
        let link = self.open_link(worker);
        let node = self.nodes.get_mut(worker).expect("known");
        node.link = Some(link);
        let facts = WorkerFacts {
            host: "host".into(),
            pid: process,
            device: "cpu".into(),
            threads: 1,
            version: "0".into(),
            address: "127.0.0.1".into(),
        };
        let (holding, ready) = (node.holding(), node.trainer_up);
        let hello = Event::WorkerConnected { worker: worker.clone(), session: link, facts, holding, ready };
        let status = node.part.as_ref().and_then(|part| part.status.clone());
        let mut messages = vec![hello];
        messages.extend(node.reports.iter().cloned());
        messages.extend(status);
        if node.leaving {
            messages.push(Event::WorkerLeaving { worker: worker.clone() });
        }
        for message in messages {
            self.tell_coordinator(worker, message);
        }
        self.spares_wait_anew(worker);
    }

    pub fn trainer_up(&mut self, worker: &WorkerId, process: u32) {
        let node = self.nodes.get_mut(worker).expect("known");
        if !node.up || node.process != process || node.trainer_up {
            return;
        }
        node.trainer_up = true;
        let pending = node.pending.take();
        self.tell_coordinator(worker, Event::TrainerReady { worker: worker.clone() });
        if let Some(assignment) = pending {
            self.take_part(worker, assignment);
        }
    }

    pub fn trainer_crashes(&mut self, worker: &WorkerId) {
        let node = &self.nodes[worker];
        if !node.up || !node.trainer_up {
            return;
        }
        self.log(|| format!("{worker}'s trainer crashes"));
        self.leave_group(worker);
        self.say_spares(worker, Millis(u64::MAX));
        let node = self.nodes.get_mut(worker).expect("known");
        let part = node.part.take().map(|part| part.key());
        let generation = part.as_ref().map_or(Generation(0), |(_, generation)| *generation);
        let run = part.map(|(run, _)| run);
        (node.trainer_up, node.stuck, node.unanswered, node.state) = (false, None, None, None);
        let process = node.process;
        let (cause, last_lines) = ("killed by signal 9 (SIGKILL)".to_owned(), vec!["...".to_owned()]);
        self.tell_coordinator(
            worker,
            Event::TrainerExited { worker: worker.clone(), run, generation, cause, last_lines },
        );
        self.after(50..900, Item::TrainerUp { worker: worker.clone(), process });
    }

    pub fn beat(&mut self, worker: &WorkerId, process: u32) {
        let node = &self.nodes[worker];
        if !node.up || node.process != process {
            return;
        }
        if let Some(part) = node.part.as_ref().filter(|part| part.status.is_none()) {
            // A stopped trainer says nothing new; its agent repeats what it said last.
            let silent = node.stuck.map_or(Millis(0), |since| self.now - since);
            let (step, phase, collective, since) =
                if node.stuck.is_some() { part.beat } else { self.place(worker, part.beat) };
            let (run, generation) = part.key();
            let since_progress_ms = (self.now - since).0;
            self.part_mut(worker).beat = (step, phase, collective, since);
            let name = worker.clone();
            let beat = Event::Heartbeat {
                worker: name,
                run,
                generation,
                step,
                phase,
                collective,
                since_progress_ms,
                trainer_silent_ms: silent.0,
            };
            self.tell_coordinator(worker, beat);
        }
        self.after(250..251, Item::Beat { worker: worker.clone(), process });
    }

    fn part_mut(&mut self, worker: &WorkerId) -> &mut Part {
        self.nodes.get_mut(worker).expect("known").part.as_mut().expect("it takes part")
    }

    /// Where a trainer stands, and since when.
    fn place(&self, worker: &WorkerId, last: (Step, Phase, u64, Millis)) -> (Step, Phase, u64, Millis) {
        let node = &self.nodes[worker];
        let part = node.part.as_ref().expect("it takes part");
        let step = node.state.as_ref().map(|state| state.step).unwrap_or_default();
        let group = self.groups.get(&part.key());
        let collective = group.map_or(0, |group| group.collective);
        let (phase, began) = match group.map(|group| group.phase) {
            Some(group::Phase::Stepping { computes_at, .. }) if self.now < computes_at => (Phase::Evaluate, None),
            Some(group::Phase::Stepping { computes_at, .. }) => {
                let done = computes_at + Millis(node.computes_for());
                if self.now < done { (Phase::Compute, Some(computes_at)) } else { (Phase::Reduce, Some(done)) }
            }
            Some(group::Phase::Sharing) => (Phase::Restore, None),
            Some(group::Phase::Done) => (Phase::Checkpoint, None),
            Some(group::Phase::Gathering | group::Phase::Broken) | None => (Phase::Rendezvous, None),
        };
        let same = (last.0, last.1, last.2) == (step, phase, collective);
        (step, phase, collective, began.unwrap_or(if same { last.3 } else { self.now }))
    }

    /// It is stopped, agent and trainer.
    pub fn freeze(&mut self, worker: &WorkerId) {
        self.log(|| format!("{worker} is stopped"));
        self.nodes.get_mut(worker).expect("known").frozen = true;
    }

    /// And goes on as if nothing had happened.
    pub fn thaw(&mut self, worker: &WorkerId) {
        let node = self.nodes.get_mut(worker).expect("known");
        if !std::mem::take(&mut node.frozen) {
            return;
        }
        let inbox = std::mem::take(&mut node.inbox);
        self.log(|| format!("{worker} goes on"));
        for (link, directive) in inbox {
            self.deliver(link, directive);
        }
    }

    pub fn obey(&mut self, worker: &WorkerId, directive: Directive) {
        match directive {
            Directive::Assign(assignment) => {
                let node = self.nodes.get_mut(worker).expect("known");
                if node.trainer_up {
                    self.take_part(worker, assignment);
                } else {
                    node.pending = Some(assignment);
                }
            }
            Directive::Abort { run, generation } => self.abort(worker, &run, generation),
            Directive::Request { run, generation, checkpoint, pause } => {
                let node = self.nodes.get_mut(worker).expect("known");
                if let Some(part) = node.part.as_mut().filter(|part| part.key() == (run, generation)) {
                    (part.checkpoint, part.pause) = (checkpoint, pause);
                }
            }
            Directive::Committed { run, attempt, step } => {
                let node = self.nodes.get_mut(worker).expect("known");
                let ours = |part: &Part| part.assignment.run == run && part.assignment.attempt == attempt;
                if node.part.as_ref().is_some_and(ours) {
                    node.durable = node.durable.max((attempt, step));
                    node.spares.retain(|(_, spare)| step_of(spare) > step);
                }
            }
            Directive::Release { run } => self.release(worker, run.as_ref()),
        }
    }

    /// In another session or at another place it begins to wait again.
    fn spares_wait_anew(&mut self, worker: &WorkerId) {
        let until = self.now + self.nodes[worker].turn();
        let node = self.nodes.get_mut(worker).expect("known");
        node.spares.iter_mut().for_each(|(due, _)| *due = until);
        let process = node.process;
        self.at(until, Item::Spare { worker: worker.clone(), process });
    }

    /// What was left out of reports is perhaps to be said.
    pub fn spare_due(&mut self, worker: &WorkerId, process: u32) {
        let node = &self.nodes[worker];
        if node.up && node.process == process {
            self.say_spares(worker, self.now);
        }
    }

    fn say_spares(&mut self, worker: &WorkerId, until: Millis) {
        let spares = &mut self.nodes.get_mut(worker).expect("known").spares;
        let ready = spares.iter().take_while(|(due, _)| *due <= until).count();
        for (_, spare) in spares.drain(..ready).collect::<Vec<_>>() {
            self.say_report(worker, spare);
        }
    }

    fn take_part(&mut self, worker: &WorkerId, assignment: Assignment) {
        self.leave_group(worker);
        let now = self.now;
        let node = self.nodes.get_mut(worker).expect("known");
        let same_run = node.part.as_ref().is_some_and(|part| part.assignment.run == assignment.run);
        let step = node.state.as_ref().filter(|_| same_run).map(|state| state.step).unwrap_or_default();
        let beat = (step, Phase::Rendezvous, 0, now);
        if !same_run {
            node.state = None;
            node.reports.clear();
            node.spares.clear();
        }
        if !same_run || node.durable.0 != assignment.attempt {
            node.durable = (assignment.attempt, Step(0));
        }
        node.part = Some(Part { assignment, checkpoint: false, pause: false, beat, status: None });
        let process = node.process;
        self.spares_wait_anew(worker);
        self.after(1..20, Item::Join { worker: worker.clone(), process });
    }

    fn abort(&mut self, worker: &WorkerId, run: &RunId, generation: Generation) {
        let node = &self.nodes[worker];
        // What is told to give up a generation gives up an older one too: it has missed the newer.
        let older = |part: &&Part| part.assignment.run == *run && part.assignment.generation <= generation;
        let Some(part) = node.part.as_ref().filter(older) else { return };
        if let Some(status) = part.status.clone() {
            return self.tell_coordinator(worker, status);
        }
        let key = part.key();
        if node.stuck.is_some() {
            self.nodes.get_mut(worker).expect("known").unanswered = Some(key);
        } else {
            self.leave_group(worker);
            self.member_fails(worker, &key, "aborted");
        }
    }

    /// A stopped trainer goes on, and answers what it was told meanwhile.
    pub fn wake(&mut self, worker: &WorkerId) {
        let node = self.nodes.get_mut(worker).expect("known");
        node.stuck = None;
        let Some(key) = node.unanswered.take() else { return };
        if node.part.as_ref().is_some_and(|part| part.key() == key) {
            self.leave_group(worker);
            self.member_fails(worker, &key, "aborted");
        } else {
            self.gives_up(worker, key);
        }
    }

    /// What a trainer says of a generation that was taken away with its run.
    fn gives_up(&mut self, worker: &WorkerId, (run, generation): (RunId, Generation)) {
        let (name, error) = (worker.clone(), "aborted".to_owned());
        self.tell_coordinator(worker, Event::StepFailed { worker: name, run, generation, step: Step(0), error });
    }

    /// The agent ends a trainer that has not obeyed for so long.
    pub fn deaf(&mut self, worker: &WorkerId, since: Millis) {
        if self.nodes[worker].stuck == Some(since) {
            self.trainer_crashes(worker);
        }
    }

    fn release(&mut self, worker: &WorkerId, run: Option<&RunId>) {
        let node = self.nodes.get_mut(worker).expect("known");
        node.pending = node.pending.take().filter(|pending| Some(&pending.run) != run);
        let ours = node.part.as_ref().is_some_and(|part| Some(&part.assignment.run) == run);
        if ours {
            self.leave_group(worker);
            let node = self.nodes.get_mut(worker).expect("known");
            let part = node.part.take().expect("it has one");
            node.state = None;
            node.reports.clear();
            node.spares.clear();
            let unsaid = part.status.is_none().then(|| part.key());
            match node.stuck {
                Some(since) => {
                    node.unanswered = unsaid.or(node.unanswered.take());
                    self.after(OBEYS..OBEYS + 1, Item::Deaf { worker: worker.clone(), since });
                }
                None => {
                    if let Some(key) = unsaid {
                        self.gives_up(worker, key);
                    }
                }
            }
        }
        let node = self.nodes.get_mut(worker).expect("known");
        if node.leaving && (run.is_none() || node.part.is_none() && node.pending.is_none()) {
            self.kill(worker);
            self.after(500..3000, Item::Start { worker: worker.clone() });
        }
    }

    /// The session was refused: the process ends, and whoever watches it starts it again.
    pub fn refused(&mut self, worker: &WorkerId) {
        self.kill(worker);
        self.after(500..1500, Item::Start { worker: worker.clone() });
    }

    /// Says where the trainer stopped, unless it has said so already.
    pub fn member_fails(&mut self, worker: &WorkerId, key: &(RunId, Generation), error: &str) {
        let node = self.nodes.get_mut(worker).expect("known");
        let step = node.state.as_ref().map(|state| state.step).unwrap_or_default();
        let Some(part) = node.part.as_ref().filter(|part| part.key() == *key && part.status.is_none()) else { return };
        let (run, generation) = part.key();
        let event = Event::StepFailed { worker: worker.clone(), run, generation, step, error: error.to_owned() };
        self.stopped(worker, event);
    }

    /// The trainer stops and says so.
    pub fn stopped(&mut self, worker: &WorkerId, event: Event) {
        let node = self.nodes.get_mut(worker).expect("known");
        let part = node.part.as_mut().expect("it stops in its part");
        part.status = Some(event.clone());
        // So that nothing is missing of the steps that the next generation goes on from.
        self.say_spares(worker, Millis(u64::MAX));
        self.tell_coordinator(worker, event);
    }

    /// Reports a step. What the slots used is left out at first, unless this is rank 0: one who says it is enough.
    pub fn report(&mut self, worker: &WorkerId, event: Event) {
        let node = self.nodes.get_mut(worker).expect("known");
        if node.part.as_ref().is_some_and(|part| part.assignment.rank.0 == 0) {
            return self.say_report(worker, event);
        }
        let mut first = event.clone();
        if let Event::Progress { segments, .. } = &mut first {
            *segments = None;
        }
        let is_durable = step_of(&event) <= node.durable.1;
        let (due, process) = (self.now + node.turn(), node.process);
        if !is_durable {
            node.spares.push_back((due, event));
            self.at(due, Item::Spare { worker: worker.clone(), process });
        }
        self.say_report(worker, first);
    }

    /// Now and again after every new session.
    fn say_report(&mut self, worker: &WorkerId, event: Event) {
        let node = self.nodes.get_mut(worker).expect("known");
        node.reports.push_back(event.clone());
        if node.reports.len() > REPORTS_KEPT {
            node.reports.pop_front();
        }
        self.tell_coordinator(worker, event);
    }

    fn tell_coordinator(&mut self, worker: &WorkerId, event: Event) {
        if let Some(link) = self.nodes[worker].link {
            let delay = self.delay(worker);
            self.send_up(link, delay, event);
        }
    }

    /// Mostly quick, sometimes not.
    pub fn delay(&mut self, worker: &WorkerId) -> u64 {
        if self.nodes[worker].slow_link {
            return self.rng.random_range(100..900);
        }
        if self.rng.random_bool(0.03) { self.rng.random_range(20..1200) } else { self.rng.random_range(1..20) }
    }
}
