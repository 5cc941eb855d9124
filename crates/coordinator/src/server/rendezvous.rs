//! The key-value store through which the members of one generation find each other: in memory, one table for each
//! run's present generation, gone when the generation is.
//!
//! Which generation is the present one is control's decision; here it is only told ([`Rendezvous::open`]).

use proto::{Failure, FailureKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use types::{Generation, RunId};

/// No generation needs more: a group of W workers sets a few keys for each pair at most.
const KEYS_MAX: usize = 1 << 20;
/// Addresses and NCCL ids are far smaller.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// A client that wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// All runs' tables.
#[derive(Debug, Default)]
pub struct Rendezvous {
    tables: Mutex<BTreeMap<RunId, Arc<Table>>>,
}

/// The keys of one generation.
#[derive(Debug)]
pub struct Table {
    run: RunId,
    generation: Generation,
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
    // Counts changes; wakes those who wait. Its value becomes u64::MAX when the generation is over.
    changes: watch::Sender<u64>,
}

const OVER: u64 = u64::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the map whole, also if it should panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rendezvous {
    /// `generation` is the run's present one from now on; keys of an older one are dropped and its waiters are fenced.
    pub fn open(&self, run: &RunId, generation: Generation) {
        let mut tables = lock(&self.tables);
        if tables.get(run).is_some_and(|table| table.generation >= generation) {
            return;
        }
        let (changes, _) = watch::channel(0);
        let table = Table { run: run.clone(), generation, keys: Mutex::default(), changes };
        if let Some(old) = tables.insert(run.clone(), Arc::new(table)) {
            old.changes.send_replace(OVER);
        }
    }

    /// The run has no generation any more.
    pub fn close(&self, run: &RunId) {
        if let Some(old) = lock(&self.tables).remove(run) {
            old.changes.send_replace(OVER);
        }
    }

    /// The table of a run's generation, if that is the present one.
    pub fn table(&self, run: &RunId, generation: Generation) -> Result<Arc<Table>, Failure> {
        match lock(&self.tables).get(run) {
            Some(table) if table.generation == generation => Ok(Arc::clone(table)),
            Some(table) => Err(fenced(run, generation, Some(table.generation))),
            None => Err(fenced(run, generation, None)),
        }
    }
}

fn fenced(run: &RunId, generation: Generation, present: Option<Generation>) -> Failure {
    let present = present.map_or_else(|| "the run has none now".to_owned(), |present| format!("it is at {present}"));
    let message = format!("generation {generation} of run {run} is over: {present}; wait for a new assignment");
    Failure::new(FailureKind::Fenced, message)
}

impl Table {
    fn changed(&self) {
        self.changes.send_modify(|count| {
            if *count != OVER {
                *count = count.wrapping_add(1) % OVER;
            }
        });
    }

    fn check_room(&self, keys: &BTreeMap<String, Vec<u8>>, value: &[u8]) -> Result<(), Failure> {
        if value.len() > VALUE_BYTES_MAX || keys.len() >= KEYS_MAX {
            let message = format!(
                "rendezvous of run {}: {} keys, a value of {} bytes; at most {KEYS_MAX} keys of {VALUE_BYTES_MAX} bytes",
                self.run,
                keys.len(),
                value.len()
            );
            return Err(Failure::new(FailureKind::Full, message));
        }
        Ok(())
    }

    /// Sets a key.
    pub fn set(&self, key: String, value: Vec<u8>) -> Result<(), Failure> {
        let mut keys = lock(&self.keys);
        self.check_room(&keys, &value)?;
        keys.insert(key, value);
        drop(keys);
        self.changed();
        Ok(())
    }

    /// Waits until the key exists.
    pub async fn get(&self, key: &str, wait: Duration) -> Result<Vec<u8>, Failure> {
        self.wait_for(wait, &[key], |keys| keys.get(key).cloned()).await
    }

    /// Waits until all keys exist.
    pub async fn wait(&self, wanted: &[String], wait: Duration) -> Result<(), Failure> {
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.wait_for(wait, &names, |keys| wanted.iter().all(|key| keys.contains_key(key)).then_some(())).await
    }

    async fn wait_for<T>(
        &self,
        wait: Duration,
        names: &[&str],
        mut ready: impl FnMut(&BTreeMap<String, Vec<u8>>) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut changes = self.changes.subscribe();
        let over = || fenced(&self.run, self.generation, None);
        let waiting = async {
            loop {
                if *changes.borrow_and_update() == OVER {
                    return Err(over());
                }
                if let Some(found) = ready(&lock(&self.keys)) {
                    return Ok(found);
                }
                if changes.changed().await.is_err() {
                    return Err(over());
                }
            }
        };
        tokio::time::timeout(wait.min(WAIT_MAX), waiting).await.unwrap_or_else(|_| {
            let message = format!(
                "rendezvous of run {}, generation {}: nobody set {} within {} ms",
                self.run,
                self.generation,
                names.join(", "),
                wait.as_millis()
            );
            Err(Failure::new(FailureKind::Timeout, message))
        })
    }

    /// Adds to a decimal counter (missing: 0) and answers the sum.
    pub fn add(&self, key: String, amount: i64) -> Result<i64, Failure> {
        let mut keys = lock(&self.keys);
        let invalid = |message: String| Failure::new(FailureKind::Invalid, message);
        let present = match keys.get(&key) {
            None => 0,
            Some(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| invalid(format!("rendezvous key `{key}` holds no counter")))?,
        };
        let sum = present.checked_add(amount).ok_or_else(|| invalid(format!("counter `{key}` overflows")))?;
        self.check_room(&keys, &[])?;
        keys.insert(key, sum.to_string().into_bytes());
        drop(keys);
        self.changed();
        Ok(sum)
    }

    /// c10d's compare-and-set: sets `desired` if the key holds `expected` (or is missing and `expected` is empty).
    /// Answers what the key holds then; for a missing key that was not set, `expected`.
    pub fn compare_set(&self, key: String, expected: Vec<u8>, desired: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let mut keys = lock(&self.keys);
        self.check_room(&keys, &desired)?;
        match keys.get(&key) {
            None if !expected.is_empty() => return Ok(expected),
            Some(present) if *present != expected => return Ok(present.clone()),
            _ => {}
        }
        keys.insert(key, desired.clone());
        drop(keys);
        self.changed();
        Ok(desired)
    }

    /// Whether all keys exist now.
    pub fn check(&self, wanted: &[String]) -> bool {
        let keys = lock(&self.keys);
        wanted.iter().all(|key| keys.contains_key(key))
    }

    /// Removes a key; whether it existed.
    pub fn delete(&self, key: &str) -> bool {
        let found = lock(&self.keys).remove(key).is_some();
        self.changed();
        found
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        lock(&self.keys).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        "run".parse().unwrap()
    }

    #[tokio::test]
    async fn a_waiting_get_ends_when_the_key_is_set() {
        let rendezvous = Rendezvous::default();
        rendezvous.open(&run(), Generation(1));
        let table = rendezvous.table(&run(), Generation(1)).unwrap();
        let waiter = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.get("key", Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        table.set("key".into(), b"value".to_vec()).unwrap();
        assert_eq!(waiter.await.unwrap().unwrap(), b"value");
        let late = table.get("other", Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(late.kind, FailureKind::Timeout);
        assert!(late.message.contains("other"), "{late}");
    }

    #[tokio::test]
    async fn an_old_generation_is_fenced_also_while_it_waits() {
        let rendezvous = Rendezvous::default();
        rendezvous.open(&run(), Generation(1));
        let table = rendezvous.table(&run(), Generation(1)).unwrap();
        let waiter = tokio::spawn(async move { table.get("key", Duration::from_secs(60)).await });
        tokio::task::yield_now().await;
        rendezvous.open(&run(), Generation(2));
        assert_eq!(waiter.await.unwrap().unwrap_err().kind, FailureKind::Fenced);
        assert_eq!(rendezvous.table(&run(), Generation(1)).unwrap_err().kind, FailureKind::Fenced);
        // Opening an older one again changes nothing.
        rendezvous.open(&run(), Generation(1));
        assert!(rendezvous.table(&run(), Generation(2)).is_ok());
        rendezvous.close(&run());
        assert_eq!(rendezvous.table(&run(), Generation(2)).unwrap_err().kind, FailureKind::Fenced);
    }

    #[test]
    fn counters_and_compare_set_follow_c10d() {
        let rendezvous = Rendezvous::default();
        rendezvous.open(&run(), Generation(1));
        let table = rendezvous.table(&run(), Generation(1)).unwrap();
        assert_eq!(table.add("n".into(), 2).unwrap(), 2);
        assert_eq!(table.add("n".into(), -5).unwrap(), -3);
        table.set("text".into(), b"x".to_vec()).unwrap();
        assert_eq!(table.add("text".into(), 1).unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(table.compare_set("new".into(), b"a".to_vec(), b"b".to_vec()).unwrap(), b"a");
        assert!(!table.check(&["new".into()]));
        assert_eq!(table.compare_set("new".into(), vec![], b"b".to_vec()).unwrap(), b"b");
        assert_eq!(table.compare_set("new".into(), b"a".to_vec(), b"c".to_vec()).unwrap(), b"b");
        assert_eq!(table.compare_set("new".into(), b"b".to_vec(), b"c".to_vec()).unwrap(), b"c");
        assert_eq!(table.count(), 3);
        assert!(table.delete("new") && !table.delete("new"));
    }
}
