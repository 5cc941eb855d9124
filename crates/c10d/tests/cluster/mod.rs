//! Several ranks as threads of one process, each with a group of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use c10d::{Backend, GroupOptions, KeyValueStore, MemoryStore, ProcessGroup};

/// Long enough that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn options(rank: u32, world: u32) -> GroupOptions {
    GroupOptions { rank, world, timeout: PATIENCE, address: "127.0.0.1".to_owned() }
}

/// A Gloo group in the given store.
pub fn join(store: &Arc<MemoryStore>, rank: u32, world: u32) -> ProcessGroup {
    let store: Arc<dyn KeyValueStore> = store.clone();
    ProcessGroup::new(Backend::Gloo, store, options(rank, world)).expect("all ranks of the test join")
}

/// Runs `body` once per rank, each in a thread of its own, and returns the results in rank order.
pub fn run<T: Send>(world: u32, body: impl Fn(ProcessGroup) -> T + Sync) -> Vec<T> {
    let store = Arc::new(MemoryStore::new());
    let (body, store) = (&body, &store);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world).map(|rank| scope.spawn(move || body(join(store, rank, world)))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    })
}
