//! The two clocks: one that never goes back, for control; and the calendar's, for people.

use control::Millis;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::{Duration, Instant};

/// Control's time starts when the clock is made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at 0.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Control's present time.
    pub fn now(&self) -> Millis {
        Millis(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When it will be `at`; rounded up, so that a timer never fires too early.
    pub fn instant(&self, at: Millis) -> Instant {
        // A wait of a year is for ever.
        self.origin + Duration::from_millis(at.0.min(self.now().0 + 31_536_000_000)) + Duration::from_micros(999)
    }

    /// Milliseconds since 1970, UTC.
    pub fn wall_ms() -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
