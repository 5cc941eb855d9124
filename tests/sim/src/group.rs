//! A model of a generation's process group: rendezvous, lock-step, and how it breaks.

use crate::data::State;
use crate::world::{Item, World};
use control::{CheckpointAt, Event};
use rand::Rng;
use std::collections::BTreeMap;
use types::{Generation, Rank, RunId, Step, WorkerId};

/// Of one (run, generation).
#[derive(Debug, Default)]
pub struct Group {
    pub members: BTreeMap<Rank, WorkerId>,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Gathering,
    /// The state is being shared.
    Sharing,
    /// All take part in a step; what its header agreed on.
    Stepping {
        checkpoint: bool,
        pause: bool,
    },
    /// The last step is done.
    Done,
    Broken,
}

type Key = (RunId, Generation);

impl World {
    /// A trainer comes to its group's rendezvous, which the coordinator holds.
    pub fn join(&mut self, worker: &WorkerId, process: u32) {
        let node = &self.nodes[worker];
        let Some(part) = node.part.as_ref().filter(|part| part.status.is_none()) else { return };
        if !node.up || node.process != process {
            return;
        }
        if self.control.is_none() || node.cut_off || node.stuck {
            return self.after(100..300, Item::Join { worker: worker.clone(), process });
        }
        let (key, rank, world) = (part.key(), part.assignment.rank, part.assignment.world);
        let current = self.control.as_ref().is_some_and(|control| control.is_current(&key.0, key.1));
        let group = self.groups.entry(key.clone()).or_default();
        if !current || group.phase != Phase::Gathering {
            return self.member_fails(worker, &key, "fenced");
        }
        group.members.insert(rank, worker.clone());
        if group.members.len() == world.0 as usize {
            group.phase = Phase::Sharing;
            self.after(5..40, Item::Share { key });
        } else if group.members.len() == 1 {
            self.after(3000..3001, Item::RendezvousTimeout { key });
        }
    }

    pub fn rendezvous_timeout(&mut self, key: &Key) {
        if self.groups[key].phase == Phase::Gathering {
            self.break_group(key, "not all members came");
        }
    }

    /// The member with the highest step gives its state to the others.
    pub fn share(&mut self, key: &Key) {
        let group = &self.groups[key];
        if group.phase != Phase::Sharing {
            return;
        }
        let members: Vec<WorkerId> = group.members.values().cloned().collect();
        let states = members.iter().filter_map(|worker| self.nodes[worker].state.clone());
        let source = match states.max_by_key(|state| state.step) {
            Some(state) => state,
            None => {
                let first = self.nodes[&members[0]].part.as_ref().expect("members have parts");
                let restore = first.assignment.restore;
                match restore {
                    Some(at) => self.disk.runs[&key.0].checkpoints[&at].clone(),
                    None => self.disk.data[&key.0].initial(),
                }
            }
        };
        for worker in &members {
            let node = self.nodes.get_mut(worker).expect("known");
            let same = node.state.as_ref().is_none_or(|state| state.step < source.step || *state == source);
            node.state = Some(source.clone());
            if !same {
                return self.violated(format!("{worker} holds another state of step {}", source.step));
            }
        }
        self.begin_step(key, &members, &source);
    }

    fn begin_step(&mut self, key: &Key, members: &[WorkerId], state: &State) {
        let total = self.disk.runs[&key.0].record.spec.total_steps;
        let now = self.now;
        let (mut checkpoint, mut pause) = (false, false);
        for worker in members {
            let part = self.nodes.get_mut(worker).expect("known").part.as_mut().expect("members have parts");
            checkpoint |= part.checkpoint;
            pause |= part.pause;
            part.moved = now;
        }
        if state.step >= total {
            return self.last_step_done(key, members, state);
        }
        self.groups.get_mut(key).expect("known").phase = Phase::Stepping { checkpoint, pause };
        self.after(8..60, Item::Step { key: key.clone() });
    }

    /// Everybody has taken part in the step.
    pub fn step(&mut self, key: &Key) {
        let group = &self.groups[key];
        let Phase::Stepping { checkpoint, pause } = group.phase else { return };
        let members: Vec<WorkerId> = group.members.values().cloned().collect();
        if members.iter().any(|worker| self.nodes[worker].stuck) {
            return self.after(200..201, Item::Step { key: key.clone() });
        }
        for worker in &members {
            self.apply(worker, key);
        }
        let state = self.nodes[&members[0]].state.clone().expect("it has just made a step");
        let Kept { every, total } = self.kept(key);
        if state.step == total {
            return self.last_step_done(key, &members, &state);
        }
        if checkpoint || state.step.0.is_multiple_of(every) {
            self.upload_all(key, &members, &state);
        }
        if pause {
            self.groups.get_mut(key).expect("known").phase = Phase::Done;
            for worker in &members {
                let (run, generation) = key.clone();
                let paused = Event::Paused { worker: worker.clone(), run, generation, step: state.step };
                self.stopped(worker, paused);
            }
        } else {
            self.begin_step(key, &members, &state);
        }
    }

