//! The warm pool: running rooms that no conversation has yet.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::lifecycle::build::BuildError;
use crate::reason::ReleaseReason;
use crate::state::PoolSize;
use crate::workspaces::Workspaces;

/// First and longest pause after a failed build.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Rooms that are built for the pool concurrently. The engine starts a few containers in hardly more time than one.
const CONCURRENT_BUILDS: usize = 4;

impl Workspaces {
    /// The configured size of the pool.
    #[must_use]
    pub fn pool_size(&self) -> PoolSize {
        *self.pool_size.borrow()
    }

    /// Sets the size of the pool; a background task builds or releases rooms to match it.
    pub fn set_pool_size(&self, size: PoolSize) {
        self.pool_size.send_replace(size);
        self.pool_changed.notify_one();
    }

    /// Why the pool could not be filled; `None` if it is full or being filled.
    #[must_use]
    pub fn pool_problem(&self) -> Option<String> {
        self.pool_problem.lock().clone()
    }

    pub(crate) fn set_pool_problem(&self, problem: Option<String>) {
        *self.pool_problem.lock() = problem;
    }

    /// Keeps the pool at its configured size until the server stops.
    pub(crate) async fn maintain_pool(self: &Arc<Self>) {
        let mut resized = self.pool_size.subscribe();
        let mut backoff = Backoff::new(BACKOFF);
        while !self.stop.is_cancelled() {
            let size = *resized.borrow_and_update();
            for id in self.rooms.surplus(size.max) {
                self.release_in_background(id, ReleaseReason::Surplus);
            }
            let missing = size.min.saturating_sub(self.rooms.pooled());
            if missing == 0 {
                backoff.reset();
                self.set_pool_problem(None);
                self.stop.run_until_cancelled(self.pool_changed.notified()).await;
                continue;
            }
            // What has just failed is tried with one room.
            let at_once = if backoff.is_first() { CONCURRENT_BUILDS } else { 1 };
            let built = futures::future::join_all((0..missing.min(at_once)).map(|_| self.build_for_pool())).await;
            let failure = built.into_iter().find_map(Result::err);
            let pause = match failure {
                None => {
                    self.set_pool_problem(None);
                    backoff.reset();
                    continue;
                }
                Some(BuildError::Stopping) => continue,
                // No fault: conversations have all the rooms that the limit allows. One that is released makes space.
                Some(BuildError::Full(_)) => BACKOFF.1,
                Some(error) => {
                    let pause = backoff.take_with_jitter();
                    tracing::warn!(%error, retry_ms = pause.as_millis(), "warm pool not filled; trying again");
                    self.parts.metrics.refill_failed();
                    self.set_pool_problem(Some(error.to_string()));
                    pause
                }
            };
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // A new size may need no room, or fewer than there are. A room that leaves the pool meanwhile does not shorten the pause.
                    _ = resized.changed() => {}
                }
            };
            self.stop.run_until_cancelled(wait).await;
        }
    }
}
