//! What goes wrong, what people do, and what must be true in the end.

use crate::data::Data;
use crate::node::Node;
use crate::world::{Item, World};
use control::{Event, RunSpec, RunStatus};
use rand::Rng;
use rand::seq::IndexedRandom;
use types::{RunId, Step, WorkerId};

impl World {
    /// Who is there at the beginning.
    pub fn people_and_workers(&mut self) {
        for number in 0..self.rng.random_range(2..6) {
            let worker: WorkerId = format!("w{number}").parse().expect("a plain name");
            self.nodes.insert(worker.clone(), Node::new());
            self.after(0..2000, Item::Start { worker });
        }
        for _ in 0..self.rng.random_range(1..3) {
            self.submit();
        }
        self.after(300..2000, Item::Fault);
    }

    fn submit(&mut self) {
        let number = self.disk.data.len();
        let run: RunId = format!("r{number}").parse().expect("a plain name");
        let slots = self.rng.random_range(1..9);
        let least = self.rng.random_range(1..4).min(slots).min(self.nodes.len() as u32);
        let spec = RunSpec {
            name: run.to_string(),
            kind: config::RunKind::Pretrain,
            total_steps: Step(self.rng.random_range(5..150)),
            slots,
            min_workers: least,
            max_workers: self.rng.random_range(least..=slots),
            recovery: Default::default(),
        };
        let seed = self.rng.random();
        let data = Data::new(seed, self.rng.random_range(1..20), slots, self.rng.random_range(1..7));
        self.disk.data.insert(run.clone(), data);
        self.tell(Event::Submit { run, spec });
    }

    /// One thing goes wrong, or somebody does something.
    pub fn fault(&mut self) {
        let names: Vec<WorkerId> = self.nodes.keys().cloned().collect();
        let worker = names.choose(&mut self.rng).expect("there are workers").clone();
        let runs: Vec<RunId> = self.disk.runs.keys().cloned().collect();
        // Some seeds never see some faults: so that each is seen without the others too.
        let kind = self.rng.random_range(0..14u32);
        if self.seed >> kind & 1 == 0 || self.seed.is_multiple_of(7) {
            self.one_fault(kind, worker, runs.choose(&mut self.rng.clone()).cloned());
        }
        self.after(50..1500, Item::Fault);
    }

    fn one_fault(&mut self, kind: u32, worker: WorkerId, run: Option<RunId>) {
        match (kind, run) {
            (0 | 1, _) => {
                self.kill(&worker);
                self.after(50..5000, Item::Start { worker });
            }
            (2, _) => self.trainer_crashes(&worker),
            (3 | 4, _) => {
                if let Some(link) = self.nodes[&worker].link {
                    self.log(|| format!("{worker} loses its session"));
                    self.close(link, true);
                }
            }
            (5, _) => {
                self.log(|| format!("{worker} is cut off from the coordinator"));
                self.nodes.get_mut(&worker).expect("known").cut_off = true;
                if let Some(link) = self.nodes[&worker].link {
                    self.close(link, true);
                }
                self.after(500..8000, Item::Mend { worker });
            }
            (6, _) => self.crash(),
            (7, _) => self.crash_after = Some(self.rng.random_range(0..12)),
            (8, _) => {
                self.log(|| format!("{worker}'s trainer is stopped"));
                self.nodes.get_mut(&worker).expect("known").stuck = true;
                self.after(500..20_000, Item::Unstick { worker });
            }
            (9, _) => self.leave(&worker),
            (10, Some(run)) => self.tell(Event::CheckpointWanted { run }),
            (11, Some(run)) => {
                self.tell(Event::Cancel { run: run.clone() });
                self.tell(Event::Cancel { run });
            }
            (12, Some(run)) => self.tell(Event::Resume { run }),
            (13, _) if self.control.is_some() && self.disk.data.len() < 5 => self.submit(),
            _ => {}
        }
    }

    fn leave(&mut self, worker: &WorkerId) {
        let node = self.nodes.get_mut(worker).expect("known");
        if !node.up || node.leaving {
            return;
        }
        node.leaving = true;
        if let Some(link) = node.link {
            self.log(|| format!("{worker} is told to leave"));
            self.send_up(link, 5, Event::WorkerLeaving { worker: worker.clone() });
        }
    }

    /// The faults are over.
    pub fn mend_everything(&mut self) {
        self.log(|| "the faults are over".to_owned());
        self.crash_after = None;
        self.boot();
        for worker in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let node = self.nodes.get_mut(&worker).expect("known");
            (node.cut_off, node.stuck) = (false, false);
            self.after(0..3000, Item::Start { worker });
        }
        for run in self.disk.runs.keys().cloned().collect::<Vec<_>>() {
            self.check_reason(&run);
            self.tell(Event::Resume { run });
        }
    }

    pub fn has_ended(&self) -> bool {
        self.disk.runs.values().all(|kept| kept.record.status.has_ended())
    }

    /// Every run has reached its end, and its ledger is without a hole.
    pub fn check_end(&mut self) {
        for run in self.disk.runs.keys().cloned().collect::<Vec<_>>() {
            self.check_reason(&run);
            let kept = &self.disk.runs[&run];
            let record = &kept.record;
            let expected = kept.ledger.digest();
            let verified = kept.ledger.verify();
            let text = match record.status {
                RunStatus::Completed if record.step != record.spec.total_steps => "completed too early".to_owned(),
                RunStatus::Completed if record.weights_digest != Some(expected) => "other weights".to_owned(),
                RunStatus::Completed => match verified {
                    Ok(()) => continue,
                    Err(text) => text,
                },
                RunStatus::Cancelled => continue,
                status => format!("is {status} at step {} of {}", record.step, record.spec.total_steps),
            };
            self.violated(format!("{run}: {text}"));
        }
    }

    /// A run may fail because its trainers crash again and again, but never because the coordinator lost its way.
    fn check_reason(&mut self, run: &RunId) {
        let record = &self.disk.runs[run].record;
        let expected =
            |reason: &str| ["trainers ended", "generations failed"].iter().any(|known| reason.contains(known));
        if record.status == RunStatus::Failed && !record.reason.as_deref().is_some_and(expected) {
            let text = format!("{run} failed: {:?}", record.reason);
            self.violated(text);
        }
    }
}
