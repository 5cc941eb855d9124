//! Threads that prepare units in the order in which they are ordered. What is ordered and not yet taken is bounded by
//! whoever orders: `prefetch_units` + 1 units for each slot.

use crate::prepare::{Part, Preparer};
use crate::samples::Samples;
use crate::{CorpusError, ErrorKind};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use types::SlotId;

/// A slot's turn.
type Key = (SlotId, u64);

/// The threads of one assignment; dropping it tells them to end, which they do between two rows.
pub(super) struct Background {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    cancelled: AtomicBool,
}

#[derive(Default)]
struct State {
    ordered: VecDeque<(Key, Part)>,
    done: HashMap<Key, Result<Arc<Samples>, CorpusError>>,
    /// A thread that could not be started, if none could.
    broken: Option<CorpusError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Background {
    pub(super) fn start(preparer: Arc<Preparer>, threads: usize) -> Self {
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), cancelled: AtomicBool::new(false) });
        let mut started = 0;
        for number in 0..threads {
            let (shared, preparer) = (shared.clone(), preparer.clone());
            let spawned =
                std::thread::Builder::new().name(format!("corpus-{number}")).spawn(move || work(&shared, &preparer));
            match spawned {
                Ok(_) => started += 1,
                Err(error) => tracing::warn!(%error, "no thread for preparing data"),
            }
        }
        if started == 0 && threads > 0 {
            let message = "no thread for preparing data could be started";
            shared.lock().broken = Some(CorpusError::new(ErrorKind::Io, "loader", message, "raise `ulimit -u`"));
        }
        Self { shared }
    }

    /// Orders a unit.
    pub(super) fn order(&self, part: Part, slot: SlotId, turn: u64) {
        self.shared.lock().ordered.push_back(((slot, turn), part));
        self.shared.changed.notify_all();
    }

    /// Waits for a unit that was ordered before, and takes it.
    pub(super) fn take(&self, slot: SlotId, turn: u64) -> Result<Arc<Samples>, CorpusError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
            if let Some(outcome) = state.done.remove(&(slot, turn)) {
                return outcome;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        // Under the lock, so that no thread can miss it between its look at the flag and its wait.
        let _state = self.shared.lock();
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared, preparer: &Preparer) {
    let cancelled = || shared.cancelled.load(Ordering::Relaxed);
    let mut encoder = preparer.encoder();
    loop {
        let mut state = shared.lock();
        let (key, part) = loop {
            if cancelled() {
                return;
            }
            if let Some(job) = state.ordered.pop_front() {
                break job;
            }
            state = shared.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        drop(state);
        // A panic here would leave the trainer waiting for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| preparer.prepare(part, &mut encoder, &cancelled)));
        let outcome = match outcome {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(samples))) => Ok(Arc::new(samples)),
            Ok(Err(error)) => Err(error),
            Err(panic) => {
                encoder = preparer.encoder();
                Err(panicked(part, panic.as_ref()))
            }
        };
        shared.lock().done.insert(key, outcome);
        shared.changed.notify_all();
    }
}

fn panicked(part: Part, panic: &(dyn std::any::Any + Send)) -> CorpusError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let message = format!("preparing {part:?} panicked: {}", text.unwrap_or("no message"));
    CorpusError::new(ErrorKind::Internal, "loader", message, "this is a bug: please report it with the file")
}
