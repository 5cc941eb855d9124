//! Slots go to workers by how fast they are, so that nobody waits long for a slower one. Where a slot is computed does
//! not change the result, only the time.

use crate::Control;
use crate::run::{Run, SeatState, Stage};
use crate::slots;
use std::collections::{BTreeMap, BTreeSet};
use types::{RunId, WorkerId};

/// A member's speed is known after so many steps of a generation; the first ones warm up.
const STEPS_MIN: u32 = 8;
/// Slots move only if a step is expected to be faster by this factor.
const GAIN_MIN: f64 = 1.1;
/// Moving slots may take one part in this many of a run's time.
const COST_SHARE: f64 = 50.0;
/// A change of membership takes this long until it was measured, in milliseconds.
const COST_MS: f64 = 1_000.0;
/// A member that computes this many times slower than the middle one is named.
const STRAGGLES: f64 = 1.5;

/// What is known of the speed of a run's workers.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    speeds: BTreeMap<WorkerId, Speed>,
    /// Who was named as slow.
    named: BTreeSet<WorkerId>,
    /// How long it takes from the last commit of one generation to the first of the next, in milliseconds.
    pub cost_ms: Option<f64>,
    /// Slots are to move at the next boundary.
    pub due: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Speed {
    /// Tokens in a second, smoothed.
    tokens: f64,
    /// Steps measured in the present generation.
    steps: u32,
}

impl Balance {
    /// A new generation begins: caches are cold, and other slots have other samples.
    pub fn begin(&mut self) {
        self.due = false;
        for speed in self.speeds.values_mut() {
            speed.steps = 0;
        }
    }

    /// A member says how long its own part of a step took.
    pub fn measured(&mut self, worker: &WorkerId, tokens: u64, seconds: f64) {
        if tokens == 0 || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let now = tokens as f64 / seconds;
        let speed = self.speeds.entry(worker.clone()).or_default();
        speed.steps = speed.steps.saturating_add(1);
        // The first step of a generation waits for memory and caches.
        speed.tokens = match speed.steps {
            _ if speed.tokens == 0.0 => now,
            1 => speed.tokens,
            2 => (speed.tokens + now) / 2.0,
            _ => speed.tokens + (now - speed.tokens) / 8.0,
        };
    }

    /// The speeds of these workers. One that is not known is taken to be as fast as the others on average; if none is
    /// known, all are equally fast.
    pub fn speeds(&self, workers: &[&WorkerId]) -> Vec<f64> {
        let known = |worker: &&WorkerId| self.speeds.get(*worker).map(|speed| speed.tokens);
        let all: Vec<f64> = workers.iter().filter_map(known).collect();
        let usual = if all.is_empty() { 1.0 } else { all.iter().sum::<f64>() / all.len() as f64 };
        workers.iter().map(|worker| known(worker).unwrap_or(usual)).collect()
    }
}

/// How many slots each worker gets, in this order: evenly, unless going by speed makes a step faster by [`GAIN_MIN`].
pub(crate) fn shares(slots: u32, speeds: &[f64]) -> Vec<u32> {
    let even = slots::even(slots, speeds.len());
    let fair = slots::by_speed(slots, speeds);
    if slots::step_time(&even, speeds) > GAIN_MIN * slots::step_time(&fair, speeds) { fair } else { even }
}

impl Control {
    /// After a commit: names who is slow, and moves slots if that pays.
    pub(crate) fn weigh(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let known = |worker: &WorkerId| run.balance.speeds.get(worker).is_some_and(|speed| speed.steps >= STEPS_MIN);
        let settled = run.stage == Stage::Training && run.seats.len() > 1 && !run.asked.pause;
        let all_train = || run.seats.values().all(|seat| seat.state == SeatState::Training && seat.away.is_none());
        if !settled || !run.seats.keys().all(known) || !all_train() {
            return;
        }
        self.name_stragglers(id);
        let run = &self.runs[id];
        let workers: Vec<&WorkerId> = run.record.members.iter().map(|member| &member.worker).collect();
        let present: Vec<u32> = run.record.members.iter().map(|member| member.slots.len() as u32).collect();
        let speeds = run.balance.speeds(&workers);
        let planned = shares(run.record.spec.slots, &speeds);
        let (before, after) = (slots::step_time(&present, &speeds), slots::step_time(&planned, &speeds));
        if before > GAIN_MIN * after && pays(run, self.now.0, 1.0 - after / before) {
            let moves = workers.iter().zip(present.iter().zip(&planned)).filter(|(_, (before, after))| before != after);
            let moves: Vec<String> =
                moves.map(|(worker, (before, after))| format!("{worker} {before} to {after}")).collect();
            let faster = 100.0 * (1.0 - after / before);
            let text =
                format!("slots move from slow to fast workers: {} ({faster:.0} % less a step)", moves.join(", "));
            self.note(id, text);
            let now = self.now;
            let run = self.run_mut(id);
            (run.balance.due, run.balanced_at) = (true, Some(now));
        }
    }

    fn name_stragglers(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let mut speeds: Vec<(f64, WorkerId)> =
            run.seats.keys().map(|worker| (run.balance.speeds[worker].tokens, worker.clone())).collect();
        speeds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let middle = speeds[speeds.len() / 2].0;
        for (speed, worker) in speeds {
            let named = self.runs[id].balance.named.contains(&worker);
            let slower = middle / speed;
            if slower >= STRAGGLES && !named {
                self.note(id, format!("{worker} is slow: it computes {slower:.1} times slower than others"));
                self.run_mut(id).balance.named.insert(worker);
            } else if slower < (1.0 + STRAGGLES) / 2.0 && named {
                self.note(id, format!("{worker} is no longer slow"));
                self.run_mut(id).balance.named.remove(&worker);
            }
        }
    }
}

/// The rest of the run gains more than the pause costs, and pauses do not add up.
fn pays(run: &Run, now: u64, share: f64) -> bool {
    let Some(usual) = run.pace.usual_ms() else { return false };
    let cost = run.balance.cost_ms.unwrap_or(COST_MS);
    let left = run.record.spec.total_steps.0.saturating_sub(run.record.step.0) as f64;
    let rested = run.balanced_at.is_none_or(|at| (now - at.0) as f64 >= COST_SHARE * cost);
    rested && left * usual * share > 2.0 * cost
}
