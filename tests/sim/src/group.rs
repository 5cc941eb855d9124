//! A model of a generation's process group: rendezvous, lock-step, and how it breaks.

use crate::data::State;
use crate::world::{Item, World};
use config::OnDivergence;
use control::{CheckpointAt, Divergence, Event, Millis, RunSpec};
use rand::Rng;
use std::collections::BTreeMap;
use types::{Generation, Rank, RunId, Step, WorkerId};

/// So often a collective is looked at that somebody does not take part in.
const RETRY: std::ops::Range<u64> = 150..250;
/// Connecting to the others is given up after so many tries.
const CONNECT_TRIES: u32 = 15;

/// Of one (run, generation).
#[derive(Debug, Default)]
pub struct Group {
    pub members: BTreeMap<Rank, WorkerId>,
    pub phase: Phase,
    /// Steps begun.
    pub collective: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Gathering,
    /// The state is being shared.
    Sharing,
    /// All take part in a step; what its header agreed on, and when its computation begins, after an evaluation.
    Stepping {
        checkpoint: bool,
        pause: bool,
        computes_at: Millis,
    },
    /// The last step is done.
    Done,
    Broken,
}

pub type Key = (RunId, Generation);

impl World {
    /// A trainer comes to its group's rendezvous, which the coordinator holds.
    pub fn join(&mut self, worker: &WorkerId, process: u32) {
        let node = &self.nodes[worker];
        let Some(part) = node.part.as_ref().filter(|part| part.status.is_none()) else { return };
        if !node.up || node.process != process {
            return;
        }
        if self.control.is_none() || node.cut_off || node.stuck.is_some() {
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
            self.after(5..40, Item::Share { key, tries: CONNECT_TRIES });
        } else if group.members.len() == 1 {
            self.after(3000..3001, Item::RendezvousTimeout { key });
        }
    }

    pub fn rendezvous_timeout(&mut self, key: &Key) {
        if self.groups[key].phase == Phase::Gathering {
            self.break_group(key, "not all members came");
        }
    }

    fn members(&self, key: &Key) -> Vec<WorkerId> {
        self.groups[key].members.values().cloned().collect()
    }

    /// Somebody does not take part, and the others wait.
    fn is_held_up(&self, members: &[WorkerId]) -> bool {
        members.len() > 1 && members.iter().any(|worker| self.nodes[worker].is_absent())
            || members.iter().any(|worker| self.nodes[worker].stuck.is_some() || self.nodes[worker].frozen)
    }

    /// The member with the highest step gives its state to the others.
    pub fn share(&mut self, key: &Key, tries: u32) {
        if self.groups[key].phase != Phase::Sharing {
            return;
        }
        let members = self.members(key);
        if self.is_held_up(&members) {
            return match tries {
                0 => self.break_group(key, "cannot connect to all others"),
                _ => self.after(RETRY, Item::Share { key: key.clone(), tries: tries - 1 }),
            };
        }
        // The first of those that are furthest.
        let states = members.iter().rev().filter_map(|worker| self.nodes[worker].state.clone());
        let source = match states.max_by_key(|state| state.step) {
            Some(state) => state,
            None => match self.nodes[&members[0]].part.as_ref().expect("members have parts").assignment.restore {
                Some(at) if self.disk.runs[&key.0].corrupt.contains(&at) => {
                    self.log(|| format!("{} finds its checkpoint damaged", members[0]));
                    return self.trainer_crashes(&members[0]);
                }
                Some(at) => self.restored(&key.0, at),
                None => self.disk.data[&key.0].initial(),
            },
        };
        for worker in &members {
            let node = self.nodes.get_mut(worker).expect("known");
            if node.state.as_ref().is_none_or(|state| state.step < source.step) {
                node.state = Some(source.clone());
                if source.flipped.is_some() {
                    self.disk.runs.get_mut(&key.0).expect("it trains").tainted = true;
                }
            }
            let flipped = node.state.as_ref().and_then(|state| state.flipped);
            if node.state != Some(State { flipped, ..source.clone() }) {
                return self.violated(format!("{worker} holds another state of step {}", source.step));
            }
        }
        self.begin_step(key, &members, &source);
    }

