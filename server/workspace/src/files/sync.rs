//! Syncs a room's files with the bucket: restored before a run, saved during and after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nagaya_telemetry::metrics::SyncDirection;
use tokio::time::Instant;

use crate::agent::files::AgentFiles;
use crate::lifecycle::lease::Lease;
use crate::objects::{Bucket, ConversationStore, StorageError, SyncReport, restore, save};
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Delay between a tool's result and the sync it triggers, so that results in quick succession cause one sync.
const DEBOUNCE: Duration = Duration::from_secs(2);

impl Workspaces {
    /// The bucket that stores conversations' files; `None` if none is configured.
    #[must_use]
    pub fn bucket(&self) -> Option<&Bucket> {
        self.parts.bucket.as_ref()
    }

    /// The part of the bucket that stores a conversation's files; `None` if no bucket is configured.
    #[must_use]
    pub fn conversation_store(&self, occupant: &Occupant) -> Option<ConversationStore> {
        self.bucket().map(|bucket| bucket.conversation_store(&occupant.tenant, &occupant.conversation))
    }

    /// Deletes a conversation's stored files. Its room must be released already: a room would save them again.
    ///
    /// # Errors
    /// Files may be left in the bucket.
    pub async fn delete_files(&self, occupant: &Occupant) -> Result<(), StorageError> {
        let Some(store) = self.conversation_store(occupant) else { return Ok(()) };
        let began = Instant::now();
        let deleted = store.delete_all(store.bucket().sync_deadline()).await;
        if let Err(error) = &deleted {
            self.parts.metrics.synced(SyncDirection::Out, began.elapsed(), false);
            tracing::warn!(conversation = occupant.conversation, %error, "the conversation's stored files were not deleted");
        }
        deleted
    }

    /// Syncs a room's files with the bucket in one direction, after any other sync of the room.
    async fn sync(
        &self,
        room: &Room,
        occupant: &Occupant,
        direction: SyncDirection,
    ) -> Result<SyncReport, StorageError> {
        let (Some(store), Ok(agent)) = (self.conversation_store(occupant), room.agent()) else {
            return Ok(SyncReport::default());
        };
        let (began, until) = (Instant::now(), store.bucket().sync_deadline());
        let files = AgentFiles::new(agent, until);
        let done = match tokio::time::timeout_at(until, room.files.lock()).await {
            Err(_) => Err(StorageError::Timeout(until - began)),
            Ok(mut state) => {
                let done = match direction {
                    SyncDirection::In => restore(&store, room.id.as_str(), &files, &mut state, until).await,
                    SyncDirection::Out => save(&store, room.id.as_str(), &files, &mut state, until).await,
                };
                if state.restored {
                    room.set_has_stored_files();
                }
                done
            }
        };
        let complete = done.as_ref().is_ok_and(|done| done.skipped == 0);
        self.parts.metrics.synced(direction, began.elapsed(), complete);
        let conversation = &occupant.conversation;
        match &done {
            Ok(SyncReport { moved, deleted, skipped, skip_reason }) => {
                let took_ms = began.elapsed().as_millis();
                tracing::debug!(workspace = %room.id, conversation, way = ?direction, moved, deleted, took_ms, "files synced");
                if let Some(why) = skip_reason {
                    tracing::warn!(workspace = %room.id, conversation, skipped, why, "some files were not synced with the bucket");
                }
            }
            Err(error) => {
                tracing::warn!(workspace = %room.id, conversation, way = ?direction, %error, "files were not synced with the bucket");
            }
        }
        done
    }

    /// Schedules saving a room's files to the bucket, unless a sync is scheduled already.
    pub(crate) fn schedule_sync(self: &Arc<Self>, room: &Arc<Room>, occupant: &Occupant) {
        room.unsaved.store(true, Ordering::Release);
        if self.bucket().is_none() || room.sync_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let (this, room, occupant) = (self.clone(), room.clone(), occupant.clone());
        self.tasks.spawn(async move {
            let waited = this.stop.run_until_cancelled(tokio::time::sleep(DEBOUNCE)).await;
            room.sync_scheduled.store(false, Ordering::Release);
            if waited.is_some() && this.rooms.is_live(&room.id) {
                // A failure is counted and logged by `sync`; if it persists, the sync at the end of the run reports it.
                let _ = match this.rooms.is_leased(&occupant.conversation) {
                    // The run goes on, and may change files at any moment.
                    true => this.sync(&room, &occupant, SyncDirection::Out).await,
                    false => this.save_all(&room, &occupant).await,
                };
            }
        });
    }

    /// Saves the files of a room in which nothing runs.
    async fn save_all(&self, room: &Room, occupant: &Occupant) -> Result<SyncReport, StorageError> {
        // First, because a client may change a file meanwhile.
        let unsaved = room.unsaved.swap(false, Ordering::AcqRel);
        let saved = self.sync(room, occupant, SyncDirection::Out).await;
        if unsaved && !saved.as_ref().is_ok_and(|done| done.skipped == 0) {
            room.unsaved.store(true, Ordering::Release);
        }
        saved
    }

    /// Saves the files of a room that is being released. A failure does not stop the release.
    pub(crate) async fn final_sync(&self, room: &Room) {
        let Some(occupant) = room.occupant() else { return };
        if let Err(error) = self.save_all(room, &occupant).await {
            let conversation = &occupant.conversation;
            tracing::error!(workspace = %room.id, conversation, %error, "files changed since the last sync are lost with the workspace");
        }
    }
}

impl Lease {
    /// Restores the conversation's stored files into the room, once per room. Does nothing if no bucket is configured.
    ///
    /// # Errors
    /// Not all files were restored; each restored file is complete.
    pub async fn restore_files(&self) -> Result<SyncReport, StorageError> {
        self.workspaces().sync(self.room(), self.occupant(), SyncDirection::In).await
    }

    /// Saves the room's files to the bucket. Does nothing if none is configured.
    ///
    /// # Errors
    /// Not all files were saved; each saved file is complete.
    pub async fn save_files(&self) -> Result<SyncReport, StorageError> {
        self.workspaces().save_all(self.room(), self.occupant()).await
    }

    /// Notes that files may have changed in the room and schedules saving them.
    pub fn files_changed(&self) {
        self.workspaces().schedule_sync(self.room(), self.occupant());
    }
}
