//! The parent's side: starts workers as processes, deals slots, kills.

use crate::data;
use crate::folder_store::FolderStore;
use crate::process::{Assignment, DiesIn, FOLDER, GONE, LONG, Logged, Timeless, UNREADABLE, Verdict, WORKER};
use c10d::KeyValueStore;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Workers of one run, in a folder of their own.
pub struct Cluster {
    folder: tempfile::TempDir,
    orders: FolderStore,
    workers: Vec<Worker>,
    generation: u64,
    slots: u32,
}

struct Worker {
    process: Child,
    assignments: u64,
}

/// What a generation is to do beside training.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub attempt: u32,
    pub pause_after: Option<u64>,
    pub restore: Option<PathBuf>,
    pub parent: Option<PathBuf>,
    /// This worker dies where its first evaluation begins.
    pub dies_in_evaluation: Option<usize>,
    /// This worker dies where its first step is computed; the others do not go on before [`Cluster::bury`].
    pub dies_in_computation: Option<usize>,
    /// A bit of what this worker holds is flipped before the generation begins.
    pub flips_a_bit: Option<usize>,
}

impl Cluster {
    pub fn new(config: &str, workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        data::write(folder.path());
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let slots = config::load(&folder.path().join("config.toml"), &[]).unwrap().batch.slots;
        let orders = FolderStore::new(folder.path().join("orders"));
        let mut cluster = Self { folder, orders, workers: Vec::new(), generation: 0, slots };
        for _ in 0..workers {
            cluster.add_worker();
        }
        cluster
    }

    /// Rows cannot be read by workers that are added after this.
    pub fn make_unreadable(&self, reason: &str) {
        fs::write(self.folder.path().join(UNREADABLE), reason).unwrap();
    }

    pub fn add_worker(&mut self) -> usize {
        let number = self.workers.len();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["worker_process", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, self.folder.path())
            .env(WORKER, number.to_string())
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.workers.push(Worker { process, assignments: 0 });
        number
    }

    /// Forms a new generation of these workers, in rank order.
    pub fn assign(&mut self, members: &[usize], plan: &Plan) {
        self.generation += 1;
        let world = members.len() as u32;
        for (rank, &member) in (0..).zip(members) {
            let (from, to) = (rank * self.slots / world, (rank + 1) * self.slots / world);
            let assignment = Assignment {
                generation: self.generation,
                attempt: plan.attempt,
                rank,
                world,
                slots: (from..to).collect(),
                pause_after: plan.pause_after,
                restore: plan.restore.clone(),
                parent: plan.parent.clone(),
                dies_in: match (plan.dies_in_evaluation, plan.dies_in_computation) {
                    (Some(victim), _) if victim == member => Some(DiesIn::Evaluation),
                    (_, Some(victim)) if victim == member => Some(DiesIn::Computation),
                    _ => None,
                },
                mourns: plan.dies_in_computation.is_some_and(|victim| victim != member),
                flips_a_bit: plan.flips_a_bit == Some(member),
            };
            let worker = &mut self.workers[member];
            let order = serde_json::to_vec(&Some(assignment)).unwrap();
            self.orders.set(&format!("{member}/{}", worker.assignments), &order).unwrap();
            worker.assignments += 1;
        }
    }

    /// How the worker's last assignment ended.
    pub fn verdict(&mut self, worker: usize) -> Verdict {
        let key = format!("{worker}/{}/verdict", self.workers[worker].assignments - 1);
        let end = Instant::now() + LONG;
        loop {
            if let Ok(text) = self.orders.get(&key, Duration::from_millis(20)) {
                return serde_json::from_slice(&text).unwrap();
            }
            let gone = self.workers[worker].process.try_wait().unwrap();
            assert!(gone.is_none(), "worker {worker} ended: {gone:?}");
            assert!(Instant::now() < end, "worker {worker} did not end its assignment");
        }
    }

    /// The digest that all of these workers finish with.
    pub fn digest(&mut self, members: &[usize]) -> String {
        let verdicts: Vec<Verdict> = members.iter().map(|&member| self.verdict(member)).collect();
        let Verdict::Finished { weights_digest, .. } = &verdicts[0] else { panic!("{verdicts:?}") };
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "replicas differ: {verdicts:?}");
        weights_digest.clone()
    }

    /// What the worker has reported so far.
    pub fn log(&self, worker: usize) -> Vec<Logged> {
        let text = fs::read_to_string(self.folder.path().join(format!("log-{worker}"))).unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The same of the worker with the number 0, without what depends on when and where it was computed.
    pub fn timeless(&self) -> Vec<Timeless> {
        self.log(0).iter().map(Logged::timeless).collect()
    }

    pub fn wait_for_step(&mut self, worker: usize, step: u64) {
        let end = Instant::now() + LONG;
        while self.log(worker).last().is_none_or(|line| line.step < step) {
            assert!(Instant::now() < end, "worker {worker} did not come to step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until a worker that dies is gone, and tells the others.
    pub fn bury(&mut self, worker: usize) {
        self.workers[worker].process.wait().unwrap();
        fs::write(self.folder.path().join(GONE), "").unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self, worker: usize) {
        self.workers[worker].process.kill().unwrap();
        self.workers[worker].process.wait().unwrap();
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder.path().join(format!("checkpoint-{}-{step}", self.generation))
    }

    /// Held-out loss and score that rank 0 has given the checkpoint.
    pub fn measured(&self, step: u64) -> [Option<f64>; 2] {
        serde_json::from_slice(&fs::read(self.checkpoint(step).with_extension("measured")).unwrap()).unwrap()
    }

    /// The newest value of a metric in a worker's log.
    pub fn metric(&self, worker: usize, name: &str) -> Option<f64> {
        let log = self.log(worker);
        log.iter().rev().flat_map(|line| &line.metrics).find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Whatever the test came to: nothing that it started stays.
            let _ = worker.process.kill();
            let _ = worker.process.wait();
        }
    }
}

/// The digest of an undisturbed run of `workers` workers.
pub fn undisturbed(config: &str, workers: usize) -> (String, Cluster) {
    let mut cluster = Cluster::new(config, workers);
    let members: Vec<usize> = (0..workers).collect();
    cluster.assign(&members, &Plan::default());
    let digest = cluster.digest(&members);
    // What a config may name (`eval.best_metric`) is what is reported.
    let parsed = config::parse("the test's config", config).unwrap();
    if cluster.metric(0, "eval/loss").is_some() {
        for name in parsed.objective.measured() {
            assert!(cluster.metric(0, &format!("eval/{name}")).is_some(), "eval/{name} is not reported");
        }
    }
    (digest, cluster)
}