    fn restored(&mut self, run: &RunId, at: CheckpointAt) -> State {
        let kept = self.disk.runs.get_mut(run).expect("it trains");
        let state = kept.checkpoints[&at].clone();
        kept.tainted |= state.bad_since.is_some() || state.flipped.is_some();
        state
    }

    fn begin_step(&mut self, key: &Key, members: &[WorkerId], state: &State) {
        let Facts { total, evaluate, .. } = self.facts(key);
        let (mut checkpoint, mut pause, mut longest) = (false, false, 0);
        for worker in members {
            let node = &self.nodes[worker];
            let part = node.part.as_ref().expect("members have parts");
            checkpoint |= part.checkpoint;
            pause |= part.pause;
            longest = longest.max(node.computes_for());
        }
        if state.step >= total {
            return self.last_step_done(key, members, state);
        }
        let evaluating = if state.step.0 % evaluate == evaluate - 1 { self.rng.random_range(500..5_000) } else { 0 };
        let computes_at = self.now + Millis(evaluating);
        let group = self.groups.get_mut(key).expect("known");
        group.phase = Phase::Stepping { checkpoint, pause, computes_at };
        group.collective += 1;
        let done = evaluating + longest + 2;
        self.after(done..done + done / 4 + 3, Item::Step { key: key.clone() });
    }

