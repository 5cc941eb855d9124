//! Random faults over one run, from one seed: nothing is lost, nothing is done twice, and the weights are those of the
//! run that nothing happened to.
//!
//! `TRIREME_CHAOS_FAULTS=100 cargo nextest run -p e2e chaos --no-capture` for more of them; `TRIREME_TEST_SEED` for the
//! same ones again.

use e2e::{Cluster, Proxy, SLOW, seeded};
use nix::sys::signal::Signal;
use rand::Rng;
use std::time::{Duration, Instant};

const WORKERS: usize = 3;
/// Faults in a usual run.
const FAULTS: u64 = 3;
/// Steps that may pass between two faults, the recovery from the first included.
const STEPS_A_FAULT: u64 = 10;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL to an agent, and a new worker in its place.
    Kill,
    /// SIGKILL to a trainer process.
    KillTrainer,
    /// SIGSTOP to agent and trainer, SIGCONT once it is replaced.
    Freeze,
    /// SIGSTOP to a trainer alone.
    FreezeTrainer,
    /// The link to the coordinator is down until the worker is replaced.
    Cut,
    /// The link is down for a moment.
    Flicker,
    /// SIGTERM, and a new worker in its place.
    Drain,
    /// SIGKILL to the coordinator, and a restart.
    Coordinator,
}

const ALL: [Fault; 8] = [
    Fault::Kill,
    Fault::KillTrainer,
    Fault::Freeze,
    Fault::FreezeTrainer,
    Fault::Cut,
    Fault::Flicker,
    Fault::Drain,
    Fault::Coordinator,
];

/// A cluster in which every worker has a link of its own.
struct Chaos {
    cluster: Cluster,
    /// By the worker's index; None: it is gone for good.
    links: Vec<Option<Proxy>>,
    run: String,
}

impl Chaos {
    fn add_worker(&mut self) {
        let link = Proxy::start(&self.cluster.endpoint);
        let index = self.cluster.spawn_worker_with(|command| _ = command.env("TRIREME_COORDINATOR", link.address()));
        self.links.push(Some(link));
        self.cluster.until_joined(index);
    }

    fn has_ended(&self) -> bool {
        self.cluster.show(&self.run)["status"] == "completed"
    }

    fn step(&self) -> u64 {
        self.cluster.show(&self.run)["step"].as_u64().unwrap_or(0)
    }

    /// Waits for `world` members and a step that they did together. False: the run ended first.
    fn until_together(&self, world: usize, after: usize) -> bool {
        let formed = self.cluster.until(&format!("a generation of {world}"), |cluster| {
            let shown = cluster.show(&self.run);
            assert_ne!(shown["status"], "failed", "{shown:#}");
            let generations = cluster.generations(&self.run);
            let formed = generations.len() > after && generations.last() == Some(&world);
            (formed || shown["status"] == "completed").then_some(shown)
        });
        let step = formed["step"].as_u64().unwrap_or(0);
        self.cluster.until("a step together", |_| (self.step() > step || self.has_ended()).then_some(()));
        !self.has_ended()
    }

    /// Does it, and waits until all workers train again. The seconds until the first step after the fault.
    fn strike(&mut self, fault: Fault, victim: usize) -> f64 {
        let (step, before) = (self.step(), self.cluster.generations(&self.run).len());
        let struck = Instant::now();
        match fault {
            Fault::Kill => self.cluster.worker(victim).kill(),
            Fault::KillTrainer => self.cluster.worker(victim).signal_trainer(Signal::SIGKILL),
            Fault::Freeze => self.cluster.worker(victim).signal_all(Signal::SIGSTOP),
            Fault::FreezeTrainer => self.cluster.worker(victim).signal_trainer(Signal::SIGSTOP),
            Fault::Cut | Fault::Flicker => self.link(victim).cut(),
            Fault::Drain => self.cluster.worker(victim).signal(Signal::SIGTERM),
            Fault::Coordinator => {
                self.cluster.kill_coordinator();
                self.cluster.restart_coordinator();
            }
        }
        if matches!(fault, Fault::Flicker) {
            std::thread::sleep(Duration::from_millis(300));
            self.link(victim).mend();
        }
        // Two, because the first may have been on its way already.
        self.cluster.until("steps after the fault", |_| (self.step() > step + 1 || self.has_ended()).then_some(()));
        let seconds = struck.elapsed().as_secs_f64();
        match fault {
            Fault::Freeze | Fault::FreezeTrainer | Fault::Cut => {
                self.until_together(WORKERS - 1, before);
                match fault {
                    Fault::Freeze => self.cluster.worker(victim).signal_all(Signal::SIGCONT),
                    Fault::FreezeTrainer => self.cluster.worker(victim).signal_trainer(Signal::SIGCONT),
                    _ => self.link(victim).mend(),
                }
                self.until_together(WORKERS, before);
            }
            Fault::Kill | Fault::Drain => {
                if matches!(fault, Fault::Drain) {
                    assert_eq!(self.cluster.worker(victim).wait().code(), Some(0));
                }
                self.links[victim] = None;
                if !self.has_ended() {
                    self.add_worker();
                    self.until_together(WORKERS, before);
                }
            }
            Fault::KillTrainer => _ = self.until_together(WORKERS, before),
            Fault::Flicker | Fault::Coordinator => {}
        }
        seconds
    }

