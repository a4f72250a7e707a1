//! The table of this server's rooms. [`Rooms`] is its only owner; every change of state goes through it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nagaya_egress::Listener;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Agent, AgentError};
use crate::clock::Clock;
use crate::id::RoomId;
use crate::objects::SyncState;
use crate::session::{Living, Session};
use crate::spec::Variant;
use crate::uids::Uid;

/// How long a closing egress listener waits for its requests and tunnels.
pub(crate) const LISTENER_DEADLINE: Duration = Duration::from_secs(5);

/// The conversation that a room belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Id of the conversation.
    pub conversation: String,
    /// Id of the conversation's tenant.
    pub tenant: String,
}

/// What a room is reached by and runs as.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The room's agent.
    pub(crate) agent: Agent,
    /// The room's egress listener.
    pub(crate) listener: Listener,
    /// The room's user; `None` for a room of version 0.1.
    pub(crate) uid: Option<Uid>,
}

/// One room: its agent, its egress listener and the locks under which it is changed.
#[derive(Debug)]
pub struct Room {
    /// Id of the room.
    pub id: RoomId,
    /// Time at which the room was built or adopted.
    pub created_at: jiff::Timestamp,
    /// The agent; `None` for a room of an earlier process that is only released.
    agent: Option<Agent>,
    /// The room's user, which no other room gets as long as this one exists.
    _uid: Option<Uid>,
    /// What its container has of its own; `None` until the engine was asked about that of an adopted room.
    pub(crate) variant: OnceLock<Variant>,
    /// The egress listener; the release takes and closes it.
    pub(crate) listener: Mutex<Option<Listener>>,
    /// Held while the listener's policy is asked for and set.
    pub(crate) policy_turn: tokio::sync::Mutex<()>,
    /// Held during a release, so that a second release waits for the first, and while the record is written.
    pub(crate) teardown_lock: tokio::sync::Mutex<()>,
    /// What is known of the files in the room and in the bucket; held during a sync.
    pub(crate) files: tokio::sync::Mutex<SyncState>,
    /// Whether every stored file of the conversation has been brought into the room, as far as this process knows.
    has_stored_files: AtomicBool,
    /// Whether files may have changed in the room since they were last saved to the bucket.
    pub(crate) unsaved: AtomicBool,
    /// Whether the loss of the room has been noted.
    pub(crate) loss_noted: AtomicBool,
    /// The driver that was started in the room before it had a conversation, as long as no run has taken or ended it.
    started: Mutex<Option<Living>>,
    /// What notices that this driver has ended.
    started_watch: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Whether a sync is scheduled and has not begun.
    pub(crate) sync_scheduled: AtomicBool,
    /// The last occupant. The table drops it when the release begins; the final sync and the audit event still need it.
    occupant: Mutex<Option<Occupant>>,
}

impl Room {
    pub(crate) fn new(id: RoomId, created_at: jiff::Timestamp, opened: Option<Opened>) -> Self {
        let (agent, listener, uid) = match opened {
            Some(Opened { agent, listener, uid }) => (Some(agent), Some(listener), uid),
            None => (None, None, None),
        };
        Self {
            id,
            created_at,
            agent,
            _uid: uid,
            variant: OnceLock::new(),
            listener: Mutex::new(listener),
            policy_turn: tokio::sync::Mutex::default(),
            teardown_lock: tokio::sync::Mutex::default(),
            files: tokio::sync::Mutex::default(),
            has_stored_files: AtomicBool::default(),
            unsaved: AtomicBool::default(),
            loss_noted: AtomicBool::default(),
            started: Mutex::default(),
            started_watch: Mutex::default(),
            sync_scheduled: AtomicBool::default(),
            occupant: Mutex::default(),
        }
    }

    /// The room's agent.
    ///
    /// # Errors
    /// The room is only released.
    pub(crate) fn agent(&self) -> Result<&Agent, AgentError> {
        self.agent.as_ref().ok_or(AgentError::Gone)
    }

    /// Whether the room is one of version 0.1, which serves no further run.
    pub(crate) fn is_outdated(&self) -> bool {
        self.agent.as_ref().is_some_and(Agent::is_outdated)
    }

