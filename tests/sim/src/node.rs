//! A model of a worker: the agent's session and what it keeps to send again, and the trainer's place in its group.

use crate::data::State;
use crate::world::{Item, World};
use control::{Assignment, Directive, Event, Holding, WorkerFacts};
use rand::Rng;
use std::collections::VecDeque;
use types::{Generation, RunId, WorkerId};

/// So many reports are sent again after a new session. More than a coordinator that is away lets pile up.
const REPORTS_KEPT: usize = 400;

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
    /// Stopped by a signal: alive, but does nothing.
    pub stuck: bool,
    /// Arrived before the trainer was up.
    pub pending: Option<Assignment>,
    pub part: Option<Part>,
    /// Of `part`'s run.
    pub state: Option<State>,
    pub reports: VecDeque<Event>,
}

/// The trainer's part in a generation.
#[derive(Debug)]
pub struct Part {
    pub assignment: Assignment,
    pub checkpoint: bool,
    pub pause: bool,
    pub moved: control::Millis,
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
            stuck: false,
            pending: None,
            part: None,
            state: None,
            reports: VecDeque::new(),
        }
    }

    fn holding(&self) -> Option<Holding> {
        let part = self.part.as_ref()?;
        let step = self.state.as_ref().map(|state| state.step).unwrap_or_default();
        Some(Holding { run: part.assignment.run.clone(), generation: part.assignment.generation, step })
    }
}

impl World {
    /// A worker's process starts.
    pub fn start(&mut self, worker: &WorkerId) {
        self.processes += 1;
        let process = self.processes;
        self.log(|| format!("{worker} starts as process {process}"));
        let node = self.nodes.get_mut(worker).expect("known");
        *node = Node { process, up: true, cut_off: node.cut_off, ..Node::new() };
        self.after(5..50, Item::Dial { worker: worker.clone(), process });
        self.after(50..900, Item::TrainerUp { worker: worker.clone(), process });
        self.after(1000..1001, Item::Beat { worker: worker.clone(), process });
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
        (node.up, node.link, node.part, node.state) = (false, None, None, None);
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
        let hello = Event::WorkerConnected { worker: worker.clone(), session: link, facts, holding: node.holding() };
        let status = node.part.as_ref().and_then(|part| part.status.clone());
        let mut messages = vec![hello];
        messages.extend(node.reports.iter().cloned());
        messages.extend(status);
        if node.trainer_up && node.part.is_none() {
            messages.push(Event::TrainerReady { worker: worker.clone() });
        }
        if node.leaving {
            messages.push(Event::WorkerLeaving { worker: worker.clone() });
        }
        for message in messages {
            self.tell_coordinator(worker, message);
        }
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
        let node = self.nodes.get_mut(worker).expect("known");
        let part = node.part.take().map(|part| part.key());
        let generation = part.as_ref().map_or(Generation(0), |(_, generation)| *generation);
        let run = part.map(|(run, _)| run);
        (node.trainer_up, node.stuck, node.state) = (false, false, None);
        let process = node.process;
        let (cause, last_lines) = ("killed by signal 9 (SIGKILL)".to_owned(), vec!["...".to_owned()]);
        self.tell_coordinator(
            worker,
            Event::TrainerExited { worker: worker.clone(), run, generation, cause, last_lines },
        );
        self.after(50..900, Item::TrainerUp { worker: worker.clone(), process });
    }

    pub fn beat(&mut self, worker: &WorkerId, process: u32) {
        let now = self.now;
        let node = &self.nodes[worker];
        if !node.up || node.process != process {
            return;
        }
        if let Some(part) = node.part.as_ref().filter(|part| part.status.is_none()) {
            let since_progress_ms = now.0 - part.moved.0;
            let (run, generation) = part.key();
            let (phase, collective) = (control::Phase::Restore, 0);
            let step = node.state.as_ref().map(|state| state.step).unwrap_or_default();
            let (name, worker) = (worker.clone(), worker.clone());
            let beat = Event::Heartbeat { worker, run, generation, step, phase, collective, since_progress_ms };
            self.tell_coordinator(&name, beat);
        }
        self.after(1000..1001, Item::Beat { worker: worker.clone(), process });
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
            Directive::Release { run } => self.release(worker, run.as_ref()),
        }
    }

    fn take_part(&mut self, worker: &WorkerId, assignment: Assignment) {
        self.leave_group(worker);
        let now = self.now;
        let node = self.nodes.get_mut(worker).expect("known");
        let same_run = node.part.as_ref().is_some_and(|part| part.assignment.run == assignment.run);
        let moved = node.part.as_ref().filter(|_| node.stuck).map_or(now, |part| part.moved);
        if !same_run {
            node.state = None;
            node.reports.clear();
        }
        node.part = Some(Part { assignment, checkpoint: false, pause: false, moved, status: None });
        let process = node.process;
        self.after(1..20, Item::Join { worker: worker.clone(), process });
    }

    fn abort(&mut self, worker: &WorkerId, run: &RunId, generation: Generation) {
        let node = &self.nodes[worker];
        let Some(part) = node.part.as_ref().filter(|part| part.key() == (run.clone(), generation)) else { return };
        if let Some(status) = part.status.clone() {
            return self.tell_coordinator(worker, status);
        }
        if !node.stuck {
            self.leave_group(worker);
            self.member_fails(worker, &(run.clone(), generation), "aborted");
        }
    }

    fn release(&mut self, worker: &WorkerId, run: Option<&RunId>) {
        let node = self.nodes.get_mut(worker).expect("known");
        node.pending = node.pending.take().filter(|pending| Some(&pending.run) != run);
        let ours = node.part.as_ref().is_some_and(|part| Some(&part.assignment.run) == run);
        if ours {
            self.leave_group(worker);
            let node = self.nodes.get_mut(worker).expect("known");
            (node.part, node.state) = (None, None);
            node.reports.clear();
            if node.stuck {
                // The agent ends a trainer that does not obey.
                self.trainer_crashes(worker);
            } else {
                self.tell_coordinator(worker, Event::TrainerReady { worker: worker.clone() });
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
        self.tell_coordinator(worker, event);
    }

    /// Reports a step, now and again after every new session.
    pub fn report(&mut self, worker: &WorkerId, event: Event) {
        let node = self.nodes.get_mut(worker).expect("known");
        node.reports.push_back(event.clone());
        if node.reports.len() > REPORTS_KEPT {
            node.reports.pop_front();
        }
        self.tell_coordinator(worker, event);
    }

    fn tell_coordinator(&mut self, worker: &WorkerId, event: Event) {
        if let Some(link) = self.nodes[worker].link {
            let delay = self.delay();
            self.send_up(link, delay, event);
        }
    }

    /// Mostly quick, sometimes not.
    pub fn delay(&mut self) -> u64 {
        if self.rng.random_bool(0.03) { self.rng.random_range(20..1200) } else { self.rng.random_range(1..20) }
    }
}
