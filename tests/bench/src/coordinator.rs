//! The real coordinator under the load of many workers: how fast it answers, what it costs, and how soon all know when
//! one of them is gone.
//!
//! The workers are simulated, all in this process ([`fleet`]), but their sessions are real gRPC over loopback, a
//! connection for each where the limit on open files allows (else several share one, and the case says so). They beat
//! once a second and report the steps of their runs as `worker` does. A run has 2,000 slots at most here, so ten
//! thousand workers work on five runs. What they would say to each other, and ask the rendezvous when a generation
//! begins, is left out. Generator and coordinator share the machine's cores: latencies hold for that.
//!
//! A membership change is timed from the moment at which a worker's connection is dropped to that at which the last of
//! the other members has its new assignment. Two of them, its neighbours in the ring, say at once that their collective
//! failed; the others when they are told to give up.

mod calls;
mod fleet;
mod wire;

use crate::process;
use crate::report::{Line, median};
use crate::stats::percentile;
use anyhow::{Context, Result, ensure};
use calls::Answered;
use e2e::Cluster;
use fleet::{Fleet, Run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use wire::Coordinator;

const WORKERS: [usize; 4] = [10, 100, 1_000, 10_000];
/// Members of one run: more slots than these would soon be more than a run may have.
const MEMBERS_MAX: usize = 2_000;
/// From the beginning of one step to that of the next.
const STEP: Duration = Duration::from_secs(2);
/// Between two looks at the coordinator's processor time.
const LOOK: Duration = Duration::from_millis(500);
/// Files of this process and the coordinator beside the workers' connections.
const OTHER_FILES: u64 = 500;
/// Streams that an HTTP/2 server takes on one connection.
const SESSIONS_MAX: usize = 100;

/// How much of everything.
struct Plan {
    beats: Duration,
    steps: usize,
    deaths: usize,
}

pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let files = open_files()?;
    let plan = if quick {
        Plan { beats: Duration::from_secs(5), steps: 3, deaths: 2 }
    } else {
        Plan { beats: Duration::from_secs(20), steps: 10, deaths: 5 }
    };
    let counts = if quick { &WORKERS[..3] } else { &WORKERS[..] };
    let mut costs = Vec::new();
    for &workers in counts {
        let sessions = sessions_on_a_connection(workers, files)?;
        match runtime.block_on(Scene::measure(workers, sessions, &plan, &mut show)) {
            Ok(cost) => costs.push((workers, cost)),
            Err(error) => {
                show(&Line::missing("coordinator", case("all of it", workers, sessions), format!("{error:#}")))
            }
        }
    }
    if let (Some((fewest, least)), Some((most, cost))) = (costs.first(), costs.last())
        && most > fewest
        && *least > 0.0
    {
        let case = format!("bookkeeping of one step of all {most} workers beside that of {fewest}");
        let line = Line::at_most(
            "coordinator",
            case,
            1e3 * cost,
            1e3 * least,
            "ms of processor",
            *most as f64 / *fewest as f64,
        );
        show(&line.note("the goal is linear growth"));
    }
    Ok(())
}

fn case(what: &str, workers: usize, sessions: usize) -> String {
    match sessions {
        1 => format!("{what}, {workers} workers"),
        _ => format!("{what}, {workers} workers, {sessions} on a connection"),
    }
}

/// As many as this process may open; the coordinator inherits it.
fn open_files() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("the limit on open files cannot be raised")?;
    Ok(most)
}

/// One, unless the coordinator could not open a file for each.
fn sessions_on_a_connection(workers: usize, files: u64) -> Result<usize> {
    let room = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    ensure!(room > 0, "{files} open files are too few: raise `ulimit -Hn`");
    let sessions = workers.div_ceil(room);
    ensure!(sessions <= SESSIONS_MAX, "{files} open files are too few for {workers} workers: raise `ulimit -Hn`");
    Ok(sessions)
}

/// Runs and the members of each, as even as can be.
fn runs_of(workers: usize) -> Vec<usize> {
    let runs = workers.div_ceil(MEMBERS_MAX);
    (0..runs).map(|run| (run + 1) * workers / runs - run * workers / runs).collect()
}

/// How steps went.
struct Pace {
    /// Of a whole report.
    bytes: usize,
    /// From step to step.
    seconds: f64,
    /// What the coordinator had left to do after the last one, in seconds.
    behind: f64,
}

/// One coordinator and its workers.
struct Scene {
    cluster: Cluster,
    coordinator: Coordinator,
    fleet: Arc<Fleet>,
    /// With the number of slots.
    runs: Vec<(Arc<Run>, u32)>,
    workers: usize,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.fleet.end();
    }
}

/// What one phase cost and how fast calls were answered in it.
struct Phase {
    /// Of processor time.
    used: f64,
    seconds: f64,
    answered: Answered,
}