    /// Closes the egress listener if it is open, and waits up to `deadline` for its requests and tunnels.
    pub(crate) async fn close_listener(&self, deadline: Duration) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.stop(deadline).await;
        }
    }

    /// Leaves the room to the next server: closes its egress listener, and the connection of its agent.
    pub async fn leave(&self, deadline: Duration) {
        self.close_listener(deadline).await;
        if let Some(agent) = &self.agent {
            agent.close().await;
        }
    }

    /// Tells the egress listener whether a run is in progress, without which it passes on no request to a model.
    pub(crate) fn set_running(&self, running: bool) {
        if let Some(listener) = self.listener.lock().as_ref() {
            listener.running(running);
        }
    }

    /// The driver that was started in the room before it had a conversation, if it still waits.
    pub(crate) fn started(&self) -> Option<Living> {
        self.started.lock().clone()
    }

    pub(crate) fn set_started(&self, started: Option<Living>) {
        *self.started.lock() = started;
    }

    /// Keeps what watches that driver, until somebody takes the driver.
    pub(crate) fn set_started_watch(&self, watch: AbortOnDropHandle<()>) {
        *self.started_watch.lock() = Some(watch);
    }

    /// As [`Room::started`], and from now on there is none.
    pub(crate) fn take_started(&self) -> Option<Living> {
        let started = self.started.lock().take();
        drop(self.started_watch.lock().take());
        started
    }

    /// Whether every stored file of the conversation has been brought into the room.
    pub(crate) fn has_stored_files(&self) -> bool {
        self.has_stored_files.load(Ordering::Acquire)
    }

    pub(crate) fn set_has_stored_files(&self) {
        self.has_stored_files.store(true, Ordering::Release);
    }

    /// The conversation that the room belongs to, or last belonged to.
    pub(crate) fn occupant(&self) -> Option<Occupant> {
        self.occupant.lock().clone()
    }
}

/// State of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomState {
    /// It is being built.
    Starting,
    /// It is in the warm pool.
    Pooled,
    /// It belongs to a conversation.
    Bound {
        /// The conversation, with its tenant.
        occupant: Occupant,
        /// Whether a run holds the lease.
        leased: bool,
        /// The driver's session that the last run left.
        session: Option<Session>,
    },
    /// It is being released.
    Releasing,
}

impl RoomState {
    /// The name of the state in API responses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Pooled => "pooled",
            Self::Bound { leased: true, .. } => "running",
            Self::Bound { leased: false, .. } => "idle",
            Self::Releasing => "releasing",
        }
    }
}

/// A room as listed from the table.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The room.
    pub room: Arc<Room>,
    /// State of the room.
    pub state: RoomState,
    /// Time of the last use or change of state.
    pub last_used: Instant,
}

/// Response to another server that requests a conversation's room.
#[derive(Debug)]
pub enum Handover {
    /// The conversation has no room here.
    NoRoom,
    /// A run holds the lease.
    Busy,
    /// The room and its driver's session. It is no longer in this server's table.
    Room(Arc<Room>, Option<Session>),
}

/// The table of rooms.
#[derive(Debug, Default)]
pub struct Rooms {
    table: Mutex<Table>,
    /// Rooms that are about to be added to the table.
    incoming: Mutex<HashSet<RoomId>>,
    clock: Clock,
}

/// Marks a room as this server's until it is in the table; dropping it removes the mark.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    rooms: &'a Rooms,
    id: RoomId,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.rooms.incoming.lock().remove(&self.id);
    }
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<RoomId, Entry>,
    by_conversation: HashMap<String, RoomId>,
    pool: VecDeque<RoomId>,
}

