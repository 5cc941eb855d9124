//! How long training stands still after a fault, with the real binaries: three workers on this machine, one coordinator.
//!
//! The time is that from the fault to the end of the first step after it, by the clock of the workers, which stamp every
//! step. A normal step of the same run stands beside it: what a fault costs is the difference.

use crate::runs::{seconds, step_times};
use anyhow::{Context, Result};
use e2e::{Cluster, Network, SLOW};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const WORKERS: usize = 3;

/// What one kind of fault costs.
#[derive(Debug, Serialize)]
pub struct Line {
    suite: &'static str,
    case: &'static str,
    rounds: usize,
    /// From the fault to the end of the next step, or to what else the case names.
    p50_seconds: f64,
    p95_seconds: f64,
    worst_seconds: f64,
    /// The median of the steps that nothing happened to.
    normal_step_seconds: f64,
    /// What the 95th percentile may be.
    goal_seconds: f64,
    met: bool,
}

impl Line {
    fn new(case: &'static str, mut found: Vec<f64>, normal_step_seconds: f64, goal_seconds: f64) -> Self {
        found.sort_by(f64::total_cmp);
        let [p50_seconds, p95_seconds, worst_seconds] = [0.5, 0.95, 1.0].map(|share| percentile(&found, share));
        let met = p95_seconds <= goal_seconds;
        let rounds = found.len();
        let suite = "recovery";
        Self { suite, case, rounds, p50_seconds, p95_seconds, worst_seconds, normal_step_seconds, goal_seconds, met }
    }
}

/// Of ascending values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1]
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suite, case, rounds, p50_seconds, p95_seconds, worst_seconds, .. } = self;
        let (normal, goal, verdict) =
            (self.normal_step_seconds, self.goal_seconds, if self.met { "met" } else { "MISSED" });
        write!(
            f,
            "{suite}: {case}, {rounds} times: after {p50_seconds:.2} s (median), {p95_seconds:.2} s (p95, goal \
             {goal:.2}: {verdict}), {worst_seconds:.2} s (worst); a normal step takes {normal:.2} s"
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    Freeze,
    Partition,
    Coordinator,
}

/// One round: the fault and the time in which its effect lies, in milliseconds.
struct Round {
    fault: Fault,
    from: i64,
    to: i64,
}

/// Each kind of fault so many times.
pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let count = if quick { 5 } else { 30 };
    let local = Scene::start(Cluster::start()).strike(&[Fault::Kill, Fault::Freeze, Fault::Coordinator], count)?;
    let normal = local.normal_steps();
    // Ascending: three or four steps end around such a fault, and the longest of them counts.
    let undisturbed = percentile(&normal, 0.99);
    let normal = percentile(&normal, 0.5);
    show(&Line::new("SIGKILL of one of three workers", local.recoveries(Fault::Kill)?, normal, normal + 0.5));
    show(&Line::new("SIGSTOP of one of three workers", local.recoveries(Fault::Freeze)?, normal, 2.5));
    let meanwhile = local.recoveries(Fault::Coordinator)?;
    show(&Line::new("SIGKILL of the coordinator: the longest step meanwhile", meanwhile, normal, undisturbed));
    show(&Line::new("all three workers re-attached to a new coordinator", local.returns, normal, 2.0));
    match Network::create() {
        Ok(network) => {
            let apart = Scene::start(Cluster::start_in(network)).strike(&[Fault::Partition], count)?;
            let normal = percentile(&apart.normal_steps(), 0.5);
            show(&Line::new("link down at one of three workers", apart.recoveries(Fault::Partition)?, normal, 2.5));
        }
        Err(why) => eprintln!("no link is taken down: {why}"),
    }
    Ok(())
}

/// A run of three workers that does not end.
struct Scene {
    cluster: Cluster,
    run: String,
    /// The oldest that lives; a killed one is replaced by a new one.
    victim: usize,
}

/// What happened, and when.
struct History {
    rounds: Vec<Round>,
    /// When each step ended.
    times: Vec<i64>,
    /// How long the workers took to come back to each new coordinator.
    returns: Vec<f64>,
}

impl Scene {
    fn start(mut cluster: Cluster) -> Self {
        cluster.add_workers(WORKERS);
        let overrides: Vec<&str> = SLOW
            .into_iter()
            .chain(["run.steps=1000000", "checkpoint.every_steps=1000", "eval.every_steps=1000000"])
            .collect();
        let run = cluster.submit(&overrides);
        cluster.until_step(&run, 10);
        Self { cluster, run, victim: 0 }
    }

    /// Each of the faults so many times.
    fn strike(mut self, faults: &[Fault], count: usize) -> Result<History> {
        let (mut rounds, mut returns) = (Vec::new(), Vec::new());
        for &fault in faults {
            for _ in 0..count {
                let before = generation(&self.cluster, &self.run);
                let from = now_ms();
                returns.extend(self.begin(fault));
                if fault != Fault::Coordinator {
                    until_world(&self.cluster, &self.run, before, WORKERS - 1);
                }
                go_on(&self.cluster, &self.run, 3);
                rounds.push(Round { fault, from, to: now_ms() });
                self.end(fault);
                if fault != Fault::Coordinator {
                    until_world(&self.cluster, &self.run, before, WORKERS);
                }
                go_on(&self.cluster, &self.run, 5);
            }
        }
        Ok(History { rounds, times: step_times(&self.cluster, &self.run)?, returns })
    }