impl Phase {
    fn cores(&self) -> f64 {
        self.used / self.seconds
    }
}

impl Scene {
    /// Answers the seconds of processor time that one step of all workers costs.
    async fn measure(workers: usize, sessions: usize, plan: &Plan, show: &mut impl FnMut(&Line)) -> Result<f64> {
        let name = |what: &str| case(what, workers, sessions);
        let mut say = |line: Line| show(&line);
        let (mut scene, mut welcomes) = Self::start(workers, sessions).await?;
        welcomes.sort_by(f64::total_cmp);
        let case = name("p99 from registration to welcome, all at once");
        say(Line::figure("coordinator", case, 1e3 * percentile(&welcomes, 0.99), "ms"));
        let formed = scene.form().await?;
        say(Line::figure("coordinator", name("from submission to the last first assignment"), formed, "s"));

        let resting = async {
            tokio::time::sleep(plan.beats).await;
            Ok(())
        };
        let beats = scene.phase(resting).await?.0;
        let idle = beats.cores();
        say(Line::figure("coordinator", name("processors, beats alone"), idle, "cores"));
        for line in beats.answered.lines(|what| name(&format!("p99 of a call ({what}), beats alone")))? {
            say(line);
        }
        let (steps, Pace { bytes, seconds, behind }) = scene.phase(scene.steps(plan.steps, idle)).await?;
        let case = name(&format!("processors, beats and a step every {} s", STEP.as_secs()));
        let mut line = Line::figure("coordinator", case, steps.cores(), "cores").no_more_than(1.0);
        if seconds > 1.1 * STEP.as_secs_f64() || behind > STEP.as_secs_f64() {
            line = line.note(format!(
                "it did not keep up: a step took {seconds:.1} s, and {behind:.1} s were left at the end"
            ));
        }
        say(line);
        for line in steps.answered.lines(|what| name(&format!("p99 of a call ({what}), beats and steps")))? {
            say(line);
        }
        let cost = ((steps.used - idle * steps.seconds) / plan.steps as f64).max(0.0);
        let line = Line::figure("coordinator", name("bookkeeping of one step of all"), 1e3 * cost, "ms of processor");
        say(line.note(format!("the report of a run's rank 0 has {bytes} bytes")));

        let mut changes = Vec::new();
        for _ in 0..plan.deaths {
            changes.push(scene.lose_one().await?);
        }
        let worst = changes.iter().copied().fold(0.0, f64::max);
        let line = Line::figure("coordinator", name("a worker's death to the last new assignment"), worst, "s");
        say(line.no_more_than(1.0).note(format!("the worst of {}, median {:.2} s", changes.len(), median(changes))));
        let peak = process::memory(scene.cluster.coordinator_pid())?.peak as f64 / f64::from(1 << 30);
        say(Line::figure("coordinator", name("resident memory, peak"), peak, "GiB").no_more_than(1.0));
        scene.fleet.check()?;
        Ok(cost)
    }

    /// With all workers registered. Also answers how long each waited for its welcome.
    async fn start(workers: usize, sessions: usize) -> Result<(Self, Vec<f64>)> {
        let cluster = tokio::task::block_in_place(|| Cluster::start_with(&["--scrub-hours", "0"]));
        let coordinator = Coordinator::new(&cluster.endpoint, &cluster.token())?;
        let (fleet, welcomes) = Fleet::join(coordinator.clone(), workers, sessions).await?;
        Ok((Self { cluster, coordinator, fleet, runs: Vec::new(), workers }, welcomes))
    }

    /// Submits the runs and waits until all workers work. Answers the seconds from the last submission on.
    async fn form(&mut self) -> Result<f64> {
        let mut submitted = Instant::now();
        for members in runs_of(self.workers) {
            let slots = format!("batch.slots={members}");
            let overrides = [
                slots.as_str(),
                "batch.micro_batch=1",
                "run.steps=1000000",
                "checkpoint.every_steps=0",
                "eval.every_steps=0",
            ];
            // Whoever beats once a second is silent for as long.
            let patient = [&overrides[..], &["recovery.hang_factor=1000"]].concat();
            let id = tokio::task::block_in_place(|| self.cluster.submit(&patient));
            submitted = Instant::now();
            self.runs.push((self.fleet.run(&id), u32::try_from(members)?));
        }
        let mut last = submitted;
        for (run, slots) in &self.runs {
            let assigned = run.whole(0).await?;
            ensure!(assigned.holders.len() == *slots as usize, "run {} has {} members", run.id, assigned.holders.len());
            last = last.max(assigned.at.unwrap_or(submitted));
        }
        Ok((last - submitted).as_secs_f64())
    }