impl Rooms {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { table: Mutex::default(), incoming: Mutex::default(), clock }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Marks a room as this server's before it is in the table, so that neither other servers nor garbage collection treat its
    /// directory or container as abandoned.
    pub(crate) fn reserve(&self, id: &RoomId) -> Incoming<'_> {
        self.incoming.lock().insert(id.clone());
        Incoming { rooms: self, id: id.clone() }
    }

    /// Whether a room is in the table or about to be added to it.
    pub(crate) fn is_own(&self, id: &RoomId) -> bool {
        // In this order: a room is added to the table before its mark is removed.
        let incoming = self.incoming.lock().contains(id);
        incoming || self.contains(id)
    }

    /// Ids of all rooms that are in the table or about to be added to it.
    #[must_use]
    pub fn own_ids(&self) -> Vec<RoomId> {
        let incoming = self.incoming.lock().clone();
        self.all().into_iter().map(|entry| entry.room.id.clone()).chain(incoming).collect()
    }

    pub(crate) fn insert(&self, room: Arc<Room>, state: RoomState) {
        let id = room.id.clone();
        let mut table = self.table();
        table.entries.insert(id.clone(), Entry { room, state: RoomState::Starting, last_used: self.clock.now() });
        table.set(&id, state, self.clock.now());
    }

    /// Adds a room that is being built, unless the table already has `limit` rooms; 0 means no limit. Returns whether it was added.
    pub(crate) fn insert_within(&self, room: Arc<Room>, limit: usize) -> bool {
        let mut table = self.table();
        if limit > 0 && table.entries.len() >= limit {
            return false;
        }
        let entry = Entry { room: room.clone(), state: RoomState::Starting, last_used: self.clock.now() };
        table.entries.insert(room.id.clone(), entry);
        true
    }

    /// Whether a room is in the table and not being released.
    pub(crate) fn is_live(&self, id: &RoomId) -> bool {
        self.table().entries.get(id).is_some_and(|entry| entry.state != RoomState::Releasing)
    }

    /// Whether a room is in the warm pool.
    pub(crate) fn is_pooled(&self, id: &RoomId) -> bool {
        self.table().entries.get(id).is_some_and(|entry| entry.state == RoomState::Pooled)
    }

    /// Number of rooms in any state.
    pub(crate) fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Moves a room to a new state unless it is being released; returns whether it did.
    pub(crate) fn advance(&self, id: &RoomId, state: RoomState) -> bool {
        let mut table = self.table();
        let open = table.entries.get(id).is_some_and(|entry| entry.state != RoomState::Releasing);
        if open {
            table.set(id, state, self.clock.now());
        }
        open
    }

    /// Takes the oldest room out of the pool and binds it to `occupant`, leased.
    pub(crate) fn lease_pooled(&self, occupant: &Occupant) -> Option<Arc<Room>> {
        let mut table = self.table();
        let id = table.pool.pop_front()?;
        let state = RoomState::Bound { occupant: occupant.clone(), leased: true, session: None };
        table.set(&id, state, self.clock.now());
        table.entries.get(&id).map(|entry| entry.room.clone())
    }

    /// Leases a conversation's room to the caller and returns it with its driver's session; `None` if the conversation has none or it is
    /// leased.
    pub(crate) fn lease_bound(&self, conversation: &str) -> Option<(Arc<Room>, Option<Session>)> {
        let mut table = self.table();
        let id = table.by_conversation.get(conversation)?.clone();
        let entry = table.entries.get_mut(&id)?;
        let RoomState::Bound { leased, session, .. } = &mut entry.state else { return None };
        if std::mem::replace(leased, true) {
            return None;
        }
        Some((entry.room.clone(), session.clone()))
    }

    /// The room of a conversation, leased or not. Resets its idle time.
    #[must_use]
    pub fn touch_room_of(&self, conversation: &str) -> Option<Arc<Room>> {
        let mut table = self.table();
        let id = table.by_conversation.get(conversation)?.clone();
        let now = self.clock.now();
        let entry = table.entries.get_mut(&id)?;
        entry.last_used = now;
        Some(entry.room.clone())
    }

    /// Ends a lease and stores the driver's session that the run left, if any.
    pub(crate) fn end_lease(&self, id: &RoomId, new_session: Option<Session>) {
        let mut table = self.table();
        if let Some(entry) = table.entries.get_mut(id) {
            entry.last_used = self.clock.now();
            if let RoomState::Bound { leased, session, .. } = &mut entry.state {
                *leased = false;
                if new_session.is_some() {
                    *session = new_session;
                }
            }
        }
    }

    /// Number of drivers that wait for a conversation.
    pub(crate) fn started(&self) -> usize {
        self.table().started()
    }

    /// The drivers that wait for another turn, beyond the `most` that were used last, with those that wait for a conversation: each with
    /// its room. They no longer count as waiting.
    pub(crate) fn take_surplus_drivers(&self, most: usize) -> Vec<(Arc<Room>, Living)> {
        let mut table = self.table();
        let waiting = |entry: &Entry| match &entry.state {
            RoomState::Bound { leased: false, session: Some(session), .. } => session.living.is_some(),
            _ => false,
        };
        let mut found: Vec<(Instant, RoomId)> = table
            .entries
            .iter()
            .filter(|(_, entry)| waiting(entry))
            .map(|(id, entry)| (entry.last_used, id.clone()))
            .collect();
        let most = most.saturating_sub(table.started());
        let Some(surplus) = found.len().checked_sub(most).filter(|surplus| *surplus > 0) else { return Vec::new() };
        found.sort_unstable_by_key(|(last_used, _)| *last_used);
        let mut taken = Vec::new();
        for (_, id) in found.into_iter().take(surplus) {
            if let Some(entry) = table.entries.get_mut(&id)
                && let RoomState::Bound { session: Some(session), .. } = &mut entry.state
                && let Some(living) = session.living.take()
            {
                taken.push((entry.room.clone(), living));
            }
        }
        taken
    }

    /// Whether a run holds the lease of the conversation's room.
    #[must_use]
    pub fn is_leased(&self, conversation: &str) -> bool {
        let table = self.table();
        let entry = table.by_conversation.get(conversation).and_then(|id| table.entries.get(id));
        entry.is_some_and(|entry| matches!(entry.state, RoomState::Bound { leased: true, .. }))
    }

    /// Removes the conversation's room from the table so that another server can adopt it, unless a run holds its lease.
    pub fn hand_over(&self, conversation: &str) -> Handover {
        let mut table = self.table();
        let Some(id) = table.by_conversation.get(conversation).cloned() else { return Handover::NoRoom };
        let found = table.entries.get(&id).map(|entry| (entry.room.clone(), entry.state.clone()));
        let Some((room, RoomState::Bound { leased: false, session, .. })) = found else { return Handover::Busy };
        table.unlink(&id);
        table.entries.remove(&id);
        Handover::Room(room, session)
    }

    /// Occupant and session to write to a room's record; `None` if it is being built or released.
    pub(crate) fn record_fields(&self, id: &RoomId) -> Option<(Option<Occupant>, Option<Session>)> {
        let table = self.table();
        let entry = table.entries.get(id)?;
        match &entry.state {
            RoomState::Starting | RoomState::Releasing => None,
            RoomState::Pooled => Some((None, entry.room.started().map(Session::of_nobody))),
            RoomState::Bound { occupant, session, .. } => Some((Some(occupant.clone()), session.clone())),
        }
    }

    /// As [`Rooms::begin_release`], but only if the room is unchanged since `seen`; returns whether it was.
    pub(crate) fn begin_release_if_unchanged(&self, seen: &Entry) -> bool {
        let mut table = self.table();
        let id = &seen.room.id;
        let same = |now: &Entry| now.state == seen.state && now.last_used == seen.last_used;
        let unchanged = table.entries.get(id).is_some_and(same);
        if unchanged {
            table.set(id, RoomState::Releasing, self.clock.now());
        }
        unchanged
    }

    /// Begins the release of a room: it is no longer found by conversation or in the pool. `None` if it is not in the table.
    pub(crate) fn begin_release(&self, id: &RoomId) -> Option<Arc<Room>> {
        let mut table = self.table();
        table.set(id, RoomState::Releasing, self.clock.now());
        table.entries.get(id).map(|entry| entry.room.clone())
    }

    /// Adds a room of an earlier process, whose record this server has claimed, to the table and begins its release. From the table,
    /// garbage collection repeats an interrupted release.
    pub(crate) fn begin_release_unowned(&self, id: &RoomId) -> Arc<Room> {
        let mut table = self.table();
        if !table.entries.contains_key(id) {
            let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), None));
            table.entries.insert(id.clone(), Entry { room, state: RoomState::Releasing, last_used: self.clock.now() });
        }
        table.set(id, RoomState::Releasing, self.clock.now());
        table.entries[id].room.clone()
    }

    /// Removes a released room from the table.
    pub(crate) fn remove(&self, id: &RoomId) {
        let mut table = self.table();
        table.unlink(id);
        table.entries.remove(id);
    }

    /// Whether a room is in the table.
    #[must_use]
    pub fn contains(&self, id: &RoomId) -> bool {
        self.table().entries.contains_key(id)
    }

    /// Id of the conversation's room, leased or not.
    #[must_use]
    pub fn of_conversation(&self, conversation: &str) -> Option<RoomId> {
        self.table().by_conversation.get(conversation).cloned()
    }

    /// A snapshot of all rooms.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.table().entries.values().cloned().collect()
    }

    /// Number of rooms in the warm pool.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.table().pool.len()
    }

    /// The newest rooms in the pool, beyond the first `keep`.
    pub(crate) fn surplus(&self, keep: usize) -> Vec<RoomId> {
        self.table().pool.iter().skip(keep).cloned().collect()
    }
}

impl Table {
    fn started(&self) -> usize {
        self.entries.values().filter(|entry| entry.room.started.lock().is_some()).count()
    }

    /// Changes a room's state together with the index by conversation and the pool. No other code changes them.
    fn set(&mut self, id: &RoomId, state: RoomState, now: Instant) {
        self.unlink(id);
        let Some(entry) = self.entries.get_mut(id) else { return };
        match &state {
            RoomState::Pooled => self.pool.push_back(id.clone()),
            RoomState::Bound { occupant, .. } => {
                self.by_conversation.insert(occupant.conversation.clone(), id.clone());
                *entry.room.occupant.lock() = Some(occupant.clone());
            }
            RoomState::Starting | RoomState::Releasing => {}
        }
        entry.state = state;
        entry.last_used = now;
    }

    fn unlink(&mut self, id: &RoomId) {
        self.pool.retain(|pooled| pooled != id);
        if let Some(Entry { state: RoomState::Bound { occupant, .. }, .. }) = self.entries.get(id)
            && self.by_conversation.get(&occupant.conversation) == Some(id)
        {
            self.by_conversation.remove(&occupant.conversation);
        }
    }
}

#[cfg(test)]
mod tests;
