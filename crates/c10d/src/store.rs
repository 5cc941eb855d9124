//! Rendezvous: how the members of a group find each other.
//!
//! c10d asks for a key-value store; ours is a trait, so that the worker can put the coordinator's authenticated and
//! fenced service behind it, and tests a map.

pub(crate) mod bridge;
pub(crate) mod memory;

use std::time::Duration;

/// Why a store operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The awaited keys did not appear in time.
    #[error("{keys} did not appear in the rendezvous store within {} s", timeout.as_secs_f32())]
    Timeout {
        /// The awaited keys, for people.
        keys: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// Everything else: the store cannot be reached, or this generation is fenced.
    #[error("{0}")]
    Failed(String),
}

/// The operations that c10d needs. Called from several threads, also from libtorch's own. A panic in one of them becomes
/// an error of the collective that needed it.
///
/// Waits must end at their timeout, and should end early (with an error) once the generation is fenced: a group that
/// waits for a member that will never come can only be ended through its store.
pub trait KeyValueStore: Send + Sync {
    /// Stores a value, replacing any older one.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;
    /// The value, as soon as there is one.
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError>;
    /// Adds to the decimal number under the key (none counts as 0) and returns the sum.
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError>;
    /// Sets the value to `desired` if it is `expected`, or if there is none and `expected` is empty; returns the value
    /// that is there afterwards (`expected` if there is none).
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError>;
    /// Returns once all keys are there.
    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError>;
    /// Whether all keys are there.
    fn check(&self, keys: &[String]) -> Result<bool, StoreError>;
    /// Removes a key; says whether it was there.
    fn delete(&self, key: &str) -> Result<bool, StoreError>;
    /// The number of keys.
    fn count(&self) -> Result<i64, StoreError>;
}
