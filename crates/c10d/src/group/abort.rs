//! Ending a collective that would otherwise wait for a peer that will never answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::Native;

/// Ends a group's collectives, the one in progress and all later ones, from any thread. It does not keep the group
/// alive.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    aborted: Arc<AtomicBool>,
    native: Weak<Native>,
}

impl AbortHandle {
    pub(super) fn new(aborted: Arc<AtomicBool>, native: Option<&Arc<Native>>) -> Self {
        Self { aborted, native: native.map_or_else(Weak::new, Arc::downgrade) }
    }

    /// Makes every collective of this group, present and future, return [`crate::GroupError::Aborted`]. The peers see
    /// this member leave. Doing it twice, or after the group is gone, does nothing.
    pub fn abort(&self) {
        if self.aborted.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(native) = self.native.upgrade() {
            native.abort();
        }
    }

    /// Whether [`AbortHandle::abort`] was called on any handle of the group.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }
}
