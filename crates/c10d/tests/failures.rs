//! What happens when a member goes, hangs or never comes, and when the store fails.

#![allow(clippy::unwrap_used)] // also in the helpers beside the tests

mod cluster;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use c10d::{Backend, GroupError, GroupOptions, KeyValueStore, MemoryStore, ProcessGroup, Reducer, StoreError};
use tch::{Device, Kind, Tensor};

fn ones() -> Tensor {
    Tensor::ones([100_000], (Kind::Float, Device::Cpu))
}

#[test]
fn a_member_that_leaves_is_an_error_for_the_others() {
    let outcomes = cluster::run(3, |group| {
        group.barrier().unwrap();
        if group.rank() == 2 {
            return None;
        }
        Some(group.all_reduce_sum(&ones()).unwrap_err())
    });
    for outcome in outcomes.into_iter().take(2) {
        let error = outcome.unwrap();
        assert!(matches!(error, GroupError::Collective { operation: "all-reduce", .. }), "{error}");
    }
}

#[test]
fn a_peer_that_leaves_is_seen_between_collectives() {
    let leave = Barrier::new(3);
    let outcomes = cluster::run(3, |group| {
        group.barrier().unwrap();
        group.check().unwrap();
        leave.wait();
        if group.rank() == 2 {
            return Ok(());
        }
        // No collective of its own tells it.
        let deadline = Instant::now() + cluster::PATIENCE;
        while Instant::now() < deadline {
            group.check()?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
    for outcome in &outcomes[..2] {
        let error: &GroupError = outcome.as_ref().unwrap_err();
        assert_eq!(error.to_string(), "the group failed: a peer closed its connection");
    }
}

#[test]
fn an_aborted_group_says_so_between_collectives() {
    let outcomes = cluster::run(1, |group| {
        group.abort_handle().abort();
        group.check()
    });
    assert!(matches!(outcomes[0], Err(GroupError::Aborted { .. })));
}

#[test]
fn abort_ends_a_collective_that_waits_for_a_silent_peer() {
    let store = Arc::new(MemoryStore::new());
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let stuck = scope.spawn({
            let store = store.clone();
            move || {
                let group = cluster::join(&store, 0, 2);
                tell.send(group.abort_handle()).unwrap();
                let error = group.all_reduce_sum(&ones()).unwrap_err();
                assert!(matches!(group.barrier(), Err(GroupError::Aborted { .. })));
                error
            }
        });
        let silent = cluster::join(&store, 1, 2); // it never calls all_reduce_sum
        let handle = told.recv_timeout(cluster::PATIENCE).unwrap();
        handle.abort();
        handle.abort();
        let error = stuck.join().unwrap();
        assert!(matches!(error, GroupError::Aborted { .. }), "{error}");
        // The silent peer sees it leave.
        assert!(matches!(silent.barrier(), Err(GroupError::Collective { .. })));
        drop(silent);
        assert!(handle.is_aborted());
        handle.abort(); // the group is long gone
    });
}

#[test]
fn aborting_one_group_leaves_all_others_alone() {
    // Many groups between the same threads at the same time, each with connections to the same peers.
    for round in 0..5 {
        let (first, second) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let member = |rank: u32| {
            let aborted = cluster::join(&first, rank, 3);
            let kept = cluster::join(&second, rank, 3);
            kept.barrier().unwrap();
            if rank == round % 3 {
                aborted.abort_handle().abort();
            }
            for _ in 0..20 {
                let tensor = ones();
                kept.all_reduce_sum(&tensor).unwrap();
                assert_eq!(tensor.double_value(&[99_999]), 3.0);
            }
            assert!(aborted.barrier().is_err());
            kept.barrier().unwrap();
            // A member that drops its group may cut off one that has not read the last message: all outlive the round.
            (aborted, kept)
        };
        thread::scope(|scope| {
            let members: Vec<_> = (0..3)
                .map(|rank| {
                    let member = &member;
                    scope.spawn(move || member(rank))
                })
                .collect();
            let groups: Vec<_> = members.into_iter().map(|member| member.join().unwrap()).collect();
            drop(groups);
        });
    }
}

#[test]
fn a_reducer_whose_peer_leaves_fails_the_backward_pass_and_can_be_dropped() {
    let outcomes = cluster::run(2, |group| {
        let weights = Tensor::ones([300, 300], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let reducer = Reducer::new(&group, &[weights.shallow_clone()], 1 << 20, Default::default()).unwrap();
        if group.rank() == 1 {
            return Ok(());
        }
        let loss = weights.sum(Kind::Float);
        reducer.prepare_for_backward(&[loss.shallow_clone()]).unwrap();
        let outcome = loss.f_backward();
        drop((reducer, group));
        // The parameters are free of hooks again.
        weights.sum(Kind::Float).backward();
        outcome
    });
    assert!(outcomes[1].is_ok());
    assert!(outcomes[0].is_err(), "the peer left before the reduction");
}

#[test]
fn abort_fails_a_backward_pass_whose_peer_is_silent() {
    let (leave, left) = (Barrier::new(2), Barrier::new(2));
    let outcomes = cluster::run(2, |group| {
        let weights = Tensor::ones([300, 300], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let reducer = Reducer::new(&group, &[weights.shallow_clone()], 1 << 20, Default::default()).unwrap();
        if group.rank() == 1 {
            leave.wait();
            left.wait();
            return Ok(());
        }
        let loss = weights.sum(Kind::Float);
        reducer.prepare_for_backward(&[loss.shallow_clone()]).unwrap();
        let handle = group.abort_handle();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                leave.wait();
                handle.abort();
            });
            loss.f_backward()
        });
        left.wait();
        outcome
    });
    assert!(outcomes[0].is_err(), "the peer never reduces");
}

