//! Adoption: this server takes over a room of a server, or of an earlier process, that has ended.

use std::sync::Arc;
use std::time::Duration;

use nagaya_protocol::ABANDONED_AFTER_SECS;
use nagaya_telemetry::audit::Event;

use crate::agent::Agent;
use crate::id::RoomId;
use crate::lifecycle::build::subject;
use crate::lifecycle::lease::{Lease, Origin};
use crate::lifecycle::started::watch_started;
use crate::peers::PeerRooms;
use crate::reason::ReleaseReason;
use crate::rooms::{Occupant, Opened, Room, RoomState};
use crate::session::Session;
use crate::state::{Record, StateError, WriteOutcome};
use crate::workspaces::Workspaces;

/// How long a room in which an execution runs is left to the server that may come back for it.
const LEFT_ALONE: Duration = Duration::from_secs(2 * ABANDONED_AFTER_SECS);

/// How long a living agent may take to dial the server that takes its room over, or looks into it.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// How long others may look into a room before this server does, or takes it.
const LOOK_DEADLINE: Duration = Duration::from_secs(12);

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
    pub(crate) async fn adopt_recorded(
        self: &Arc<Self>,
        id: &RoomId,
        record: &Record,
        others: &PeerRooms,
    ) -> Result<bool, StateError> {
        if record.retired {
            // Its release was interrupted. It must not serve another conversation, and its own may have another room.
            if self.claim(id, Some(record)).await? {
                self.release_unowned_in_background(id.clone(), ReleaseReason::Unfinished);
            }
            return Ok(false);
        }
        // Before the room is reserved: other servers must not hear that it is in this table.
        if *others != PeerRooms::NoPeers && self.runs_for_another(id).await {
            return Ok(false);
        }
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
        session: Option<Session>,
        adopt_as: AdoptAs,
    ) -> Result<Adoption, StateError> {
        let _incoming = self.rooms.reserve(id);
        let has_room = |occupant: &Occupant| self.rooms.of_conversation(&occupant.conversation).is_some();
        if self.rooms.contains(id) {
            return Ok(Adoption::OwnedElsewhere);
        }
        let record = match occupant.as_ref().is_some_and(has_room) {
            // A run has built the conversation a new room meanwhile.
            true => self.retired_record(id),
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
        let opened = match reopened {
            Ok(reopened) => reopened,
            Err(error) => {
                tracing::warn!(workspace = %id, %error, "a workspace of another server cannot be adopted and is released");
                if self.claim(id, Some(&record)).await? {
                    self.release_unowned_in_background(id.clone(), ReleaseReason::Orphan);
                }
                return Ok(Adoption::Unusable);
            }
        };
        let outdated = opened.agent.is_outdated();
        let started = session.as_ref().filter(|_| occupant.is_none()).and_then(|session| session.living.clone());
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased: adopt_as == AdoptAs::Leased && !outdated, session },
            None => RoomState::Pooled,
        };
        let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), Some(opened)));
        room.set_started(started);
        watch_started(&room);
        self.rooms.insert(room.clone(), state);
        let occupant = room.occupant();
        if let Some(occupant) = &occupant {
            self.assign(&room, occupant).await;
        }
        self.parts.audit.record(&Event::RoomAdopted { subject: subject(id, occupant.as_ref()) });
        if outdated && adopt_as == AdoptAs::Leased {
            // It is adopted only to save its files.
            if let Err(error) = self.release(id, ReleaseReason::Outdated).await {
                tracing::error!(workspace = %id, %error, "workspace not released; garbage collection tries again");
            }
            return Ok(Adoption::Unusable);
        }
        Ok(Adoption::Adopted(room))
    }

    /// The lease of a room that [`Workspaces::adopt`] has just adopted with [`AdoptAs::Leased`].
    #[must_use]
    pub fn lease_adopted(self: &Arc<Self>, room: Arc<Room>, occupant: Occupant, session: Option<Session>) -> Lease {
        Lease::new(self.clone(), room, occupant, Origin::Reused, session)
    }

    /// Whether an execution is running in a room that no server has, and the journal of its run is another server's: that server
    /// may come back and take the run up again, so the room is left alone. The agent cancels an execution to which no server has
    /// listened for a minute; a room that reports one for longer than twice that is not left alone any more.
    ///
    /// A room that does not answer is not taken for one: no run could be taken up there.
    pub async fn runs_for_another(&self, id: &RoomId) -> bool {
        if self.expected.lock().contains(id) {
            return false;
        }
        let runs = self.looks_busy(id).await;
        let mut running = self.running_elsewhere.lock();
        if !runs {
            running.remove(id);
            return false;
        }
        let now = self.parts.clock.now();
        let since = *running.entry(id.clone()).or_insert(now);
        now.duration_since(since) < LEFT_ALONE
    }

    /// Declares that a run of this server's journals is in a room: the next reconciliation may adopt the room although the run
    /// is still going on.
    pub fn expect_run_in(&self, workspace: &str) {
        self.expected.lock().extend(RoomId::parse(workspace));
    }

    /// Whether an execution runs in a room that no server has. Of one that a living server has, that server is to be asked.
    async fn looks_busy(&self, id: &RoomId) -> bool {
        let look = async {
            let dir = self.parts.sockets.open(id)?;
            let Some(_looking) = dir.look(LOOK_DEADLINE).await? else { return Ok(false) };
            let agent = Agent::open(dir, || {})?;
            let answer = tokio::time::timeout(DIAL_DEADLINE, async {
                agent.connected().await;
                agent.health().await
            });
            let answer = answer.await;
            agent.close().await;
            Ok::<_, std::io::Error>(answer.is_ok_and(|answer| answer.is_ok_and(|health| health.execution.is_some())))
        };
        look.await.unwrap_or_else(|error| {
            tracing::debug!(workspace = %id, %error, "cannot look into a workspace");
            false
        })
    }

    /// Listens on both sockets of a running room, and waits for its agent.
    async fn reopen(self: &Arc<Self>, id: &RoomId, occupant: Option<&Occupant>) -> std::io::Result<Opened> {
        let dir = self.parts.sockets.open(id)?;
        if !dir.take(LOOK_DEADLINE).await? {
            // Its record is this server's, so that process is stuck.
            tracing::warn!(workspace = %id, "another process still has the workspace locked; it is taken over nevertheless");
        }
        let uid = dir.uid().map(|uid| self.uids.keep(uid));
        let opened = self.open(id, dir, uid, occupant)?;
        let ready = tokio::time::timeout(DIAL_DEADLINE, async {
            opened.agent.connected().await;
            opened.agent.health().await
        });
        ready.await?.map_err(std::io::Error::other)?;
        Ok(opened)
    }
}
