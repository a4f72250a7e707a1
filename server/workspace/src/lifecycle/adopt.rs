//! Adoption: this server takes over a room of a server, or of an earlier process, that has ended.

use std::sync::Arc;

use nagaya_egress::Listener;
use nagaya_telemetry::audit::Event;

use crate::agent;
use crate::directory::RoomDir;
use crate::id::RoomId;
use crate::lifecycle::build::subject;
use crate::lifecycle::lease::{Lease, Origin};
use crate::reason::ReleaseReason;
use crate::rooms::{Occupant, Room, RoomState};
use crate::state::{Record, StateError, WriteOutcome};
use crate::workspaces::Workspaces;

/// The outcome of an adoption.
#[derive(Debug)]
pub enum Adoption {
    /// The room is in this server's table.
    Adopted(Arc<Room>),
    /// The room cannot be used; this server releases it.
    Unusable,
    /// Another server owns the room.
    OwnedElsewhere,
}

/// Whether an adopted room is leased from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptAs {
    /// Leased to the caller, which is about to start a run in it.
    Leased,
    /// Not leased.
    Idle,
}

impl Workspaces {
    /// Adopts a running room that is in no server's table, with the occupant and session of its record; `false` if the room was not
    /// adopted.
    pub(crate) async fn adopt_recorded(self: &Arc<Self>, id: &RoomId, record: &Record) -> Result<bool, StateError> {
        let occupant = record.occupant.clone().map(|(conversation, tenant)| Occupant { conversation, tenant });
        // Under the conversation's lock, so that a run which looks for the room finds it either complete or not at all.
        let _turn = match &occupant {
            Some(occupant) => Some(self.lock_conversation(&occupant.conversation).await),
            None => None,
        };
        let adoption = self.adopt(id, Some(record), occupant, record.session.clone(), AdoptAs::Idle).await?;
        self.pool_changed.notify_one();
        Ok(matches!(adoption, Adoption::Adopted(_)))
    }

    /// Claims a room that is in no server's table, reopens its egress listener and adds it to the table. A room that cannot be used
    /// is released.
    ///
    /// # Errors
    /// The shared state does not answer.
    pub async fn adopt(
        self: &Arc<Self>,
        id: &RoomId,
        old: Option<&Record>,
        occupant: Option<Occupant>,
        session: Option<String>,
        adopt_as: AdoptAs,
    ) -> Result<Adoption, StateError> {
        let _incoming = self.rooms.reserve(id);
        let has_room = |occupant: &Occupant| self.rooms.of_conversation(&occupant.conversation).is_some();
        if self.rooms.contains(id) {
            return Ok(Adoption::OwnedElsewhere);
        }
        let record = match occupant.as_ref().is_some_and(has_room) {
            // A run has built the conversation a new room meanwhile.
            true => self.record_for(id, None, None),
            false => self.record_for(id, occupant.as_ref(), session.clone()),
        };
        match self.parts.state.compare_and_set(id.as_str(), old, Some(&record)).await? {
            WriteOutcome::Conflict => return Ok(Adoption::OwnedElsewhere),
            WriteOutcome::ConversationTaken => {
                if self.claim(id, old).await? {
                    self.release_unowned_in_background(id.clone(), ReleaseReason::Orphan);
                }
                return Ok(Adoption::Unusable);
            }
            WriteOutcome::Written => {}
        }
        let reopened = match record.occupant.is_none() && occupant.is_some() {
            true => Err(std::io::Error::other("its conversation has another workspace")),
            false => self.reopen(id, occupant.as_ref()).await,
        };
        let (dir, listener) = match reopened {
            Ok(reopened) => reopened,
            Err(error) => {
                tracing::warn!(workspace = %id, %error, "a workspace of another server cannot be adopted and is released");
                if self.claim(id, Some(&record)).await? {
                    self.release_unowned_in_background(id.clone(), ReleaseReason::Orphan);
                }
                return Ok(Adoption::Unusable);
            }
        };
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased: adopt_as == AdoptAs::Leased, session },
            None => RoomState::Pooled,
        };
        let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), Some(dir), Some(listener)));
        self.rooms.insert(room.clone(), state);
        let occupant = room.occupant();
        self.parts.audit.record(&Event::RoomAdopted { subject: subject(id, occupant.as_ref()) });
        Ok(Adoption::Adopted(room))
    }

    /// The lease of a room that [`Workspaces::adopt`] has just adopted with [`AdoptAs::Leased`].
    #[must_use]
    pub fn lease_adopted(self: &Arc<Self>, room: Arc<Room>, occupant: Occupant, session: Option<String>) -> Lease {
        Lease::new(self.clone(), room, occupant, Origin::Reused, session)
    }

    /// Opens the directory and the egress listener of a running room.
    async fn reopen(&self, id: &RoomId, occupant: Option<&Occupant>) -> std::io::Result<(RoomDir, Listener)> {
        let dir = self.parts.sockets.open(id)?;
        agent::health(&dir).await.map_err(std::io::Error::other)?;
        let listener = self.open_listener(id, &dir, occupant)?;
        Ok((dir, listener))
    }
}