/// A store that fails in a chosen way after a number of operations.
struct Faulty {
    inner: MemoryStore,
    panics: bool,
    reached: AtomicBool,
}

impl Faulty {
    fn fail<T>(&self) -> Result<T, StoreError> {
        self.reached.store(true, Ordering::SeqCst);
        assert!(!self.panics, "deliberate");
        Err(StoreError::Failed("generation 4 is fenced".to_owned()))
    }
}

impl KeyValueStore for Faulty {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        // Our own meeting point still works, so that the failure is met inside libtorch.
        if key.starts_with("c10d/") { self.inner.set(key, value) } else { self.fail() }
    }
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        self.inner.get(key, timeout)
    }
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.inner.add(key, amount)
    }
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.inner.compare_set(key, expected, desired)
    }
    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError> {
        self.inner.wait(keys, timeout)
    }
    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        self.inner.check(keys)
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.inner.delete(key)
    }
    fn count(&self) -> Result<i64, StoreError> {
        self.inner.count()
    }
}

#[test]
fn a_store_that_fails_or_panics_is_an_error_of_the_group() {
    for (panics, expected) in [(false, "generation 4 is fenced"), (true, "panicked: deliberate")] {
        let store = Arc::new(Faulty { inner: MemoryStore::new(), panics, reached: AtomicBool::new(false) });
        let error = ProcessGroup::new(Backend::Gloo, store.clone(), cluster::options(0, 1)).unwrap_err();
        assert!(store.reached.load(Ordering::SeqCst));
        assert!(matches!(error, GroupError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(Arc::strong_count(&store), 1, "the C++ store has let go");
    }
}

#[test]
fn members_that_never_come_end_the_wait() {
    let options = GroupOptions { timeout: Duration::from_millis(50), ..cluster::options(0, 2) };
    let error = ProcessGroup::new(Backend::Gloo, Arc::new(MemoryStore::new()), options).unwrap_err();
    assert!(matches!(&error, GroupError::Rendezvous { source: StoreError::Timeout { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("c10d/here/1"), "{error}");
}

#[test]
fn a_collective_ends_at_its_timeout() {
    let store = Arc::new(MemoryStore::new());
    let impatient = |rank| GroupOptions { timeout: Duration::from_millis(500), ..cluster::options(rank, 2) };
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let waits = scope.spawn({
            let store = store.clone();
            move || {
                let group = ProcessGroup::new(Backend::Gloo, store, impatient(0)).unwrap();
                let error = group.barrier().unwrap_err();
                tell.send(()).unwrap();
                error
            }
        });
        let silent = ProcessGroup::new(Backend::Gloo, store.clone(), impatient(1)).unwrap();
        told.recv_timeout(cluster::PATIENCE).unwrap();
        drop(silent);
        let error = waits.join().unwrap();
        assert!(matches!(error, GroupError::Collective { .. }), "{error}");
    });
}

#[test]
fn an_address_that_is_not_ours_is_refused() {
    let options = GroupOptions { address: "192.0.2.1".to_owned(), ..cluster::options(0, 1) };
    let error = ProcessGroup::new(Backend::Gloo, Arc::new(MemoryStore::new()), options).unwrap_err();
    assert!(matches!(error, GroupError::Connect { .. }), "{error:?}");
}

// ---- two processes: the test binary runs itself again as rank 1 ----

const PEER: &str = "TRIREME_TEST_PEER_STORE";

/// A store on a directory: enough for two processes of one test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn path(&self, key: &str) -> std::path::PathBuf {
        let name: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.0.join(name)
    }
}

impl KeyValueStore for Folder {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let unfinished = self.path(key).with_extension("tmp");
        let written = std::fs::write(&unfinished, value).and_then(|()| std::fs::rename(&unfinished, self.path(key)));
        written.map_err(|error| StoreError::Failed(error.to_string()))
    }
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        self.wait(&[key.to_owned()], timeout)?;
        std::fs::read(self.path(key)).map_err(|error| StoreError::Failed(error.to_string()))
    }
    fn add(&self, key: &str, _: i64) -> Result<i64, StoreError> {
        Err(StoreError::Failed(format!("no counter {key}")))
    }
    fn compare_set(&self, key: &str, _: &[u8], _: &[u8]) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::Failed(format!("no swap of {key}")))
    }
    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError> {
        for _ in 0..timeout.as_millis() {
            if self.check(keys)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(StoreError::Timeout { keys: keys.join(", "), timeout })
    }
    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        Ok(keys.iter().all(|key| self.path(key).exists()))
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(std::fs::remove_file(self.path(key)).is_ok())
    }
    fn count(&self) -> Result<i64, StoreError> {
        Ok(0)
    }
}

