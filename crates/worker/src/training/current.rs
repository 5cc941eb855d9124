//! The assignment that counts now, shared by the thread that hears the agent and the thread that trains.
//!
//! Directives take effect here the moment they arrive, also while the training thread is deep in a collective, in a
//! rendezvous or in a download.

use c10d::AbortHandle;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use trainer::Requests;

/// What an assignment is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The run.
    pub run: String,
    /// Its generation.
    pub generation: u64,
}

struct Live {
    key: Key,
    over: CancellationToken,
    abort: Option<AbortHandle>,
    requests: Requests,
}

impl Live {
    fn end(&mut self) {
        self.over.cancel();
        if let Some(abort) = self.abort.take() {
            abort.abort();
        }
    }
}

/// The assignment that counts now.
#[derive(Default)]
pub struct Current {
    live: Mutex<Option<Live>>,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new assignment has come; the one before is over.
    pub fn assigned(&self, key: Key) {
        let live = Live { key, over: CancellationToken::new(), abort: None, requests: Requests::default() };
        if let Some(mut before) = self.lock().replace(live) {
            before.end();
        }
    }

    /// The coordinator gives this generation up.
    pub fn aborted(&self, key: &Key) {
        if let Some(live) = self.lock().as_mut()
            && live.key.run == key.run
            && live.key.generation <= key.generation
        {
            live.end();
        }
    }

    /// Nothing is assigned any more.
    pub fn released(&self) {
        if let Some(mut live) = self.lock().take() {
            live.end();
        }
    }

    /// The coordinator wants something at the next step boundary. Wishes add up.
    pub fn requested(&self, key: &Key, wanted: Requests) {
        if let Some(live) = self.lock().as_mut()
            && live.key == *key
        {
            live.requests.checkpoint |= wanted.checkpoint;
            live.requests.pause |= wanted.pause;
        }
    }

    /// What is wanted of this generation.
    pub fn requests(&self, key: &Key) -> Requests {
        self.lock().as_ref().filter(|live| live.key == *key).map_or_else(Requests::default, |live| live.requests)
    }

    /// A checkpoint was made: that wish is fulfilled. Not where a pause is wanted too: that checkpoint is the one of the
    /// step at which all stop, and what was made may have been due anyway, one step earlier.
    pub fn checkpoint_made(&self, key: &Key) {
        if let Some(live) = self.lock().as_mut()
            && live.key == *key
            && !live.requests.pause
        {
            live.requests.checkpoint = false;
        }
    }

    /// Cancelled as soon as this assignment is over (at once, if it already is).
    pub fn over(&self, key: &Key) -> CancellationToken {
        match self.lock().as_ref() {
            Some(live) if live.key == *key => live.over.clone(),
            _ => {
                let over = CancellationToken::new();
                over.cancel();
                over
            }
        }
    }

    /// The same for whatever generation of `run` is assigned now.
    pub fn over_in(&self, run: &str) -> CancellationToken {
        let key = self.lock().as_ref().map(|live| live.key.clone()).filter(|key| key.run == run);
        self.over(&key.unwrap_or_else(|| Key { run: run.to_owned(), generation: 0 }))
    }

    /// From now on the end of this assignment also ends its group's collectives.
    pub fn attach(&self, key: &Key, abort: AbortHandle) {
        match self.lock().as_mut() {
            Some(live) if live.key == *key && !live.over.is_cancelled() => live.abort = Some(abort),
            _ => abort.abort(),
        }
    }

    /// The group is about to be dropped.
    pub fn detach(&self, key: &Key) {
        if let Some(live) = self.lock().as_mut()
            && live.key == *key
        {
            live.abort = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run: &str, generation: u64) -> Key {
        Key { run: run.to_owned(), generation }
    }

    #[test]
    fn an_abort_ends_its_generation_and_older_ones_of_the_same_run() {
        for (aborted, ends) in [(key("a", 2), true), (key("a", 3), true), (key("a", 1), false), (key("b", 2), false)] {
            let current = Current::default();
            current.assigned(key("a", 2));
            let over = current.over(&key("a", 2));
            current.aborted(&aborted);
            assert_eq!(over.is_cancelled(), ends, "{aborted:?}");
        }
    }

    #[test]
    fn a_new_assignment_and_a_release_end_the_one_before() {
        let current = Current::default();
        current.assigned(key("a", 1));
        let first = current.over(&key("a", 1));
        current.assigned(key("a", 2));
        assert!(first.is_cancelled() && current.over(&key("a", 1)).is_cancelled());
        let second = current.over(&key("a", 2));
        assert!(!second.is_cancelled() && !current.over_in("a").is_cancelled() && current.over_in("b").is_cancelled());
        current.released();
        assert!(second.is_cancelled() && current.over_in("a").is_cancelled());
    }

    #[test]
    fn wishes_are_for_one_generation_and_add_up() {
        let current = Current::default();
        current.assigned(key("a", 1));
        current.requested(&key("a", 1), Requests { checkpoint: true, pause: false });
        current.requested(&key("a", 2), Requests { checkpoint: true, pause: true });
        assert_eq!(current.requests(&key("a", 1)), Requests { checkpoint: true, pause: false });
        current.checkpoint_made(&key("a", 1));
        assert_eq!(current.requests(&key("a", 1)), Requests::default());
        current.requested(&key("a", 1), Requests { checkpoint: true, pause: true });
        // A periodic one of the step before; the run stops at the next.
        current.checkpoint_made(&key("a", 1));
        assert_eq!(current.requests(&key("a", 1)), Requests { checkpoint: true, pause: true });
        current.assigned(key("a", 2));
        assert_eq!(current.requests(&key("a", 2)), Requests::default());
    }
}