    /// Everybody has taken part in the step.
    pub fn step(&mut self, key: &Key) {
        let Phase::Stepping { checkpoint, pause, .. } = self.groups[key].phase else { return };
        let members = self.members(key);
        if self.is_held_up(&members) {
            return self.after(RETRY, Item::Step { key: key.clone() });
        }
        for worker in &members {
            self.apply(worker, key);
        }
        let state = self.nodes[&members[0]].state.clone().expect("it has just made a step");
        let Facts { every, total, skips, verify, .. } = self.facts(key);
        if state.bad_since.is_some_and(|since| state.step.0 >= since.0 + skips) {
            return self.all_diverge(key, &members, state.step, Divergence::Skipped);
        }
        let captures = checkpoint || state.step == total || state.step.0.is_multiple_of(every);
        if verify > 0 && (captures || state.step.0.is_multiple_of(verify)) && !self.compare(key, &members) {
            return;
        }
        if state.step == total {
            return self.last_step_done(key, &members, &state);
        }
        if captures {
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

    /// Whether all members hold the same. The odd one ends its process; without a majority nobody is believed.
    fn compare(&mut self, key: &Key, members: &[WorkerId]) -> bool {
        let flips: Vec<Option<u32>> =
            members.iter().map(|worker| self.nodes[worker].state.as_ref().and_then(|state| state.flipped)).collect();
        let step = self.nodes[&members[0]].state.as_ref().map(|state| state.step).unwrap_or_default();
        let held_by = |flip: &Option<u32>| flips.iter().filter(|other| *other == flip).count();
        if held_by(&flips[0]) == members.len() {
            // With nobody to compare with, or by all alike: it stays.
            self.disk.runs.get_mut(&key.0).expect("it trains").tainted |= flips[0].is_some();
            return true;
        }
        match flips.iter().find(|flip| 2 * held_by(flip) > members.len()).copied() {
            Some(right) => {
                // The step itself is over.
                self.groups.get_mut(key).expect("known").phase = Phase::Sharing;
                for (worker, _) in members.iter().zip(&flips).filter(|(_, flip)| **flip != right) {
                    self.trainer_crashes(worker);
                }
            }
            None => self.all_diverge(key, members, step, Divergence::Replicas),
        }
        false
    }

    fn all_diverge(&mut self, key: &Key, members: &[WorkerId], step: Step, kind: Divergence) {
        self.groups.get_mut(key).expect("known").phase = Phase::Done;
        // What the coordinator finds out now it must not forget.
        if self.rng.random_bool(0.3) {
            self.crash_after = Some(self.rng.random_range(0..12));
        }
        if self.disk.runs[&key.0].record.spec.recovery.on_divergence == OnDivergence::Stop {
            self.after(100..6_000, Item::Resume { run: key.0.clone() });
        }
        for worker in members {
            let ((run, generation), reason) = (key.clone(), format!("{kind:?}"));
            self.stopped(worker, Event::Diverged { worker: worker.clone(), run, generation, step, kind, reason });
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
        let (step, samples_digest, segments) = (next.step, next.digest, Some(segments));
        node.state = Some(next);
        let (tokens, seconds) = (100 * node.slots(), node.computes_for() as f64 / 1000.0);
        let (worker, (run, generation)) = (worker.clone(), key.clone());
        let name = worker.clone();
        self.report(
            &name,
            Event::Progress { worker, run, generation, step, segments, samples_digest, tokens, seconds },
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
        let again =
            |state| Item::Upload { worker: worker.clone(), process, key: key.clone(), rank, state, tries: tries - 1 };
        let away = self.control.is_none() || node.cut_off || node.stuck.is_some();
        // A full disk, at the coordinator or for the checkpoints, is tried again as well.
        if away || self.blocked() || self.store_full_until > self.now {
            return self.after(400..600, again(state));
        }
        let at = CheckpointAt { generation: key.1, step: state.step };
        let current = self.control.as_ref().is_some_and(|control| control.is_current(&key.0, key.1));
        let kept = self.disk.runs.get_mut(&key.0).expect("it trains");
        let finishes = key.1 < kept.record.generation && kept.ledger.stands(at.generation, at.step);
        if !current && !finishes {
            return;
        }
        let world = self.groups[key].members.len();
        let shards = kept.shards.entry(at).or_default();
        shards.insert(rank);
        if shards.len() == world {
            let verified = kept.record.spec.recovery.verify_every > 0;
            if verified && state.flipped.is_some() && !kept.tainted {
                return self.violated(format!("{}: the checkpoint at {} is of a bad state", key.0, state.step));
            }
            kept.checkpoints.insert(at, (*state).clone());
            self.tell(Event::CheckpointCommitted { run: key.0.clone(), at });
            if self.control.is_none() {
                // The answer never came: the member says again that it is complete.
                return self.after(400..600, again(state));
            }
        }
        let of_this = |node: &crate::node::Node| {
            node.part.as_ref().is_some_and(|part| part.key() == *key && part.status.is_none())
        };
        if state.step == self.facts(key).total && of_this(&self.nodes[worker]) {
            let (run, generation) = key.clone();
            let (step, weights_digest) = (state.step, state.weights());
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
        let members = self.members(key);
        if self.is_held_up(&members) {
            return;
        }
        for worker in members {
            if self.rng.random_bool(0.5) {
                self.apply(&worker, key);
            }
        }
    }

    fn break_group(&mut self, key: &Key, error: &'static str) {
        self.groups.get_mut(key).expect("known").phase = Phase::Broken;
        for worker in self.members(key) {
            let process = self.nodes[&worker].process;
            self.after(1..150, Item::MemberFails { worker, process, key: key.clone(), error });
        }
    }

    fn facts(&self, key: &Key) -> Facts {
        let spec = &self.disk.runs[&key.0].record.spec;
        let seed = self.disk.data[&key.0].seed();
        let skips = spec.recovery.max_skipped_steps;
        let verify = spec.recovery.verify_every;
        Facts { every: seed % 13 + 5, evaluate: seed % 29 + 20, total: last_step(spec), skips, verify }
    }
}

/// With which step the trainers of a run decide to end it.
pub fn last_step(spec: &RunSpec) -> Step {
    spec.patience.map_or(spec.total_steps, |patience| Step(patience.min(spec.total_steps.0)))
}

/// What a trainer reads from its config.
struct Facts {
    every: u64,
    evaluate: u64,
    total: Step,
    skips: u64,
    verify: u64,
}