    fn link(&self, victim: usize) -> &Proxy {
        self.links[victim].as_ref().expect("victims are among the living")
    }
}

#[test]
fn random_faults_lose_nothing_and_change_nothing() {
    let wanted = std::env::var("TRIREME_CHAOS_FAULTS").map_or(FAULTS, |text| text.parse().expect("a number"));
    let mut random = seeded("random_faults_lose_nothing_and_change_nothing");
    let steps = format!("run.steps={}", 20 + wanted * STEPS_A_FAULT);
    let overrides: Vec<&str> = SLOW.into_iter().chain([steps.as_str()]).collect();
    let alone = {
        let mut cluster = Cluster::start();
        cluster.add_workers(2);
        let run = cluster.submit(&overrides);
        cluster.until_completed(&run)
    };

    let mut chaos = Chaos { cluster: Cluster::start(), links: Vec::new(), run: String::new() };
    (0..WORKERS).for_each(|_| chaos.add_worker());
    chaos.run = chaos.cluster.submit(&overrides);
    chaos.cluster.until_step(&chaos.run, 1);
    let mut seconds: Vec<(Fault, f64)> = Vec::new();
    for number in 0..wanted {
        std::thread::sleep(Duration::from_millis(random.random_range(0..600)));
        let fault = ALL[random.random_range(0..ALL.len())];
        let living: Vec<usize> = (0..chaos.links.len()).filter(|index| chaos.links[*index].is_some()).collect();
        let victim = living[random.random_range(0..living.len())];
        if chaos.has_ended() {
            break;
        }
        eprintln!("fault {number} at step {}: {fault:?} of worker {victim}", chaos.step());
        seconds.push((fault, chaos.strike(fault, victim)));
    }
    let weights = chaos.cluster.until_completed(&chaos.run);
    let shown = chaos.cluster.show(&chaos.run);
    let ledger = chaos.cluster.verify_ledger(&chaos.run);
    // Every attempt after the first goes back to a checkpoint, and loses the steps since then.
    let history = chaos.cluster.metric(&chaos.run, "train/loss");
    let committed: Vec<u64> = history.iter().map(|(_, step, _)| *step).collect();
    let steps_lost = history.iter().filter(|(attempt, ..)| *attempt > 1).count();
    eprintln!(
        "{} faults over {} steps: steps lost {steps_lost}, samples lost {}, samples repeated {}, same weights {}",
        seconds.len(),
        shown["step"],
        ledger["missing"],
        ledger["duplicates"],
        weights == alone,
    );
    for fault in ALL.map(|fault| format!("{fault:?}")) {
        let mut of_kind: Vec<f64> =
            seconds.iter().filter(|(kind, _)| format!("{kind:?}") == fault).map(|(_, seconds)| *seconds).collect();
        of_kind.sort_by(f64::total_cmp);
        if let (Some(worst), Some(median)) = (of_kind.last(), of_kind.get(of_kind.len() / 2)) {
            let count = of_kind.len();
            eprintln!("{fault}: {count} times; two steps later after {median:.2} s (median), {worst:.2} s (worst)");
        }
    }
    assert!(!seconds.is_empty(), "the run ended before anything happened to it");
    assert_eq!(weights, alone);
    assert_eq!(committed, (1..=shown["total_steps"].as_u64().unwrap()).collect::<Vec<_>>());
    assert_eq!((steps_lost, &shown["attempt"]), (0, &1.into()), "nothing was read back from a checkpoint");
}
