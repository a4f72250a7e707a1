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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_counted_by_itself_and_any_movement_is_none_of_idleness() {
        let meter = Meter::new();
        assert_eq!((meter.up(), meter.down()), (0, 0));
        meter.count_up(3);
        meter.count_up(4);
        meter.count_down(5);
        assert_eq!((meter.up(), meter.down()), (7, 5));
        let limit = Duration::from_secs(3600);
        // As if so much time had passed since bytes last moved.
        let quiet = |by: u64| Meter { began: Instant::now() - Duration::from_millis(by), ..Meter::new() };
        assert!(quiet(0).left(limit).is_some_and(|left| left > limit - Duration::from_secs(60)));
        assert!(quiet(1_800_000).left(limit).is_some_and(|left| left < limit / 2 + Duration::from_secs(1)));
        assert_eq!(quiet(3_600_000).left(limit), None, "exactly as long is too long");
        let moves: [fn(&Meter); 3] = [|meter| meter.count_up(1), |meter| meter.count_down(1), Meter::moved];
        for moves in moves {
            let meter = quiet(3_600_000);
            moves(&meter);
            assert!(meter.left(limit).is_some());
            assert!(meter.elapsed() >= limit);
        }
    }
}
