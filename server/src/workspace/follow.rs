//! What is kept in shared state follows the table, and the pool's size what is kept there.

use std::collections::HashMap;
use std::time::Duration;

use super::Workspaces;
use super::pool::PoolSize;
use crate::state::{Record, StateError, Swap};

/// Between looks at what others have written, and at whether anything was lost.
const FOLLOW: Duration = Duration::from_secs(2);

impl Workspaces {
    /// Sets the pool's size for every server of the deployment, and for its later starts.
    ///
    /// # Errors
    /// Shared state does not answer; nothing was changed.
    pub async fn resize_pool(&self, size: PoolSize) -> Result<(), StateError> {
        self.parts.state.set_pool(size).await?;
        self.set_pool_size(size);
        Ok(())
    }

    /// Follows what others have set, and writes anew what shared state has forgotten.
    pub(super) async fn follow_state(&self) {
        let mut epoch = None;
        let mut trouble = false;
        let mut look = tokio::time::interval(FOLLOW);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(look.tick()).await.is_some() {
            match self.look_at_state(&mut epoch).await {
                Ok(()) if trouble => tracing::info!("the shared state answers again"),
                Ok(()) => {}
                Err(error) if !trouble => {
                    tracing::error!(%error, "no shared state; conversations without a room here wait for it");
                }
                Err(error) => tracing::debug!(%error, "still no shared state"),
            }
            trouble = self.is_behind();
        }
    }

    async fn look_at_state(&self, known: &mut Option<String>) -> Result<(), StateError> {
        let looked = async {
            let epoch = self.parts.state.epoch().await?;
            if known.as_ref() != Some(&epoch) || self.is_behind() {
                self.record_all().await?;
                *known = Some(epoch);
            }
            if let Some(size) = self.parts.state.pool().await?
                && size != self.pool_size()
            {
                self.set_pool_size(size);
            }
            Ok(())
        };
        let result = looked.await;
        self.set_behind(result.is_err());
        result
    }

    /// Writes what shared state does not have of this server's rooms, and puts off the end of what it has.
    pub(super) async fn record_all(&self) -> Result<(), StateError> {
        let state = &self.parts.state;
        let mut there: HashMap<String, Record> =
            state.records().await?.into_iter().map(|record| (record.workspace.clone(), record)).collect();
        let mut well = Vec::new();
        for entry in self.rooms.all() {
            let Some(record) = self.rooms.as_recorded(&entry.room.id) else { continue };
            let record = self.record_for(&entry.room.id, record.0.as_ref(), record.1);
            if there.remove(&record.workspace).as_ref() == Some(&record) {
                well.push(record);
                continue;
            }
            let _gate = entry.room.gate.lock().await;
            if !self.rooms.stands(&entry.room.id) {
                continue;
            }
            match state.keep(&record).await? {
                Swap::Done => {}
                kept => tracing::error!(workspace = record.workspace, ?kept, "a room's record is another server's"),
            }
        }
        state.refresh(&well).await
    }
}
