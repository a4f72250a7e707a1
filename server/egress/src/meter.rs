//! Counts the bytes of a request or tunnel, and measures how long it has been idle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts bytes in each direction and records when the last ones moved.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    /// When bytes last moved, in milliseconds since the beginning.
    last: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0), up: AtomicU64::new(0), down: AtomicU64::new(0) }
    }

    /// Counts bytes from the client to the target.
    pub(crate) fn count_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved();
    }

    /// Counts bytes from the target to the client.
    pub(crate) fn count_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved();
    }

    /// Records activity without counting bytes.
    pub(crate) fn moved(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The rest of the idle time `limit`; `None` if nothing has moved for that long.
    pub(crate) fn left(&self, limit: Duration) -> Option<Duration> {
        let quiet = Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)));
        limit.checked_sub(quiet).filter(|left| !left.is_zero())
    }

    /// Completes when nothing has moved for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) {
        while let Some(left) = self.left(limit) {
            tokio::time::sleep(left).await;
        }
    }
}
