//! A coordinator and its workers, and the questions a test asks of them.

use crate::network::{Host, Network};
use crate::process::{Output, program};
use crate::{Corpus, interruption, pretraining};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing in a test takes this long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// A worker process.
pub struct Worker {
    /// Its name.
    pub name: String,
    child: Child,
    host: Option<Host>,
}

impl Worker {
    /// Sends a signal to the agent.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the worker is there");
    }

    /// Sends a signal to the agent and its trainer process, as a batch system or a frozen host does.
    pub fn signal_all(&self, signal: Signal) {
        let trainer = self.trainer_pid();
        self.signal(signal);
        kill(Pid::from_raw(trainer as i32), signal).expect("the trainer process is there");
    }

    /// Sends a signal to the trainer process alone.
    pub fn signal_trainer(&self, signal: Signal) {
        kill(Pid::from_raw(self.trainer_pid() as i32), signal).expect("the trainer process is there");
    }

    /// SIGKILL to the agent; its trainer dies with it.
    pub fn kill(&mut self) {
        self.child.kill().expect("the worker is there");
        self.child.wait().expect("a child can be waited for");
    }

    /// The agent's process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it runs, if the cluster has a network of its own.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// The process number of its trainer process.
    pub fn trainer_pid(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).expect("Linux tells the children of a process");
        let first = children.split_whitespace().next().expect("a worker has a trainer process");
        first.parse().expect("a number")
    }

    /// How it ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            interruption::check();
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "worker {} does not end", self.name);
            std::thread::sleep(POLL);
        }
    }
}

/// A coordinator, its data folder, its workers and a corpus, all in one temporary folder.
pub struct Cluster {
    folder: TempDir,
    /// The files to train on.
    pub corpus: Corpus,
    /// HOST:PORT.
    pub endpoint: String,
    /// What `coordinator start` was given beside the address.
    arguments: Vec<String>,
    coordinator: Option<Child>,
    workers: Vec<Worker>,
    named: usize,
    /// None: all is on loopback.
    network: Option<Network>,
}

