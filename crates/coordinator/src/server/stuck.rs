//! Why the run database cannot be written at the moment, if so: the driver waits then, and people are told.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The reason, as long as there is one.
#[derive(Debug, Default)]
pub struct Stuck(Mutex<Option<String>>);

impl Stuck {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits for this.
    pub fn set(&self, reason: Option<String>) {
        *self.lock() = reason;
    }

    /// What it waits for.
    pub fn reason(&self) -> Option<String> {
        self.lock().clone()
    }
}
