//! The time by which rooms are idle and orphans old. It runs with the system's; a test may put it forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A clock; clones go together.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Now, for what began in this process.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// Now, for what others have put a time on.
    #[must_use]
    pub fn date(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }

    /// Puts the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
