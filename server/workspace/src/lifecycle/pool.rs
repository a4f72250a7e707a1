//! The warm pool: started rooms that wait for a conversation.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::lifecycle::build::BuildError;
use crate::reason::ReleaseReason;
use crate::state::PoolSize;
use crate::workspaces::Workspaces;

/// First and longest pause after a room could not be made.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How many rooms are made for the pool at the same time: an engine starts a few hardly slower than one.
const AT_ONCE: usize = 4;

impl Workspaces {
    /// The pool's size as wanted now.
    #[must_use]
    pub fn pool_size(&self) -> PoolSize {
        *self.pool_size.borrow()
    }

    /// Changes the pool's size; the pool follows in the background.
    pub fn set_pool_size(&self, size: PoolSize) {
        self.pool_size.send_replace(size);
        self.pool_changed.notify_one();
    }

    /// Why the pool is smaller than it should be; `None` where it is not, or is just being filled.
    #[must_use]
    pub fn pool_problem(&self) -> Option<String> {
        self.pool_problem.lock().clone()
    }

    pub(crate) fn set_pool_problem(&self, trouble: Option<String>) {
        *self.pool_problem.lock() = trouble;
    }

    /// Keeps the pool at its size until the server stops.
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
            let built = futures::future::join_all((0..missing.min(AT_ONCE)).map(|_| self.build(None))).await;
            let failure = built.into_iter().find_map(Result::err);
            let pause = match failure {
                None => {
                    self.set_pool_problem(None);
                    backoff.reset();
                    continue;
                }
                Some(BuildError::Stopping) => continue,
                // No fault: somebody else has all the rooms, and one that ends makes place.
                Some(BuildError::Full(_)) => BACKOFF.1,
                Some(error) => {
                    let pause = backoff.take_with_jitter();
                    tracing::warn!(%error, retry_ms = pause.as_millis(), "warm pool not filled");
                    self.parts.metrics.refill_failed();
                    self.set_pool_problem(Some(error.to_string()));
                    pause
                }
            };
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Another size may need no room, or fewer than there are. What is taken or lost meanwhile changes nothing.
                    _ = resized.changed() => {}
                }
            };
            self.stop.run_until_cancelled(wait).await;
        }
    }
}
