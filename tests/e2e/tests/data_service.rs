//! Workers that cannot reach the corpus: they get its rows from the coordinator.

use e2e::Cluster;
use std::path::Path;

const THROUGH: &str = "the corpus is read through the coordinator";

/// The digests of weights and samples of a run by workers in these working folders, and the workers' logs.
fn trained_in(folders: &[Option<&str>]) -> ((String, String), Vec<String>) {
    let mut cluster = Cluster::start();
    let indices: Vec<usize> = folders
        .iter()
        .map(|folder| {
            cluster.spawn_worker_with(|command| {
                if let Some(folder) = folder {
                    command.current_dir(folder);
                }
            })
        })
        .collect();
    indices.iter().for_each(|index| cluster.until_joined(*index));
    // Leads to the file from the cluster's folder, in which the coordinator runs, and nowhere from another one.
    let name = cluster.corpus.text.file_name().and_then(|name| name.to_str()).expect("plain ASCII").to_owned();
    let path = Path::new("/proc/self/cwd").join(name);
    let run = cluster.submit(&[&format!("data.paths=[\"{}\"]", path.display())]);
    let weights = cluster.until_completed(&run);
    cluster.verify_ledger(&run);
    let samples = cluster.show(&run)["samples_digest"].as_str().expect("a completed run has one").to_owned();
    ((weights, samples), indices.iter().map(|index| cluster.worker_log(*index)).collect())
}

#[test]
fn workers_that_cannot_reach_the_corpus_train_to_the_same_weights() {
    let (near, logs) = trained_in(&[None, None]);
    assert!(logs.iter().all(|log| !log.contains(THROUGH)), "{logs:?}");
    let (far, logs) = trained_in(&[Some("/"), None]);
    assert!(logs[0].contains(THROUGH), "{}", logs[0]);
    assert!(!logs[1].contains(THROUGH), "{}", logs[1]);
    assert_eq!(far, near);
    let (far, logs) = trained_in(&[Some("/"), Some("/")]);
    assert!(logs.iter().all(|log| log.contains(THROUGH)), "{logs:?}");
    assert_eq!(far, near);
}