    fn last_step_done(&mut self, key: &Key, members: &[WorkerId], state: &State) {
        self.groups.get_mut(key).expect("known").phase = Phase::Done;
        self.upload_all(key, members, state);
    }

    fn apply(&mut self, worker: &WorkerId, key: &Key) {
        let node = self.nodes.get_mut(worker).expect("known");
        let state = node.state.as_ref().expect("members share a state before the first step");
        let (segments, next) = self.disk.data[&key.0].step(state);
        let (step, samples_digest) = (next.step, next.digest);
        node.state = Some(next);
        let (run, generation) = key.clone();
        self.report(
            worker,
            Event::Progress {
                worker: worker.clone(),
                run,
                generation,
                step,
                segments,
                samples_digest,
                tokens: 0,
                seconds: 0.0,
            },
        );
    }

    fn upload_all(&mut self, key: &Key, members: &[WorkerId], state: &State) {
        for (rank, worker) in (0..).map(Rank).zip(members) {
            let process = self.nodes[worker].process;
            let (worker, key, state) = (worker.clone(), key.clone(), state.clone());
            self.after(5..400, Item::Upload { worker, process, key, rank, state: Box::new(state), tries: 20 });
        }
    }

    /// A member's share of a checkpoint arrives at the coordinator.
    pub fn upload(&mut self, worker: &WorkerId, process: u32, key: &Key, rank: Rank, state: Box<State>, tries: u32) {
        let node = &self.nodes[worker];
        let held = node.part.as_ref().is_some_and(|part| part.assignment.run == key.0);
        if !node.up || node.process != process || !held || !node.trainer_up || tries == 0 {
            return;
        }
        if self.control.is_none() || node.cut_off || node.stuck {
            let (worker, key) = (worker.clone(), key.clone());
            return self.after(400..600, Item::Upload { worker, process, key, rank, state, tries: tries - 1 });
        }
        if !self.control.as_ref().is_some_and(|control| control.is_current(&key.0, key.1)) {
            return;
        }
        let world = self.groups[key].members.len();
        let at = CheckpointAt { generation: key.1, step: state.step };
        let kept = self.disk.runs.get_mut(&key.0).expect("it trains");
        let shards = kept.shards.entry(at).or_default();
        shards.insert(rank);
        if shards.len() == world {
            kept.checkpoints.insert(at, (*state).clone());
            self.tell(Event::CheckpointCommitted { run: key.0.clone(), at });
            if self.control.is_none() {
                // The answer never came: the member says again that it is complete.
                let (worker, key) = (worker.clone(), key.clone());
                return self.after(400..600, Item::Upload { worker, process, key, rank, state, tries: tries - 1 });
            }
        }
        if state.step == self.kept(key).total
            && self.nodes[worker].part.as_ref().is_some_and(|part| part.key() == *key && part.status.is_none())
        {
            let (run, generation) = key.clone();
            let (step, weights_digest) = (state.step, state.digest);
            self.stopped(worker, Event::Finished { worker: worker.clone(), run, generation, step, weights_digest });
        }
    }

    /// A member leaves its group for whatever reason; the others' collective fails.
    pub fn leave_group(&mut self, worker: &WorkerId) {
        let Some(part) = &self.nodes[worker].part else { return };
        let key = part.key();
        let Some(group) = self.groups.get(&key) else { return };
        if group.members.get(&part.assignment.rank) != Some(worker) || group.phase == Phase::Broken {
            return;
        }
        // The one that goes may have been the only one to finish the step, or the only one not to.
        if matches!(group.phase, Phase::Stepping { .. }) && self.rng.random_bool(0.3) {
            self.partial_step(&key);
        }
        if self.groups[&key].phase != Phase::Done {
            self.break_group(&key, "a peer is gone");
        }
    }

    fn partial_step(&mut self, key: &Key) {
        let members: Vec<WorkerId> = self.groups[key].members.values().cloned().collect();
        if members.iter().any(|worker| self.nodes[worker].stuck) {
            return;
        }
        for worker in members {
            if self.rng.random_bool(0.5) {
                self.apply(&worker, key);
            }
        }
    }

    fn break_group(&mut self, key: &Key, error: &'static str) {
        let group = self.groups.get_mut(key).expect("known");
        group.phase = Phase::Broken;
        for worker in group.members.values().cloned().collect::<Vec<_>>() {
            let process = self.nodes[&worker].process;
            self.after(1..150, Item::MemberFails { worker, process, key: key.clone(), error });
        }
    }

    fn kept(&self, key: &Key) -> Kept {
        let total = self.disk.runs[&key.0].record.spec.total_steps;
        Kept { every: self.disk.data[&key.0].seed() % 13 + 5, total }
    }
}

/// What a trainer reads from its config.
struct Kept {
    every: u64,
    total: Step,
}
