//! Faults from one seed over one run, until nobody can say any more that it was luck: nothing is lost, nothing is done
//! twice, and the weights are those of the run that nothing happened to.
//!
//! The run is stopped by a person's `runs cancel` when the schedule is over, which saves its last step. Only then is the
//! undisturbed run made, of just as many steps; the learning rate is constant, so the number of steps changes nothing.

mod report;
mod schedule;

pub use report::{OfKind, Report, Times};
pub use schedule::{Fault, Kind, Schedule};

use crate::network::{Host, Network};
use crate::{Cluster, Proxy, SLOW, interruption};
use nix::sys::signal::Signal;
use report::{History, Struck, recoveries};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Of both runs. What is compared and saved on the way belongs to what may go wrong.
const OVERRIDES: [&str; 6] = [
    "schedule.decay=constant",
    "schedule.warmup=0",
    "checkpoint.every_steps=20",
    "checkpoint.keep_latest=2",
    "eval.every_steps=40",
    "recovery.verify_every=25",
];
/// More than anybody waits for.
const ENDLESS: u64 = 10_000_000;
/// The undisturbed run says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the schedule follows from.
    pub seed: u64,
    /// Workers in the run.
    pub workers: usize,
    /// What may go wrong.
    pub kinds: Vec<Kind>,
    /// So many faults at most.
    pub faults: Option<usize>,
    /// No further fault after this time.
    pub time: Option<Duration>,
    /// Say what happens, on standard error.
    pub tell: bool,
}

/// Starts a cluster and does to it what the schedule says. Without a network, cables are passed over and the links to
/// the coordinator are proxies. Unwinds if it is interrupted, and panics if the run fails or stands still.
pub fn run(options: &Options, network: Option<Network>) -> Report {
    let Options { seed, workers, .. } = *options;
    assert!(options.faults.is_some() || options.time.is_some(), "a schedule has an end");
    let impossible = impossible(&options.kinds, network.as_ref());
    assert!(impossible.len() < options.kinds.len(), "this machine allows none of it: {impossible:?}");
    let namespaces = network.is_some();
    let mut chaos = Chaos::start(options, network);
    for (kind, why) in &impossible {
        chaos.tell(&format!("no {kind}: {why}"));
    }
    let (mut struck, mut skipped) = (Vec::new(), BTreeMap::new());
    for fault in Schedule::new(seed, options.kinds.clone(), workers) {
        let is_late = options.time.is_some_and(|time| chaos.started.elapsed() + fault.pause > time);
        if is_late || options.faults.is_some_and(|faults| struck.len() >= faults) {
            break;
        }
        if impossible.contains_key(&fault.kind) {
            *skipped.entry(fault.kind).or_default() += 1;
            chaos.tell(&format!("{fault} (passed over)"));
            continue;
        }
        rest(fault.pause);
        chaos.tell(&fault.to_string());
        struck.push(chaos.strike(&fault));
        chaos.tell("  all train again");
    }
    let seconds = chaos.started.elapsed().as_secs_f64();
    let disturbed = chaos.stop();
    let steps = number(&disturbed.shown, "step");
    if options.tell {
        eprintln!("the same {steps} steps, undisturbed");
    }
    let undisturbed = undisturbed(steps, options.tell);
    let history = History::new(&disturbed.all_losses, &disturbed.losses, steps);
    let (recovery, kinds) = recoveries(&history, &struck);
    let mut report = Report {
        ok: false,
        seed,
        workers,
        namespaces,
        seconds,
        faults: struck.len(),
        skipped,
        steps,
        usual_step_seconds: history.usual_seconds(),
        recovery,
        kinds,
        attempts: number(&disturbed.shown, "attempt"),
        generations: number(&disturbed.shown, "generation"),
        refused: disturbed.shown["refused"].clone(),
        steps_lost: history.lost,
        samples: number(&disturbed.ledger, "samples"),
        samples_lost: number(&disturbed.ledger, "missing"),
        samples_repeated: number(&disturbed.ledger, "duplicates"),
        ledger_ok: disturbed.ledger["ok"] == true && number(&disturbed.ledger, "steps") == steps,
        ledger_problems: disturbed.ledger["problems"].clone(),
        same_samples: disturbed.ledger["chain"] == undisturbed.ledger["chain"],
        same_weights: disturbed.weights == undisturbed.weights,
        weights_digest: disturbed.weights,
        undisturbed_weights_digest: undisturbed.weights,
    };
    // With a time beside it, a number of faults is a limit.
    report.ok = report.judge(options.faults.filter(|_| options.time.is_none()).unwrap_or(1));
    report
}

