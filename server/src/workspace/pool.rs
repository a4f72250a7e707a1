//! The warm pool: started rooms that wait for a conversation.

use std::sync::Arc;
use std::time::Duration;

use super::Workspaces;
use super::release::Why;

/// How many rooms wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// So many are kept; 0 turns the pool off.
    pub min: usize,
    /// Never more than so many.
    pub max: usize,
}

/// First and longest pause after a room could not be made.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

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

    /// Keeps the pool at its size until the server stops.
    pub(super) async fn keep_pool(self: &Arc<Self>) {
        let mut backoff = BACKOFF.0;
        while !self.stop.is_cancelled() {
            let size = self.pool_size();
            for id in self.rooms.surplus(size.max) {
                self.release_in_background(id, Why::Surplus);
            }
            if self.rooms.pooled() >= size.min {
                self.stop.run_until_cancelled(self.pool_changed.notified()).await;
                continue;
            }
            match self.build(None).await {
                Ok(_) => backoff = BACKOFF.0,
                Err(error) => {
                    tracing::warn!(%error, retry_ms = backoff.as_millis(), "warm pool not filled");
                    // Up to half again, so that several servers on one engine do not knock in step.
                    let pause = backoff.mul_f64(1.0 + rand::random::<f64>() / 2.0);
                    self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }
}