    /// Answers how long the workers took to come back, where the coordinator went.
    fn begin(&mut self, fault: Fault) -> Option<f64> {
        let (cluster, victim) = (&mut self.cluster, self.victim);
        match fault {
            Fault::Kill => cluster.worker(victim).kill(),
            Fault::Freeze => cluster.worker(victim).signal_all(Signal::SIGSTOP),
            Fault::Partition => cluster.worker(victim).host().expect("in a network").set_link(false),
            Fault::Coordinator => {
                let joined = |cluster: &Cluster| -> Vec<usize> {
                    let living = victim..cluster.worker_count();
                    living.map(|index| cluster.worker_log(index).matches("joined").count()).collect()
                };
                let sessions = joined(cluster);
                cluster.kill_coordinator();
                cluster.restart_coordinator();
                let back = Instant::now();
                cluster.until("all workers are back", |cluster| {
                    joined(cluster).iter().zip(&sessions).all(|(now, before)| now > before).then_some(())
                });
                return Some(back.elapsed().as_secs_f64());
            }
        }
        None
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                self.victim += 1;
                self.cluster.add_workers(1);
            }
            Fault::Freeze => self.cluster.worker(self.victim).signal_all(Signal::SIGCONT),
            Fault::Partition => self.cluster.worker(self.victim).host().expect("in a network").set_link(true),
            Fault::Coordinator => {}
        }
    }
}

impl History {
    /// How long the steps took that nothing happened to, ascending.
    fn normal_steps(&self) -> Vec<f64> {
        let quiet = |pair: &&[i64]| self.rounds.iter().all(|round| pair[1] < round.from || pair[0] > round.to);
        let mut steps: Vec<f64> = self.times.windows(2).filter(quiet).map(|pair| seconds(pair[1] - pair[0])).collect();
        steps.sort_by(f64::total_cmp);
        steps
    }

    fn recoveries(&self, fault: Fault) -> Result<Vec<f64>> {
        self.rounds.iter().filter(|round| round.fault == fault).map(|round| recovery(&self.times, round)).collect()
    }
}

fn generation(cluster: &Cluster, run: &str) -> u64 {
    cluster.show(run)["generation"].as_u64().unwrap_or(0)
}

/// Not by the run's events: `runs show` has the last of them only.
fn until_world(cluster: &Cluster, run: &str, before: u64, world: usize) {
    cluster.until(&format!("a generation of {world}"), |cluster| {
        let shown = cluster.show(run);
        let is_new = shown["generation"].as_u64().is_some_and(|generation| generation > before);
        (is_new && shown["world_size"].as_u64() == Some(world as u64)).then_some(())
    });
}

fn go_on(cluster: &Cluster, run: &str, steps: u64) {
    let step = cluster.show(run)["step"].as_u64().unwrap_or(0);
    cluster.until_step(run, step + steps);
}

/// From the fault to the end of the step that it held up: the one that it fell into, or the one after it if that was
/// all but done. For a coordinator that is away it is the length of the longest step meanwhile.
fn recovery(times: &[i64], round: &Round) -> Result<f64> {
    let took = |pair: &&[i64]| pair[1] - pair[0];
    let mut touched = times.windows(2).filter(|pair| pair[1] > round.from && pair[0] < round.to);
    let found = if round.fault == Fault::Coordinator {
        touched.map(|pair| took(&pair)).max()
    } else {
        touched.by_ref().take(2).max_by_key(took).map(|pair| pair[1] - round.from)
    };
    found.map(seconds).context("no step ended around a fault")
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_step_around_a_fault_is_its_price() {
        let times = [0, 100, 200, 900, 1000, 1100];
        let round = |fault, from, to| Round { fault, from, to };
        assert_eq!(recovery(&times, &round(Fault::Kill, 250, 1000)).unwrap(), 0.65);
        // The step that was all but done when the fault came is not its end.
        assert_eq!(recovery(&times, &round(Fault::Kill, 190, 1000)).unwrap(), 0.71);
        // Nor is a slow one long after it.
        let slow_later = [0, 100, 500, 600, 1100];
        assert_eq!(recovery(&slow_later, &round(Fault::Kill, 150, 1100)).unwrap(), 0.35);
        assert_eq!(recovery(&slow_later, &round(Fault::Coordinator, 150, 1100)).unwrap(), 0.5);
        assert_eq!(recovery(&times, &round(Fault::Coordinator, 950, 1100)).unwrap(), 0.1);
        assert!(recovery(&times, &round(Fault::Kill, 2000, 3000)).is_err());
    }
}
