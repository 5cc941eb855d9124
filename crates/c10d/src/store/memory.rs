//! A store for groups whose members are threads of one process.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{KeyValueStore, StoreError};

/// An in-process [`KeyValueStore`]: for tests, and for a worker that is alone.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries, once all keys are among them.
    fn with_all(
        &self,
        keys: &[String],
        timeout: Duration,
    ) -> Result<MutexGuard<'_, BTreeMap<String, Vec<u8>>>, StoreError> {
        let missing = |entries: &mut BTreeMap<String, Vec<u8>>| keys.iter().any(|key| !entries.contains_key(key));
        let (entries, outcome) =
            self.changed.wait_timeout_while(self.entries(), timeout, missing).unwrap_or_else(PoisonError::into_inner);
        if outcome.timed_out() {
            return Err(StoreError::Timeout { keys: keys.join(", "), timeout });
        }
        Ok(entries)
    }
}

impl KeyValueStore for MemoryStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.entries().insert(key.to_owned(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        let entries = self.with_all(&[key.to_owned()], timeout)?;
        entries.get(key).cloned().ok_or_else(|| StoreError::Failed(format!("{key} vanished while it was read")))
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        let mut entries = self.entries();
        let before = match entries.get(key) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| StoreError::Failed(format!("{key} does not hold a number")))?,
        };
        let sum = before.checked_add(amount).ok_or_else(|| StoreError::Failed(format!("{key} would overflow")))?;
        entries.insert(key.to_owned(), sum.to_string().into_bytes());
        drop(entries);
        self.changed.notify_all();
        Ok(sum)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut entries = self.entries();
        let swap = match entries.get(key) {
            Some(present) if present == expected => true,
            Some(present) => return Ok(present.clone()),
            None => expected.is_empty(),
        };
        if !swap {
            return Ok(expected.to_vec());
        }
        entries.insert(key.to_owned(), desired.to_vec());
        drop(entries);
        self.changed.notify_all();
        Ok(desired.to_vec())
    }

    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError> {
        self.with_all(keys, timeout).map(drop)
    }

    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        let entries = self.entries();
        Ok(keys.iter().all(|key| entries.contains_key(key)))
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.entries().remove(key).is_some())
    }

    fn count(&self) -> Result<i64, StoreError> {
        Ok(self.entries().len() as i64)
    }
}
