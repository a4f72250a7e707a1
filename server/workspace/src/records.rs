//! Records of rooms in the shared state: who owns a room, which conversation it belongs to, and its driver's session.
//!
//! The table of a running server is the truth about its own rooms; records follow it. Records of a server that has died say
//! what it had. A server claims the record of a room outside its table by compare-and-set before it adopts or releases
//! the room.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::id::RoomId;
use crate::rooms::{Occupant, Room};
use crate::session::Session;
use crate::state::{PoolSize, Record, StateError, WriteOutcome};
use crate::workspaces::Workspaces;

/// Interval at which the shared state is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Why a room's record was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The shared state does not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// The conversation has another room meanwhile.
    #[error("the conversation has received another workspace meanwhile")]
    Taken,
}

impl Workspaces {
    /// Whether records may be missing from the shared state.
    pub(crate) fn are_records_stale(&self) -> bool {
        self.records_stale.load(Ordering::Relaxed)
    }

    pub(crate) fn set_records_stale(&self, stale: bool) {
        self.records_stale.store(stale, Ordering::Relaxed);
    }

    /// The record that this server writes for a room.
    pub(crate) fn record_for(&self, id: &RoomId, occupant: Option<&Occupant>, session: Option<Session>) -> Record {
        Record {
            workspace: id.to_string(),
            occupant: occupant.map(|o| (o.conversation.clone(), o.tenant.clone())),
            session,
            retired: false,
            owner: self.server_id().to_owned(),
        }
    }

    /// The record that this server writes for a room that it is about to release.
    pub(crate) fn retired_record(&self, id: &RoomId) -> Record {
        Record { retired: true, ..self.record_for(id, None, None) }
    }

    /// Claims a room that is in no server's table, so that this server may release it; `false` if another server has
    /// changed the record first.
    ///
    /// # Errors
    /// The shared state does not answer.
    pub async fn claim(&self, id: &RoomId, old: Option<&Record>) -> Result<bool, StateError> {
        let claimed = self.retired_record(id);
        Ok(self.parts.state.compare_and_set(id.as_str(), old, Some(&claimed)).await? == WriteOutcome::Written)
    }

    /// Writes a room's record; `false` if the room is being released, in which case nothing is written.
    ///
    /// # Errors
    /// The shared state does not answer, or the conversation has another room.
    pub(crate) async fn write_record(
        &self,
        room: &Room,
        occupant: Option<&Occupant>,
        session: Option<Session>,
    ) -> Result<bool, RecordError> {
        // Under the teardown lock: a release between the check and the write would leave a record of a removed room.
        let _teardown = room.teardown_lock.lock().await;
        if !self.rooms.is_live(&room.id) {
            return Ok(false);
        }
        let record = self.record_for(&room.id, occupant, session);
        let mut outcome = self.parts.state.put_owned(&record).await?;
        if outcome == WriteOutcome::ConversationTaken
            && let Some(occupant) = occupant
        {
            self.clear_released_room(&occupant.conversation).await?;
            outcome = self.parts.state.put_owned(&record).await?;
        }
        if outcome == WriteOutcome::Written { Ok(true) } else { Err(RecordError::Taken) }
    }

    /// Takes the conversation out of the record of a room that this server is releasing.
    async fn clear_released_room(&self, conversation: &str) -> Result<(), StateError> {
        let Some(old) = self.parts.state.record_by_conversation(conversation).await? else { return Ok(()) };
        let is_live = RoomId::parse(&old.workspace).is_some_and(|id| self.rooms.is_live(&id));
        if old.owner == self.server_id() && !is_live {
            self.clear_conversation(&old).await?;
        }
        Ok(())
    }

    /// Takes the conversation out of the record of a room that is being released, unless the record has changed meanwhile.
    ///
    /// # Errors
    /// The shared state does not answer.
    pub async fn clear_conversation(&self, old: &Record) -> Result<(), StateError> {
        let cleared = Record { occupant: None, retired: true, ..old.clone() };
        self.parts.state.compare_and_set(&old.workspace, Some(old), Some(&cleared)).await?;
        Ok(())
    }

    /// Sets the pool's size for every server of the deployment, now and after a restart.
    ///
    /// # Errors
    /// The shared state does not answer; nothing was changed.
    pub async fn resize_pool(&self, size: PoolSize) -> Result<(), StateError> {
        self.parts.state.set_pool(size).await?;
        self.set_pool_size(size);
        Ok(())
    }

    /// Until the server stops: applies the pool size that other servers set, and rewrites records that the shared state has lost.
    pub async fn follow_state(&self) {
        let mut epoch = None;
        let mut failing = false;
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(tick.tick()).await.is_some() {
            match self.poll_state(&mut epoch).await {
                Ok(()) if failing => tracing::info!("the shared state answers again"),
                Ok(()) => {}
                Err(error) if !failing => {
                    tracing::error!(%error, "the shared state does not answer; runs that need a new workspace are refused until it does");
                }
                Err(error) => tracing::debug!(%error, "the shared state still does not answer"),
            }
            failing = self.are_records_stale();
        }
    }

    async fn poll_state(&self, known: &mut Option<String>) -> Result<(), StateError> {
        let polled = async {
            let epoch = self.parts.state.epoch().await?;
            if known.as_ref() != Some(&epoch) || self.are_records_stale() {
                self.refresh_records().await?;
                *known = Some(epoch);
            }
            if let Some(size) = self.parts.state.pool().await?
                && size != self.pool_size()
            {
                self.set_pool_size(size);
            }
            Ok(())
        };
        let result = polled.await;
        self.set_records_stale(result.is_err());
        result
    }

    /// Writes the records that the shared state lacks, and extends the time to live of the others.
    pub(crate) async fn refresh_records(&self) -> Result<(), StateError> {
        let state = &self.parts.state;
        let mut stored: HashMap<String, Record> =
            state.records().await?.into_iter().map(|record| (record.workspace.clone(), record)).collect();
        let mut unchanged = Vec::new();
        for entry in self.rooms.all() {
            let Some((occupant, session)) = self.rooms.record_fields(&entry.room.id) else { continue };
            let record = self.record_for(&entry.room.id, occupant.as_ref(), session);
            if stored.remove(&record.workspace).as_ref() == Some(&record) {
                unchanged.push(record);
                continue;
            }
            let _teardown = entry.room.teardown_lock.lock().await;
            if !self.rooms.is_live(&entry.room.id) {
                continue;
            }
            match state.put_owned(&record).await? {
                WriteOutcome::Written => {}
                outcome => tracing::error!(
                    workspace = record.workspace,
                    ?outcome,
                    "a workspace of this server has a record of another server"
                ),
            }
        }
        state.refresh(&unchanged).await
    }
}

/// A record with the id of its room; `None` where the record names no room.
pub(crate) fn keyed(record: Record) -> Option<(RoomId, Record)> {
    Some((RoomId::parse(&record.workspace)?, record))
}
