//! The clock that measures idle time and the age of orphans. It follows the system's clock; a test may advance it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A clock. Clones share one offset from the system's clock.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// The current monotonic time, for durations within this process.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// The current wall-clock time, for timestamps of files and containers.
    #[must_use]
    pub fn date(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
