//! A room's files, and where its conversation's are kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::files::AgentFiles;
use crate::lifecycle::lease::Lease;
use crate::objects::{Bucket, ConversationStore, StorageError, SyncReport, restore, save};
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;
use nagaya_telemetry::metrics::SyncDirection;

/// Between a tool's result and the sync it causes: what comes in quick succession is taken out together.
const DEBOUNCE: Duration = Duration::from_secs(2);

impl Workspaces {
    /// Where rooms' files are kept; `None` where that is nowhere.
    #[must_use]
    pub fn bucket(&self) -> Option<&Bucket> {
        self.parts.bucket.as_ref()
    }

    /// Where a conversation's files are kept; `None` where that is nowhere.
    #[must_use]
    pub fn conversation_store(&self, occupant: &Occupant) -> Option<ConversationStore> {
        self.bucket().map(|bucket| bucket.conversation_store(&occupant.tenant, &occupant.conversation))
    }

    /// Deletes what is kept of a conversation's files. Its room must be gone.
    ///
    /// # Errors
    /// Something may be left.
    pub async fn delete_files(&self, occupant: &Occupant) -> Result<(), StorageError> {
        let Some(place) = self.conversation_store(occupant) else { return Ok(()) };
        let began = Instant::now();
        let deleted = place.delete_all(place.bucket().sync_deadline()).await;
        if let Err(error) = &deleted {
            self.parts.metrics.synced(SyncDirection::Out, began.elapsed(), false);
            tracing::warn!(conversation = occupant.conversation, %error, "stored files are not deleted yet");
        }
        deleted
    }

    /// Makes a room's files and the bucket's the same, one way; waits for another sync of the room.
    async fn sync(&self, room: &Room, occupant: &Occupant, way: SyncDirection) -> Result<SyncReport, StorageError> {
        let (Some(place), Some(dir)) = (self.conversation_store(occupant), &room.dir) else {
            return Ok(SyncReport::default());
        };
        let (began, until) = (Instant::now(), place.bucket().sync_deadline());
        let files = AgentFiles::new(dir, until);
        let done = match tokio::time::timeout_at(until, room.files.lock()).await {
            Err(_) => Err(StorageError::Timeout(until - began)),
            Ok(mut step) => match way {
                SyncDirection::In => restore(&place, room.id.as_str(), &files, &mut step, until).await,
                SyncDirection::Out => save(&place, room.id.as_str(), &files, &mut step, until).await,
            },
        };
        let well = done.as_ref().is_ok_and(|done| done.skipped == 0);
        self.parts.metrics.synced(way, began.elapsed(), well);
        let conversation = &occupant.conversation;
        match &done {
            Ok(SyncReport { moved, deleted, skipped, skip_reason }) => {
                let took_ms = began.elapsed().as_millis();
                tracing::debug!(workspace = %room.id, conversation, ?way, moved, deleted, took_ms, "files synced");
                if let Some(why) = skip_reason {
                    tracing::warn!(workspace = %room.id, conversation, skipped, why, "files are not kept");
                }
            }
            Err(error) => tracing::warn!(workspace = %room.id, conversation, ?way, %error, "files not synced"),
        }
        done
    }

    /// Takes a room's files out soon, unless that is about to happen anyway.
    pub(crate) fn schedule_sync(self: &Arc<Self>, room: &Arc<Room>, occupant: &Occupant) {
        if self.bucket().is_none() || room.sync_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let (this, room, occupant) = (self.clone(), room.clone(), occupant.clone());
        self.tasks.spawn(async move {
            let waited = this.stop.run_until_cancelled(tokio::time::sleep(DEBOUNCE)).await;
            room.sync_scheduled.store(false, Ordering::Release);
            if waited.is_some() && this.rooms.is_live(&room.id) {
                // What went wrong is counted and in the log; the sync at the run's end tells it, should it still be so.
                let _ = this.sync(&room, &occupant, SyncDirection::Out).await;
            }
        });
    }

    /// The last sync of a room that is being taken down. A bucket that does not take it does not keep the room.
    pub(crate) async fn final_sync(&self, room: &Room) {
        let Some(occupant) = room.occupant() else { return };
        if let Err(error) = self.sync(room, &occupant, SyncDirection::Out).await {
            let conversation = &occupant.conversation;
            tracing::error!(workspace = %room.id, conversation, %error, "what changed since the last sync goes with the room");
        }
    }
}

impl Lease {
    /// Brings the conversation's stored files into the room, where it has not had them yet. Nothing where there is no bucket.
    ///
    /// # Errors
    /// Not all of them are there; what is there is whole.
    pub async fn restore_files(&self) -> Result<SyncReport, StorageError> {
        self.workspaces().sync(self.room(), self.occupant(), SyncDirection::In).await
    }

    /// Takes the room's files out into the bucket. Nothing where there is none.
    ///
    /// # Errors
    /// Not all of them are there; what is there is whole.
    pub async fn save_files(&self) -> Result<SyncReport, StorageError> {
        self.workspaces().sync(self.room(), self.occupant(), SyncDirection::Out).await
    }

    /// Says that files may have changed in the room: they are taken out soon.
    pub fn files_changed(&self) {
        self.workspaces().schedule_sync(self.room(), self.occupant());
    }
}