/// What this machine does not allow, and why.
fn impossible(kinds: &[Kind], network: Option<&Network>) -> BTreeMap<Kind, String> {
    let allowed = |kind: Kind| match (kind, network) {
        (Kind::LinkSlow, Some(network)) => network.can_be_slow(),
        (kind, None) if Kind::OF_CABLES.contains(&kind) => Err("there are no network namespaces".to_owned()),
        _ => Ok(()),
    };
    kinds.iter().filter_map(|kind| Some((*kind, allowed(*kind).err()?))).collect()
}

/// What a run left.
struct Ended {
    shown: Value,
    ledger: Value,
    weights: String,
    losses: Vec<Value>,
    all_losses: Vec<Value>,
}

impl Ended {
    fn new(cluster: &Cluster, run: &str) -> Self {
        let shown = cluster.show(run);
        let step = &shown["step"];
        let checkpoints = shown["checkpoints"].as_array().expect("a list of checkpoints");
        let last = checkpoints.iter().find(|checkpoint| checkpoint["step"] == *step);
        let last = last.unwrap_or_else(|| panic!("no checkpoint of the last step: {shown:#}"));
        let path = cluster.store().join(last["path"].as_str().expect("a path")).join("manifest.json");
        let manifest = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let manifest: Value = serde_json::from_str(&manifest).expect("a manifest is JSON");
        Self {
            ledger: cluster.coordinator(&["ledger", "verify", run, "--json"]).json(),
            weights: manifest["weights_digest"].as_str().expect("the digest of the weights").to_owned(),
            losses: cluster.metric_rows(run, "train/loss", false),
            all_losses: cluster.metric_rows(run, "train/loss", true),
            shown,
        }
    }
}

/// The run that nothing happens to, on loopback.
fn undisturbed(steps: u64, tell: bool) -> Ended {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let run = submit(&cluster, steps);
    let mut told = Instant::now();
    loop {
        let before = number(&cluster.show(&run), "step");
        let shown = cluster.until("the next step of the undisturbed run", |cluster| {
            let shown = cluster.show(&run);
            (shown["status"] != "running" && shown["status"] != "queued" || number(&shown, "step") > before)
                .then_some(shown)
        });
        assert_ne!(shown["status"], "failed", "{shown:#}");
        if shown["status"] == "completed" {
            return Ended::new(&cluster, &run);
        }
        if tell && told.elapsed() > TELL_EVERY {
            told = Instant::now();
            eprintln!("  step {} of {steps}", shown["step"]);
        }
    }
}

fn submit(cluster: &Cluster, steps: u64) -> String {
    let steps = format!("run.steps={steps}");
    let overrides: Vec<&str> = SLOW.into_iter().chain(OVERRIDES).chain([steps.as_str()]).collect();
    cluster.submit(&overrides)
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value:#}"))
}

