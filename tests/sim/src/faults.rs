//! What goes wrong, and what people do.

use crate::data::Data;
use crate::group::last_step;
use crate::node::Node;
use crate::world::{Item, Planted, World};
use config::{OnDivergence, RecoveryConfig};
use control::{Event, Millis, RunSpec};
use rand::Rng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use types::{RunId, Step, WorkerId};

/// One seed in so many has a cluster of thousands.
const LARGE: u64 = 250;

/// What a worker suffers from for a while.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// It does not reach the coordinator.
    CutOff,
    /// It does not reach the other workers.
    Isolated,
    /// What it says takes long.
    SlowLink,
    /// It computes slowly.
    Slow,
    /// Its trainer is stopped.
    Stuck,
    /// It is stopped, agent and trainer.
    Frozen,
}

const KINDS: u32 = 27;

impl World {
    /// Who is there at the beginning.
    pub fn people_and_workers(&mut self) {
        let large = self.seed % LARGE == LARGE - 1;
        let workers = if large { self.rng.random_range(1_500..2_500) } else { self.rng.random_range(2..6) };
        for _ in 0..workers {
            self.new_worker(0..2000);
        }
        for _ in 0..if large { 10 } else { self.rng.random_range(1..3) } {
            self.submit(large);
        }
        self.after(300..2000, Item::Fault);
    }

    fn new_worker(&mut self, when: std::ops::Range<u64>) {
        let worker: WorkerId = format!("w{}", self.nodes.len()).parse().expect("a plain name");
        let slot_ms = self.rng.random_range(2..12);
        self.nodes.insert(worker.clone(), Node { slot_ms, ..Node::new() });
        self.after(when, Item::Start { worker });
    }

    fn submit(&mut self, large: bool) {
        let number = self.disk.data.len();
        let run: RunId = format!("r{number}").parse().expect("a plain name");
        let slots = if large { self.rng.random_range(100..256) } else { self.rng.random_range(1..9) };
        let least = self.rng.random_range(1..4).min(slots).min(self.nodes.len() as u32);
        let verify_every = *[0, 7, 20].choose(&mut self.rng).expect("there are some");
        let on_divergence = if self.rng.random_bool(0.2) { OnDivergence::Stop } else { OnDivergence::Rollback };
        let max_skipped_steps = self.rng.random_range(1..9);
        let recovery = RecoveryConfig { max_skipped_steps, verify_every, on_divergence, ..Default::default() };
        let mut spec = RunSpec {
            name: run.to_string(),
            kind: config::RunKind::Pretrain,
            total_steps: Step(if large { self.rng.random_range(3..8) } else { self.rng.random_range(5..150) }),
            slots,
            min_workers: least,
            max_workers: if large { slots } else { self.rng.random_range(least..=slots) },
            recovery,
            patience: None,
        };
        // Every third run ends early, at a step that nothing but its trainers knows.
        if spec.total_steps.0.is_multiple_of(3) {
            spec.patience = Some(spec.total_steps.0 * 2 / 3);
        }
        let seed = self.rng.random();
        let mut data = Data::new(seed, self.rng.random_range(1..20), slots, self.rng.random_range(1..7));
        data.deals_twice = self.planted == Some(Planted::UnitDealtTwice);
        self.disk.data.insert(run.clone(), data);
        self.tell(Event::Submit { run, spec });
    }

    /// One thing goes wrong, or somebody does something.
    pub fn fault(&mut self) {
        let names: Vec<WorkerId> = self.nodes.keys().cloned().collect();
        let worker = names.choose(&mut self.rng).expect("there are workers").clone();
        let runs: Vec<RunId> = self.disk.runs.keys().cloned().collect();
        let run = runs.choose(&mut self.rng).cloned();
        // Some seeds never see some faults: so that each is seen without the others too.
        let kind = self.rng.random_range(0..KINDS);
        let mixed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        if mixed >> kind & 1 == 0 || self.seed.is_multiple_of(7) {
            match kind {
                0..=11 => self.worker_fault(kind, worker),
                _ => self.other_fault(kind, run),
            }
        }
        self.after(50..1500, Item::Fault);
    }

    fn worker_fault(&mut self, kind: u32, worker: WorkerId) {
        match kind {
            0 | 1 => {
                self.kill(&worker);
                self.after(50..5000, Item::Start { worker });
            }
            2 => self.trainer_crashes(&worker),
            3 => {
                if let Some(link) = self.nodes[&worker].link {
                    self.log(|| format!("{worker} loses its session"));
                    self.close(link, true);
                }
            }
            4 => self.suffer(worker, Trouble::CutOff, 500..8_000),
            5 => self.suffer(worker, Trouble::Stuck, 500..20_000),
            6 | 7 => self.suffer(worker, Trouble::Frozen, 500..20_000),
            8 => self.suffer(worker, Trouble::Isolated, 500..10_000),
            9 => self.suffer(worker, Trouble::SlowLink, 500..10_000),
            10 => self.suffer(worker, Trouble::Slow, 2_000..15_000),
            _ => self.leave(&worker),
        }
    }

