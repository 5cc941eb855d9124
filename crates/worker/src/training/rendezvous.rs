//! c10d's key-value store, kept by the coordinator: how the members of one generation find each other.

use crate::training::current::Key;
use crate::training::remote::{Remote, is_absence};
use c10d::{KeyValueStore, StoreError};
use proto::Failure;
use proto::v1::{AddRequest, CompareSetRequest, KeyRequest, KeyValue, KeysRequest, Scope};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The server waits this long in one call at most, so that a connection that died silently is noticed.
const WAIT_SLICE: Duration = Duration::from_secs(10);
/// The members' rendezvous as a whole: opening a corpus of many files on a slow store is the longest thing a member does
/// before it comes. A generation that is given up ends the wait at once.
const MEETING_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Between two tries while the coordinator is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// One generation's part of the coordinator's store.
pub struct RendezvousStore {
    remote: Remote,
    scope: Scope,
    over: CancellationToken,
    /// What this member set. The coordinator keeps the keys in memory only: one that was away has forgotten them.
    own: Mutex<Vec<KeyValue>>,
}

impl RendezvousStore {
    /// For one member of one generation; every call fails once `over` is cancelled.
    pub fn new(remote: Remote, key: &Key, worker: &str, over: CancellationToken) -> Self {
        let scope = Scope { run: key.run.clone(), generation: key.generation, worker: worker.to_owned() };
        Self { remote, scope, over, own: Mutex::default() }
    }

    /// After the coordinator was away. What fails now is tried again with the next try of the call that waits.
    async fn set_again(&self) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for request in own {
            if let Err(error) = self.remote.coordinator.rendezvous().set(request).await {
                tracing::debug!(%error, "the coordinator is still away");
                return;
            }
        }
    }

    fn scope(&self) -> Option<Scope> {
        Some(self.scope.clone())
    }

    fn call<T>(&self, future: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, StoreError> {
        self.remote.wait(&self.over, future).map(tonic::Response::into_inner).map_err(store_error)
    }

    /// Repeats a waiting call in slices until it succeeds or `timeout` is over.
    fn wait_for<T, F>(&self, what: &str, timeout: Duration, call: impl Fn(u64) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let started = Instant::now();
        let timeout = timeout.min(MEETING_TIMEOUT);
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let slice = left.min(WAIT_SLICE);
            let wait_ms = u64::try_from(slice.as_millis()).unwrap_or(u64::MAX);
            let result = self.remote.wait(&self.over, async {
                match tokio::time::timeout(slice + WAIT_SLICE, call(wait_ms)).await {
                    Ok(Err(status)) if is_absence(&status) => {
                        tokio::time::sleep(AWAY_PAUSE.min(slice)).await;
                        self.set_again().await;
                        Ok(None)
                    }
                    Ok(Err(status)) if status.code() == tonic::Code::DeadlineExceeded => Ok(None),
                    Ok(result) => result.map(Some),
                    Err(_) => Ok(None),
                }
            });
            match result {
                Ok(Some(response)) => return Ok(response.into_inner()),
                Ok(None) if left.is_zero() => return Err(StoreError::Timeout { keys: what.to_owned(), timeout }),
                Ok(None) => {}
                Err(failure) => return Err(store_error(failure)),
            }
        }
    }
}

fn store_error(failure: Failure) -> StoreError {
    StoreError::Failed(failure.message)
}

impl KeyValueStore for RendezvousStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let request = KeyValue { scope: self.scope(), key: key.to_owned(), value: value.to_vec() };
        self.own.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let call = || async { self.remote.coordinator.rendezvous().set(request.clone()).await };
        self.remote.persist(&self.over, "rendezvous", call).map(|_| ()).map_err(store_error)
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        let call = |wait_ms| async move {
            let request = KeyRequest { scope: self.scope(), key: key.to_owned(), wait_ms };
            self.remote.coordinator.rendezvous().get(request).await
        };
        self.wait_for(key, timeout, call).map(|value| value.value)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        // Not repeated: whether a lost call was counted cannot be known.
        let request = AddRequest { scope: self.scope(), key: key.to_owned(), amount };
        let mut client = self.remote.coordinator.rendezvous();
        self.call(client.add(request)).map(|sum| sum.value)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError> {
        let request = CompareSetRequest {
            scope: self.scope(),
            key: key.to_owned(),
            expected: expected.to_vec(),
            desired: desired.to_vec(),
        };
        let mut client = self.remote.coordinator.rendezvous();
        self.call(client.compare_set(request)).map(|value| value.value)
    }

    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError> {
        let call = |wait_ms| async move {
            let request = KeysRequest { scope: self.scope(), keys: keys.to_vec(), wait_ms };
            self.remote.coordinator.rendezvous().wait(request).await
        };
        self.wait_for(&keys.join(", "), timeout, call).map(|_| ())
    }

    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        let request = KeysRequest { scope: self.scope(), keys: keys.to_vec(), wait_ms: 0 };
        let call = || async { self.remote.coordinator.rendezvous().check(request.clone()).await };
        let found = self.remote.persist(&self.over, "rendezvous", call).map_err(store_error)?;
        Ok(found.into_inner().value)
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let request = KeyRequest { scope: self.scope(), key: key.to_owned(), wait_ms: 0 };
        let mut client = self.remote.coordinator.rendezvous();
        self.call(client.delete(request)).map(|found| found.value)
    }

    fn count(&self) -> Result<i64, StoreError> {
        let scope = self.scope.clone();
        let mut client = self.remote.coordinator.rendezvous();
        self.call(client.count(scope)).map(|sum| sum.value)
    }
}