    /// Calls while something is done, and what both cost.
    async fn phase<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(Phase, T)> {
        let process = self.cluster.coordinator_pid();
        let run = &self.runs[0].0;
        let generation = run.whole(0).await?.generation;
        let (stop, stopped) = watch::channel(false);
        let call = calls::call(self.coordinator.clone(), run.id.clone(), generation, stopped);
        // Who calls is another program than the workers, and does not stand in a queue with ten thousand of them.
        let calls = tokio::task::spawn_blocking(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(call)
        });
        let (began, before) = (Instant::now(), process::cpu_seconds(process)?);
        let done = work.await?;
        let (seconds, used) = (began.elapsed().as_secs_f64(), process::cpu_seconds(process)? - before);
        stop.send_replace(true);
        let answered = calls.await??;
        Ok((Phase { used, seconds, answered }, done))
    }

    /// Steps of all runs at the same time, until the coordinator is at rest again: what it has not handled yet lies in
    /// its sockets. `idle`: the cores that it uses then.
    async fn steps(&self, count: usize, idle: f64) -> Result<Pace> {
        let (began, mut bytes) = (Instant::now(), 0);
        for _ in 0..count {
            let due = tokio::time::Instant::now() + STEP;
            let advances = self.runs.iter().map(|(run, slots)| run.advance(*slots));
            bytes = futures::future::try_join_all(advances).await?.into_iter().max().unwrap_or(0);
            tokio::time::sleep_until(due).await;
        }
        let over = began.elapsed().as_secs_f64();
        self.until_committed().await?;
        let process = self.cluster.coordinator_pid();
        let at_rest = async {
            loop {
                let before = process::cpu_seconds(process)?;
                tokio::time::sleep(LOOK).await;
                let cores = (process::cpu_seconds(process)? - before) / LOOK.as_secs_f64();
                if cores < 1.2 * idle + 0.05 {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(fleet::PATIENCE, at_rest).await.context("the coordinator does not come to rest")??;
        // The last look was at rest.
        let behind = (began.elapsed().as_secs_f64() - over - LOOK.as_secs_f64()).max(0.0);
        Ok(Pace { bytes, seconds: over / count as f64, behind })
    }

    /// What was reported is durable.
    async fn until_committed(&self) -> Result<()> {
        let mut client = proto::v1::runs_client::RunsClient::new(self.coordinator.connect().await?);
        for (run, _) in &self.runs {
            let wanted = run.step();
            let committed = async {
                loop {
                    let request = self.coordinator.request(proto::v1::RunRequest { run: run.id.clone() });
                    let shown = client.show(request).await?.into_inner();
                    ensure!(shown.status == "running", "run {} is {}: {}", run.id, shown.status, shown.reason);
                    if shown.step == wanted {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let waited = tokio::time::timeout(fleet::PATIENCE, committed).await;
            waited.with_context(|| format!("run {}: step {wanted} is not committed", run.id))??;
        }
        Ok(())
    }

    /// A member of the first run dies. Answers the seconds until all others have their new assignment.
    async fn lose_one(&self) -> Result<f64> {
        let (run, slots) = &self.runs[0];
        run.advance(*slots).await?;
        self.until_committed().await?;
        let assigned = run.whole(0).await?;
        let world = u32::try_from(assigned.holders.len())?;
        let rank = world / 2;
        let victim = assigned.holders[rank as usize].context("a whole generation")?;
        let died = Instant::now();
        self.fleet.kill(victim);
        run.fail(assigned.generation, [(rank + world - 1) % world, (rank + 1) % world]);
        let next = run.whole(assigned.generation).await?;
        ensure!(
            next.holders.len() + 1 == assigned.holders.len(),
            "more than one member was lost: {}",
            next.holders.len()
        );
        Ok((next.at.context("somebody has heard of it")? - died).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_dealt_to_runs() {
        assert_eq!(runs_of(10), [10]);
        assert_eq!(runs_of(10_000), [2_000; 5]);
        assert_eq!(runs_of(2_001).iter().sum::<usize>(), 2_001);
        assert!(runs_of(4_001).iter().all(|members| *members <= MEMBERS_MAX));
    }

    #[test]
    fn sessions_share_a_connection_only_where_they_must() {
        assert_eq!(sessions_on_a_connection(10_000, 20_000).unwrap(), 1);
        assert_eq!(sessions_on_a_connection(10_000, 4_096).unwrap(), 3);
        assert!(sessions_on_a_connection(10_000, 500).is_err());
        assert!(sessions_on_a_connection(1_000_000, 1_024).is_err());
        assert_eq!(case("p99", 10_000, 3), "p99, 10000 workers, 3 on a connection");
    }

    /// Few workers, but everything that a measurement does, with the real coordinator.
    #[test]
    fn a_small_scene() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let plan = Plan { beats: Duration::from_secs(1), steps: 1, deaths: 1 };
        let mut lines = Vec::new();
        runtime.block_on(Scene::measure(10, 1, &plan, &mut |line: &Line| lines.push(line.case.clone()))).unwrap();
        assert_eq!(lines.len(), 11, "{lines:?}");
    }
}