/// Rank 1 of the two-process tests. As a test of its own it does nothing.
#[test]
fn peer_process() {
    let Some(folder) = std::env::var_os(PEER) else { return };
    let store = Arc::new(Folder(folder.into()));
    let group = ProcessGroup::new(Backend::Gloo, store, cluster::options(1, 2)).unwrap();
    let tensor = ones() * 2.0;
    group.all_reduce_sum(&tensor).unwrap();
    println!("reduced {}", tensor.double_value(&[0]));
    let _ = group.broadcast(&large(), 0); // until the other side stops or kills this process
}

/// More than the kernel takes of a connection whose other end does not read.
fn large() -> Tensor {
    Tensor::ones([1 << 24], (Kind::Float, Device::Cpu))
}

/// A child that does not outlive the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rank 0's group, after one all-reduce with a child process that is rank 1.
fn with_peer_process() -> (ProcessGroup, Peer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer(
        Command::new(std::env::current_exe().unwrap())
            .args(["peer_process", "--exact", "--nocapture"])
            .env(PEER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let store = Arc::new(Folder(folder.path().to_owned()));
    let group = ProcessGroup::new(Backend::Gloo, store, cluster::options(0, 2)).unwrap();
    let tensor = ones();
    group.all_reduce_sum(&tensor).unwrap();
    assert_eq!(tensor.double_value(&[0]), 3.0);
    let lines = BufReader::new(peer.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("reduced 3")), "the peer has the sum too");
    (group, peer, folder)
}

#[test]
fn a_killed_process_is_an_error_at_once() {
    let (group, mut peer, _folder) = with_peer_process();
    peer.0.kill().unwrap(); // SIGKILL
    let error = group.all_reduce_sum(&ones()).unwrap_err();
    assert!(matches!(error, GroupError::Collective { .. }), "{error}");
}

/// The kernel takes bytes for it, but nobody answers.
fn stop(peer: &Peer) {
    let stopped = Command::new("kill").args(["-STOP", &peer.0.id().to_string()]).status().unwrap();
    assert!(stopped.success());
}

/// Has rank 0 send to a peer that is then killed, so that Gloo loses the message and its error with it; the outcome.
fn sent_to_a_killed_process(then: impl FnOnce(&ProcessGroup)) -> Result<(), GroupError> {
    let (group, mut peer, _folder) = with_peer_process();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        thread::sleep(Duration::from_millis(300)); // it says that it is ready to receive
        stop(&peer);
        scope.spawn(|| tell.send(group.broadcast(&large(), 0)).unwrap());
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "the kernel does not take it all");
        peer.0.kill().unwrap();
        then(&group);
        told.recv_timeout(cluster::PATIENCE / 2).expect("nobody reads what is left")
    })
}

#[test]
fn a_process_killed_while_it_is_sent_something_is_an_error() {
    let outcome = sent_to_a_killed_process(|_| {});
    assert!(matches!(outcome, Err(GroupError::Collective { operation: "broadcast", .. })), "{outcome:?}");
}

#[test]
fn abort_ends_what_is_sent_to_a_killed_process() {
    let outcome = sent_to_a_killed_process(|group| group.abort_handle().abort());
    assert!(matches!(outcome, Err(GroupError::Aborted { operation: "broadcast" })), "{outcome:?}");
}

#[test]
fn abort_ends_a_collective_with_a_stopped_process() {
    let (group, peer, _folder) = with_peer_process();
    stop(&peer);
    let handle = group.abort_handle();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| tell.send(group.all_reduce_sum(&ones())).unwrap());
        // Still stuck.
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err());
        handle.abort();
        let outcome = told.recv_timeout(cluster::PATIENCE / 2).expect("abort ends the collective");
        assert!(matches!(outcome, Err(GroupError::Aborted { .. })));
    });
}