    fn other_fault(&mut self, kind: u32, run: Option<RunId>) {
        match (kind, run) {
            (12, _) => self.crash(),
            (13, _) => self.crash_after = Some(self.rng.random_range(0..12)),
            (14, _) if self.control.is_some() && !self.blocked() => {
                self.log(|| "the coordinator's disk is full".to_owned());
                self.backlog = Some(Vec::new());
                self.after(200..6_000, Item::Unblock);
            }
            (15, _) => {
                self.log(|| "no checkpoint can be written".to_owned());
                self.store_full_until = self.now + Millis(self.rng.random_range(500..8_000));
            }
            (16, _) => {
                self.log(|| "everybody is told to leave".to_owned());
                for worker in self.nodes.keys().cloned().collect::<Vec<_>>() {
                    self.leave(&worker);
                }
            }
            (17, _) if self.nodes.len() < 10 => self.new_worker(1..50),
            (18, Some(run)) => self.tell(Event::CheckpointWanted { run }),
            (19, Some(run)) => self.tell(Event::Cancel { run }),
            (20, Some(run)) => self.tell(Event::Resume { run }),
            (21, _) if self.control.is_some() && !self.blocked() && self.disk.data.len() < 5 => self.submit(false),
            (22, Some(run)) => self.corrupt(run),
            (23, Some(run)) => self.spoil(&run),
            (24..=26, _) => self.flip(),
            _ => {}
        }
    }

    fn suffer(&mut self, worker: WorkerId, what: Trouble, how_long: std::ops::Range<u64>) {
        let now = self.now;
        let node = self.nodes.get_mut(&worker).expect("known");
        if matches!(what, Trouble::Frozen | Trouble::Stuck) && !node.up {
            return;
        }
        match what {
            Trouble::CutOff => node.cut_off = true,
            Trouble::Isolated => node.isolated = true,
            Trouble::SlowLink => node.slow_link = true,
            Trouble::Slow => node.slot_ms *= 5,
            Trouble::Stuck => node.stuck = Some(now),
            Trouble::Frozen => self.freeze(&worker),
        }
        if let (Trouble::CutOff, Some(link)) = (what, self.nodes[&worker].link) {
            self.close(link, true);
        }
        self.log(|| format!("{worker} suffers: {what:?}"));
        self.after(how_long, Item::Mend { worker, what });
    }

    pub fn mend(&mut self, worker: &WorkerId, what: Trouble) {
        let node = self.nodes.get_mut(worker).expect("known");
        match what {
            Trouble::CutOff => node.cut_off = false,
            Trouble::Isolated => node.isolated = false,
            Trouble::SlowLink => node.slow_link = false,
            Trouble::Slow => node.slot_ms = (node.slot_ms / 5).max(1),
            Trouble::Stuck => self.wake(worker),
            Trouble::Frozen => self.thaw(worker),
        }
        self.log(|| format!("{worker} no longer suffers: {what:?}"));
    }

    fn leave(&mut self, worker: &WorkerId) {
        let node = self.nodes.get_mut(worker).expect("known");
        if !node.up || node.leaving || node.frozen {
            return;
        }
        node.leaving = true;
        if let Some(link) = node.link {
            self.log(|| format!("{worker} is told to leave"));
            self.send_up(link, 5, Event::WorkerLeaving { worker: worker.clone() });
        }
    }

    /// A byte of the newest checkpoint flips; sometimes the coordinator notices by itself.
    fn corrupt(&mut self, run: RunId) {
        let kept = self.disk.runs.get_mut(&run).expect("it was submitted");
        let Some(at) = kept.checkpoints.keys().next_back().copied().filter(|at| kept.corrupt.insert(*at)) else {
            return;
        };
        self.log(|| format!("{run}: the checkpoint at step {} is damaged", at.step));
        if self.rng.random_bool(0.5) {
            self.shell_event(Event::CheckpointLost { run, at });
        }
    }

    /// From now on every step of the run is skipped.
    fn spoil(&mut self, run: &RunId) {
        let spec = &self.disk.runs[run].record.spec;
        // A run that ends before enough steps are skipped ends with what it has.
        let late = Step(last_step(spec).0.saturating_sub(spec.recovery.max_skipped_steps + 1));
        self.log(|| format!("{run}: numbers are no longer finite"));
        for node in self.nodes.values_mut() {
            let of_this = node.part.as_ref().is_some_and(|part| part.assignment.run == *run);
            if let Some(state) = node.state.as_mut().filter(|state| of_this && state.step < late) {
                state.bad_since.get_or_insert(state.step);
            }
        }
    }

    /// A bit flips in the parameters of one of those at work, where replicas are compared.
    fn flip(&mut self) {
        let at_work = |node: &&mut Node| {
            let part = node.part.as_ref().filter(|part| part.status.is_none());
            let spec = part.map(|part| &self.disk.runs[&part.assignment.run].record.spec);
            let step = node.state.as_ref().map(|state| state.step);
            spec.is_some_and(|spec| spec.recovery.verify_every > 0 && step.is_some_and(|step| step < last_step(spec)))
        };
        let mut nodes: Vec<&mut Node> = self.nodes.values_mut().filter(at_work).collect();
        let Some(node) = nodes.choose_mut(&mut self.rng) else { return };
        let state = node.state.as_mut().expect("it is at work");
        state.flipped = Some(self.rng.random());
        let step = state.step;
        self.log(|| format!("a bit flips in a state of step {step}"));
    }

    /// The faults are over.
    pub fn mend_everything(&mut self) {
        self.log(|| "the faults are over".to_owned());
        self.crash_after = None;
        self.store_full_until = Millis(0);
        self.boot();
        self.unblock();
        for worker in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let node = self.nodes.get_mut(&worker).expect("known");
            (node.cut_off, node.isolated, node.slow_link) = (false, false, false);
            self.wake(&worker);
            self.thaw(&worker);
            self.after(0..3000, Item::Start { worker });
        }
        for run in self.disk.runs.keys().cloned().collect::<Vec<_>>() {
            self.check_reason(&run);
            self.tell(Event::Resume { run });
        }
    }
}