fn rest(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        interruption::check();
        std::thread::sleep((until - Instant::now()).min(Duration::from_millis(50)));
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A worker's place in the run.
struct Seat {
    worker: usize,
    /// Its link to the coordinator, where it is no host of its own.
    proxy: Option<Proxy>,
}

/// A cluster, a run and who takes part in it.
struct Chaos {
    cluster: Cluster,
    seats: Vec<Seat>,
    run: String,
    started: Instant,
    tell: bool,
}

impl Chaos {
    fn start(options: &Options, network: Option<Network>) -> Self {
        let has_proxies = network.is_none();
        let cluster = network.map_or_else(Cluster::start, Cluster::start_in);
        let mut chaos =
            Self { cluster, seats: Vec::new(), run: String::new(), started: Instant::now(), tell: options.tell };
        for _ in 0..options.workers {
            let seat = chaos.new_worker(has_proxies);
            chaos.seats.push(seat);
        }
        chaos.seats.iter().for_each(|seat| chaos.cluster.until_joined(seat.worker));
        chaos.run = submit(&chaos.cluster, ENDLESS);
        chaos.settle(0);
        chaos.started = Instant::now();
        chaos
    }

    fn new_worker(&mut self, has_proxy: bool) -> Seat {
        let proxy = has_proxy.then(|| Proxy::start(&self.cluster.endpoint));
        let worker = self.cluster.spawn_worker_with(|command| {
            if let Some(proxy) = &proxy {
                command.env("TRIREME_COORDINATOR", proxy.address());
            }
        });
        Seat { worker, proxy }
    }

    fn tell(&self, what: &str) {
        if self.tell {
            let step = number(&self.cluster.show(&self.run), "step");
            eprintln!("{:7.1} s  step {step:<5} {what}", self.started.elapsed().as_secs_f64());
        }
    }

    fn show(&self) -> Value {
        let shown = self.cluster.show(&self.run);
        assert!(shown["status"] != "failed" && shown["status"] != "completed", "{shown:#}");
        shown
    }

    /// Waits for a generation newer than this one, of so many members, and for a step that they did together.
    fn until_together(&self, world: usize, after: u64) {
        let together =
            |shown: &Value| number(shown, "generation") > after && number(shown, "world_size") == world as u64;
        self.cluster.until(&format!("a step of a generation of {world} after {after}"), |_| {
            let formed = Some(self.show()).filter(together)?;
            let step = number(&formed, "step");
            self.cluster.until("a step or another generation", |_| {
                let shown = self.show();
                (shown["generation"] != formed["generation"] || number(&shown, "step") > step).then_some(())
            });
            (self.show()["generation"] == formed["generation"]).then_some(())
        });
    }

    /// Waits until all train, in a generation newer than this one.
    fn settle(&self, after: u64) {
        self.until_together(self.seats.len(), after);
    }

    /// Does it, and waits until all train again.
    fn strike(&mut self, fault: &Fault) -> Struck {
        let generation = number(&self.show(), "generation");
        let at_ms = now_ms();
        match fault.kind {
            Kind::WorkerKilled => {
                self.worker(fault.seat).kill();
                self.replace(fault.seat, generation);
            }
            Kind::WorkerDrained => {
                self.worker(fault.seat).signal(Signal::SIGTERM);
                let status = self.worker(fault.seat).wait();
                assert_eq!(status.code(), Some(0), "a worker that was told to leave");
                self.replace(fault.seat, generation);
            }
            Kind::TrainerKilled => {
                self.worker(fault.seat).signal_trainer(Signal::SIGKILL);
                self.settle(generation);
            }
            Kind::WorkerFrozen => {
                self.worker(fault.seat).signal_all(Signal::SIGSTOP);
                self.until_without_one(generation);
                self.worker(fault.seat).signal_all(Signal::SIGCONT);
                self.settle(generation);
            }
            Kind::TrainerFrozen => {
                self.worker(fault.seat).signal_trainer(Signal::SIGSTOP);
                self.until_without_one(generation);
                self.worker(fault.seat).signal_trainer(Signal::SIGCONT);
                self.settle(generation);
            }
            Kind::CoordinatorKilled => {
                self.cluster.kill_coordinator();
                self.cluster.restart_coordinator();
                self.settle(0);
            }
            Kind::ControlLinkDown | Kind::LinkDown => {
                self.set_link(fault, false);
                self.until_without_one(generation);
                self.set_link(fault, true);
                self.settle(generation);
            }
            Kind::ControlLinkFlickers | Kind::LinkFlickers | Kind::PeersOutOfReach | Kind::LinkSlow => {
                self.set_link(fault, false);
                rest(fault.lasts);
                self.set_link(fault, true);
                self.settle(0);
            }
        }
        Struck { kind: fault.kind, at_ms, settled_ms: now_ms() }
    }

    fn worker(&mut self, seat: usize) -> &mut crate::Worker {
        self.cluster.worker(self.seats[seat].worker)
    }

    /// Waits until the others go on.
    fn until_without_one(&self, generation: u64) {
        self.until_together(self.seats.len() - 1, generation);
    }

    /// Somebody new in the place of a worker that is gone.
    fn replace(&mut self, seat: usize, generation: u64) {
        let has_proxy = self.seats[seat].proxy.is_some();
        self.seats[seat] = self.new_worker(has_proxy);
        self.cluster.until_joined(self.seats[seat].worker);
        self.settle(generation);
    }

    fn host(&self, seat: usize) -> &Host {
        self.cluster.workers()[self.seats[seat].worker].host().expect("this machine allows cables")
    }

    fn set_link(&self, fault: &Fault, up: bool) {
        match (fault.kind, &self.seats[fault.seat].proxy) {
            (Kind::ControlLinkDown | Kind::ControlLinkFlickers, Some(proxy)) if up => proxy.mend(),
            (Kind::ControlLinkDown | Kind::ControlLinkFlickers, Some(proxy)) => proxy.cut(),
            (Kind::ControlLinkDown | Kind::ControlLinkFlickers, None) => {
                self.host(fault.seat).set_way_to_coordinator(up);
            }
            (Kind::PeersOutOfReach, _) => {
                for other in (0..self.seats.len()).filter(|seat| *seat != fault.seat) {
                    self.host(fault.seat).set_way_to(self.host(other), up);
                }
            }
            (Kind::LinkSlow, _) if up => self.host(fault.seat).speed_up(),
            (Kind::LinkSlow, _) => self.host(fault.seat).slow_down(fault.megabits),
            _ => self.host(fault.seat).set_link(up),
        }
    }

    /// The schedule is over.
    fn stop(self) -> Ended {
        self.tell("the schedule is over: the run is cancelled");
        self.cluster.coordinator(&["runs", "cancel", &self.run]).expect_code(0);
        self.cluster.until_status(&self.run, "cancelled");
        Ended::new(&self.cluster, &self.run)
    }
}
