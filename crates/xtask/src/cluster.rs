//! A coordinator and workers as child processes, and the commands a user would type at them.

use crate::building::Binaries;
use crate::cache;
use anyhow::{Context, Result, anyhow, bail};
use config::Override;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// So long a coordinator may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends what it started when dropped.
pub struct Cluster<'a> {
    binaries: &'a Binaries,
    data: PathBuf,
    logs: PathBuf,
    coordinator: Child,
    workers: Vec<(String, Child)>,
    address: String,
}

impl<'a> Cluster<'a> {
    /// Starts a coordinator on a free loopback port.
    pub fn start(binaries: &'a Binaries, out: &Path) -> Result<Self> {
        let data = out.join("coordinator");
        let logs = out.join("logs");
        std::fs::create_dir_all(&logs)?;
        let endpoint = data.join("endpoint");
        std::fs::remove_file(&endpoint).ok();
        let mut command = Command::new(&binaries.coordinator);
        command.args(["start", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        let mut coordinator = spawn(&mut command, &logs.join("coordinator.log"))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let address = loop {
            if let Ok(text) = std::fs::read_to_string(&endpoint) {
                break text.trim().to_owned();
            }
            if let Some(status) = coordinator.try_wait()? {
                bail!("the coordinator ended: {status}; see {}", logs.join("coordinator.log").display());
            }
            if Instant::now() > deadline {
                coordinator.kill().ok();
                bail!("the coordinator wrote no {} within 30 s", endpoint.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(Self { binaries, data, logs, coordinator, workers: Vec::new(), address })
    }

    /// Starts a one-thread worker.
    pub fn join(&mut self, name: &str) -> Result<()> {
        let mut command = Command::new(&self.binaries.worker);
        command.args(["join", &self.address, "--threads", "1", "--device", "cpu", "--name", name]);
        command.arg("--token-file").arg(self.data.join("token"));
        let worker = spawn(&mut command, &self.logs.join(format!("{name}.log")))?;
        self.workers.push((name.to_owned(), worker));
        Ok(())
    }

    /// SIGKILL: the worker has no chance to say anything.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let index = self.workers.iter().position(|(known, _)| known == name).context("no such worker")?;
        let (_, mut worker) = self.workers.remove(index);
        worker.kill()?;
        worker.wait()?;
        Ok(())
    }

    /// `coordinator ARGUMENTS…`, and what it printed.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = Command::new(&self.binaries.coordinator);
        command.args(arguments).env("TRIREME_COORDINATOR", &self.address);
        command.env("TRIREME_TOKEN", std::fs::read_to_string(self.data.join("token"))?.trim());
        cache::output(&mut command)
    }

    /// `worker ARGUMENTS…`, and what it printed.
    pub fn worker(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binaries.worker);
        command.args(arguments).env("TRIREME_COORDINATOR", &self.address);
        command.env("TRIREME_TOKEN", std::fs::read_to_string(self.data.join("token"))?.trim());
        cache::output(&mut command)
    }

    /// `coordinator ARGUMENTS…`, its output read as one JSON value.
    pub fn json<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let text = self.command(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Submits a run, or goes on with the one of this name that an interrupted job has left: it may be first in the queue,
    /// and another one would wait for it. `config` is a file of `configs`, without its ending.
    pub fn submit(&self, config: &str, name: &str, settings: &[[String; 2]]) -> Result<String> {
        let known = self.command(&["runs", "list", "--json"])?;
        if is_listed(&known, name)? {
            let left = self.show(name)?;
            let run = left["id"].as_str().context("a run has an id")?.to_owned();
            let status = left["status"].as_str().unwrap_or_default();
            let fits = has(left["config"].as_str().unwrap_or_default(), config, settings)?;
            if !fits {
                println!("  run {run} of this name has other settings, and another one is made");
                if !["completed", "failed", "cancelled"].contains(&status) {
                    self.command(&["runs", "cancel", &run])?;
                }
            }
            if fits && status != "failed" {
                println!("  going on with run {run}: {status} at step {}", left["step"]);
                if status == "cancelled" {
                    self.command(&["runs", "resume", &run])?;
                }
                return Ok(run);
            }
        }
        let file = cache::root().join(format!("configs/{config}.toml")).display().to_string();
        let mut arguments = vec!["submit".to_owned(), file, "--json".to_owned()];
        arguments.extend(set("run.name", name));
        arguments.extend(settings.iter().flatten().cloned());
        let answer = self.json(&arguments)?;
        answer["run"].as_str().map(str::to_owned).context("submit names no run")
    }

    /// [`Cluster::submit`], and its last value of a metric once it is completed.
    pub fn result(&self, config: &str, name: &str, settings: &[[String; 2]], metric: &str) -> Result<f64> {
        let run = self.submit(config, name, settings)?;
        let state = self.wait(&run, |state| state["status"] == "completed")?;
        state["metrics"][metric].as_f64().with_context(|| format!("run {run} reports no {metric}"))
    }

    /// `runs show RUN --json`.
    pub fn show(&self, run: &str) -> Result<Value> {
        self.json(&["runs", "show", run, "--json"])
    }

    /// Waits until `done` holds; a run that fails ends the wait with its reason. Shows progress every few seconds. A
    /// coordinator that is too busy to answer is asked again.
    pub fn wait(&self, run: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let (mut shown, mut answered) = (Instant::now(), Instant::now());
        loop {
            let state = match self.show(run) {
                Err(error) if is_busy(&error) && answered.elapsed() < PATIENCE => {
                    eprintln!("  the coordinator is asked again: {error:#}");
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
                state => state?,
            };
            answered = Instant::now();
            if done(&state) {
                return Ok(state);
            }
            let status = state["status"].as_str().unwrap_or_default();
            if matches!(status, "failed" | "cancelled") {
                bail!("run {run} is {status}: {}; logs are in {}", state["reason"], self.logs.display());
            }
            if shown.elapsed() > Duration::from_secs(10) {
                shown = Instant::now();
                println!("  {}", progress(&state));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Whether a command ended with the code that means: try again later.
fn is_busy(error: &anyhow::Error) -> bool {
    error.to_string().contains("failed: exit status: 75")
}

/// How far a run is.
fn progress(state: &Value) -> String {
    let status = state["status"].as_str().unwrap_or_default();
    if status != "running" {
        // One that an interrupted job left may be before it.
        return format!("{status}: {}", state["reason"].as_str().unwrap_or_default());
    }
    let loss = state["metrics"]["train/loss"].as_f64();
    let loss = loss.map_or(String::new(), |loss| format!("  loss {loss:.3}"));
    format!("step {}/{}{loss}  {} workers", state["step"], state["total_steps"], state["world_size"])
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let children = self.workers.iter_mut().map(|(_, worker)| worker).chain([&mut self.coordinator]);
        for child in children {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).ok();
            let deadline = Instant::now() + Duration::from_secs(10);
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    child.kill().ok();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// `--set KEY=VALUE`.
pub fn set(key: &str, value: impl Into<Value>) -> [String; 2] {
    ["--set".to_owned(), format!("{key}={}", value.into())]
}

/// Whether `runs list --json` has a run of this name.
fn is_listed(list: &str, name: &str) -> Result<bool> {
    let runs: Vec<Value> = list.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(runs.iter().any(|run| run["name"] == name))
}

/// Sections that say how a run learns, in which a coordinator fills nothing in: the file may have been edited since. Edits of
/// the others go unseen.
const OF_LEARNING: [&str; 4] = ["objective", "batch", "optimizer", "schedule"];

/// Whether a run's config, as TOML, has these settings of a file of `configs`, and learns as the file says. `init.from` is left
/// out: a run's names the checkpoint that it came to mean.
fn has(stored: &str, config: &str, settings: &[[String; 2]]) -> Result<bool> {
    let overrides: Vec<Override> = settings
        .iter()
        .map(|[_, setting]| setting.parse().map_err(|error: String| anyhow!(error)))
        .collect::<Result<_>>()?;
    let file = cache::root().join(format!("configs/{config}.toml"));
    let wanted = serde_json::to_value(config::load(&file, &overrides)?)?;
    let stored = serde_json::to_value(config::parse("the run's config", stored)?)?;
    let same = |key: &str| {
        let place = format!("/{}", key.replace('.', "/"));
        wanted.pointer(&place) == stored.pointer(&place)
    };
    let keys = overrides.iter().map(|it| it.key.as_str()).filter(|key| *key != "init.from");
    Ok(keys.chain(OF_LEARNING).all(same))
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_other_settings_is_not_taken_for_the_one_that_is_wanted() {
        let settings =
            [set("run.steps", 75), set("data.paths", serde_json::json!(["/a.jsonl"])), set("init.from", "run:x")];
        let file = cache::root().join("configs/demo-classify.toml");
        let overrides: Vec<Override> = settings.iter().map(|[_, setting]| setting.parse().unwrap()).collect();
        let mut run = config::load(&file, &overrides).unwrap();
        run.init.from = "run:0001@30".to_owned();
        run.model.vocabulary = Some(64);
        let stored = config::to_toml(&run);
        assert!(has(&stored, "demo-classify", &settings).unwrap());
        let other = [set("run.steps", 150), settings[1].clone()];
        assert!(!has(&stored, "demo-classify", &other).unwrap());
        let twice = [set("run.steps", 150), set("run.steps", 75)];
        assert!(has(&stored, "demo-classify", &twice).unwrap(), "the last one counts");
        run.optimizer.learning_rate *= 2.0;
        assert!(!has(&config::to_toml(&run), "demo-classify", &settings).unwrap(), "the file has another rate");
    }

    #[test]
    fn a_run_that_waits_says_so() {
        let state = |status: &str, metrics: &str| -> Value {
            let metrics: Value = serde_json::from_str(metrics).unwrap();
            serde_json::json!({"status": status, "step": 3, "total_steps": 50, "world_size": 2, "metrics": metrics})
        };
        assert_eq!(progress(&state("running", r#"{"train/loss": 1.5}"#)), "step 3/50  loss 1.500  2 workers");
        assert_eq!(progress(&state("running", "{}")), "step 3/50  2 workers");
        let queued = serde_json::json!({"status": "queued", "reason": "run x is before it"});
        assert_eq!(progress(&queued), "queued: run x is before it");
    }

    #[test]
    fn only_a_busy_coordinator_is_asked_again() {
        let ended = |code| cache::output(Command::new("sh").args(["-c", &format!("exit {code}")])).unwrap_err();
        assert!(is_busy(&ended(75)) && !is_busy(&ended(5)));
        assert!(!is_busy(&anyhow!("no JSON: {{}}")));
    }

    #[test]
    fn a_run_that_was_left_is_known_by_its_name() {
        let list = "{\"id\":\"1\",\"name\":\"tagger-50-scratch\"}\n{\"id\":\"2\",\"name\":\"quickstart\"}\n";
        assert!(is_listed(list, "quickstart").unwrap());
        assert!(!is_listed(list, "tagger-50-pretrained").unwrap());
        assert!(!is_listed("", "quickstart").unwrap());
    }
}