impl Cluster {
    /// A coordinator without workers.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for `coordinator start`.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(None, arguments)
    }

    /// Every worker is a host of this network.
    #[track_caller]
    pub fn start_in(network: Network) -> Self {
        Self::start_on(Some(network), &["--insecure-plaintext"])
    }

    #[track_caller]
    fn start_on(network: Option<Network>, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("trireme-e2e-").tempdir().expect("room on the disk");
        let corpus = Corpus::write(folder.path());
        let address = network.as_ref().map_or("127.0.0.1", Network::address);
        let mut cluster = Self {
            folder,
            corpus,
            endpoint: String::new(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            coordinator: None,
            workers: Vec::new(),
            named: 0,
            network,
        };
        cluster.start_coordinator(&format!("{address}:0"));
        cluster
    }

    /// A path in the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("trireme")
    }

    /// The default configuration's file.
    pub fn config(&self) -> PathBuf {
        let path = self.path("run.toml");
        std::fs::write(&path, pretraining(&self.corpus)).expect("room on the disk");
        path
    }

    fn log(&self, name: &str) -> File {
        let path = self.path(&format!("{name}.log"));
        File::options().create(true).append(true).open(path).expect("room on the disk")
    }

    /// A command of one of our programs with this cluster's address and token.
    pub fn command(&self, name: &str) -> Command {
        let program = program(name);
        self.environment(match &self.network {
            Some(network) => network.command(&program),
            None => Command::new(program),
        })
    }

    fn environment(&self, mut command: Command) -> Command {
        if interruption::listens() {
            command.process_group(0);
        }
        command
            .env("XDG_DATA_HOME", self.folder.path())
            .env("TRIREME_COORDINATOR", &self.endpoint)
            .env_remove("TRIREME_TOKEN")
            .env("TRIREME_LOG", "info")
            .env("NO_COLOR", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `coordinator ARGUMENTS` to its end.
    pub fn coordinator(&self, arguments: &[&str]) -> Output {
        Output::of(self.command("coordinator").args(arguments))
    }

    #[track_caller]
    fn start_coordinator(&mut self, listen: &str) {
        let log = self.log("coordinator");
        let child = self
            .command("coordinator")
            .args(["start", "--listen", listen])
            .args(&self.arguments)
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("the coordinator starts");
        self.coordinator = Some(child);
        let path = self.data_dir().join("endpoint");
        self.endpoint = self.until("the coordinator listens", |_| {
            std::fs::read_to_string(&path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        });
    }

    /// The coordinator's process number.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().expect("it runs").id()
    }

    /// What every call to the coordinator must show.
    pub fn token(&self) -> String {
        let text = std::fs::read_to_string(self.data_dir().join("token")).expect("a coordinator writes its token");
        text.trim().to_owned()
    }

    /// SIGKILL.
    pub fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("a child can be waited for");
    }

    /// After [`Cluster::kill_coordinator`]: on the same port.
    #[track_caller]
    pub fn restart_coordinator(&mut self) {
        // The killed one left it.
        std::fs::remove_file(self.data_dir().join("endpoint")).expect("a coordinator tells its address");
        let endpoint = self.endpoint.clone();
        self.start_coordinator(&endpoint);
    }

    /// Starts a one-thread worker without waiting for it; returns its index.
    pub fn spawn_worker(&mut self) -> usize {
        self.spawn_worker_with(|_| {})
    }

    /// The same, after a change of its command.
    pub fn spawn_worker_with(&mut self, change: impl FnOnce(&mut Command)) -> usize {
        self.spawn_worker_of(&program("worker"), change)
    }

    /// The same, of another file than the one that was built.
    pub fn spawn_worker_of(&mut self, program: &Path, change: impl FnOnce(&mut Command)) -> usize {
        self.spawn(program, 1, change)
    }

    fn spawn(&mut self, program: &Path, threads: u32, change: impl FnOnce(&mut Command)) -> usize {
        self.named += 1;
        let name = format!("worker-{}", self.named);
        let log = self.log(&name);
        let host = self.network.as_mut().map(|network| network.add_host().unwrap_or_else(|error| panic!("{error}")));
        let mut command = self.environment(match &host {
            Some(host) => host.command(program),
            None => Command::new(program),
        });
        command
            .args(["join", "--device", "cpu", "--threads", &threads.to_string(), "--name", &name])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        change(&mut command);
        let child = command.spawn().expect("the worker starts");
        self.workers.push(Worker { name, child, host });
        self.workers.len() - 1
    }

    /// Starts one-thread workers and waits until all have joined.
    #[track_caller]
    pub fn add_workers(&mut self, count: usize) {
        self.add_workers_of(count, 1);
    }

    /// The same with so many threads each.
    #[track_caller]
    pub fn add_workers_of(&mut self, count: usize, threads: u32) {
        let added: Vec<usize> = (0..count).map(|_| self.spawn(&program("worker"), threads, |_| {})).collect();
        for index in added {
            self.until_joined(index);
        }
    }

    /// Waits until a worker has joined.
    #[track_caller]
    pub fn until_joined(&self, index: usize) {
        let name = &self.workers[index].name;
        self.until(&format!("{name} joins"), |cluster| cluster.worker_log(index).contains("joined").then_some(()));
    }

    /// A worker by index, in the order in which they were started.
    pub fn worker(&mut self, index: usize) -> &mut Worker {
        &mut self.workers[index]
    }

    /// All workers in the order in which they were started.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// How many workers were started so far and not ended by [`Cluster::kill_workers`].
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Everything a worker wrote.
    pub fn worker_log(&self, index: usize) -> String {
        std::fs::read_to_string(self.path(&format!("{}.log", self.workers[index].name))).unwrap_or_default()
    }

    /// Everything the coordinator wrote.
    pub fn coordinator_log(&self) -> String {
        std::fs::read_to_string(self.path("coordinator.log")).unwrap_or_default()
    }

    /// Ends all workers at once.
    pub fn kill_workers(&mut self) {
        for mut worker in self.workers.drain(..) {
            worker.kill();
        }
    }

    /// Submits the default config with these overrides (`key=value`); returns the run's id.
    #[track_caller]
    pub fn submit(&self, overrides: &[&str]) -> String {
        let config = self.config();
        let mut command = self.command("coordinator");
        command.arg("submit").arg(config).arg("--json");
        for set in overrides {
            command.args(["--set", set]);
        }
        let output = Output::of(&mut command).expect_code(0);
        output.json()["run"].as_str().expect("submit prints the run's id").to_owned()
    }

    /// `runs show --json`.
    #[track_caller]
    pub fn show(&self, run: &str) -> Value {
        self.coordinator(&["runs", "show", run, "--json"]).expect_code(0).json()
    }

    /// How many workers each generation of the run had, oldest first, as the run's events tell it.
    #[track_caller]
    pub fn generations(&self, run: &str) -> Vec<usize> {
        let shown = self.show(run);
        let events = shown["events"].as_array().expect("a list of events");
        let texts = events.iter().filter_map(|event| event["text"].as_str());
        texts
            .filter_map(|text| text.strip_prefix("generation ")?.split_once(": ")?.1.split(' ').next()?.parse().ok())
            .collect()
    }

    /// Waits until `ready` gives something; fails the test when that takes too long.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            interruption::check();
            if let Some(value) = ready(self) {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "waited too long: {what}");
            std::thread::sleep(POLL);
        }
    }

    /// Waits until this many steps are committed.
    #[track_caller]
    pub fn until_step(&self, run: &str, step: u64) -> Value {
        self.until(&format!("step {step}"), |cluster| {
            let shown = cluster.show(run);
            let status = shown["status"].as_str().unwrap_or_default();
            assert!(!["failed", "cancelled"].contains(&status), "{shown:#}");
            (shown["step"].as_u64() >= Some(step)).then_some(shown)
        })
    }

    /// Waits until the run has this status; fails the test if it ends in another one.
    #[track_caller]
    pub fn until_status(&self, run: &str, status: &str) -> Value {
        self.until(&format!("status {status}"), |cluster| {
            let shown = cluster.show(run);
            let now = shown["status"].as_str().unwrap_or_default().to_owned();
            if now == status {
                return Some(shown);
            }
            assert!(!["completed", "failed", "cancelled"].contains(&now.as_str()), "not {status}: {shown:#}");
            None
        })
    }

    /// Waits until the run is completed; returns its weights' digest.
    #[track_caller]
    pub fn until_completed(&self, run: &str) -> String {
        let shown = self.until_status(run, "completed");
        assert_eq!(shown["step"], shown["total_steps"], "{shown:#}");
        let digest = shown["weights_digest"].as_str().unwrap_or_default().to_owned();
        assert_eq!(digest.len(), 64, "{shown:#}");
        digest
    }

    /// The whole history of one metric: (attempt, step, value).
    #[track_caller]
    pub fn metric(&self, run: &str, key: &str) -> Vec<(u64, u64, f64)> {
        let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"));
        self.metric_rows(run, key, false)
            .iter()
            .map(|row| (number(row, "attempt"), number(row, "step"), row["value"].as_f64().unwrap_or(f64::NAN)))
            .collect()
    }

    /// The whole history of one metric as `metrics --json` gives it, with what a rewind superseded or without it.
    #[track_caller]
    pub fn metric_rows(&self, run: &str, key: &str, superseded: bool) -> Vec<Value> {
        let mut arguments = vec!["metrics", run, "--key", key, "--json"];
        if superseded {
            arguments.push("--superseded");
        }
        self.coordinator(&arguments).expect_code(0).json_lines()
    }

    /// The ledger proves that every sample was used once, and the chain of digests holds.
    #[track_caller]
    pub fn verify_ledger(&self, run: &str) -> Value {
        let report = self.coordinator(&["ledger", "verify", run, "--json"]).expect_code(0).json();
        assert_eq!(report["ok"], true, "{report:#}");
        assert_eq!((&report["duplicates"], &report["missing"]), (&Value::from(0), &Value::from(0)), "{report:#}");
        report
    }

    /// The folder of a run's checkpoint.
    pub fn store(&self) -> PathBuf {
        self.data_dir().join("store")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        if let Some(mut child) = self.coordinator.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() && !interruption::asked() {
            print_logs(self.folder.path());
        }
    }
}

fn print_logs(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    logs.sort();
    for path in logs {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("---- {} (last of {} lines)", path.display(), lines.len());
        for line in &lines[lines.len().saturating_sub(40)..] {
            eprintln!("{line}");
        }
    }
}
