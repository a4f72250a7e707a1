//! Counts the bytes of a request or tunnel, and measures how long it has been idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::Used;

/// Longest wait in one piece: a client that has left is noticed meanwhile.
const SLICE: Duration = Duration::from_secs(1);

/// Counts bytes in each direction and records when the last ones moved.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    /// When bytes last moved, in milliseconds since the beginning.
    last: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    /// Rates that the bytes count towards, and until when they are used up, in milliseconds since the beginning.
    used: Option<Arc<Used>>,
    wait: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { began: Instant::now(), last: zero(), up: zero(), down: zero(), used: None, wait: zero() }
    }

    /// Counts bytes towards these rates, too.
    pub(crate) fn limited_by(&mut self, used: Option<Arc<Used>>) {
        self.used = used;
    }

    fn use_up(&self, bytes: usize) {
        if let Some(used) = &self.used {
            let wait = u64::try_from(used.moved(bytes).as_millis()).unwrap_or(u64::MAX);
            self.wait.fetch_max(self.now().saturating_add(wait), Ordering::Relaxed);
        }
    }

    /// Waits until the rates allow more bytes. The waiting does not count as idle.
    pub(crate) async fn pace(&self) {
        if self.used.is_none() {
            return;
        }
        while let Some(left) = self.wait.load(Ordering::Relaxed).checked_sub(self.now()).filter(|left| *left > 0) {
            tokio::time::sleep(Duration::from_millis(left).min(SLICE)).await;
            self.moved();
        }
    }

    /// Counts bytes from the client to the target.
    pub(crate) fn count_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.use_up(bytes);
        self.moved();
    }

    /// Counts bytes from the target to the client.
    pub(crate) fn count_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.use_up(bytes);
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
