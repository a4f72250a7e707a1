//! The rooms this server knows: one table, one owner.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nagaya_egress::Listener;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::Clock;
use crate::directory::RoomDir;
use crate::id::RoomId;
use crate::objects::SyncState;

/// How long requests and tunnels of an egress listener get to end.
pub(crate) const LISTENER_DEADLINE: Duration = Duration::from_secs(5);

/// Whose a room is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// The conversation in it.
    pub conversation: String,
    /// The conversation's tenant.
    pub tenant: String,
}

/// One room.
#[derive(Debug)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// Its socket directory; `None` for what an earlier server left and nobody will enter again.
    pub(crate) dir: Option<RoomDir>,
    /// Its way out; taken by the release.
    pub(crate) listener: Mutex<Option<Listener>>,
    /// Held while the room is taken down: a second release waits for the first.
    pub(crate) teardown_lock: tokio::sync::Mutex<()>,
    /// What is known of its files and the bucket's; held while they are made the same.
    pub(crate) files: tokio::sync::Mutex<SyncState>,
    /// Whether a sync is about to begin.
    pub(crate) sync_scheduled: AtomicBool,
    /// Whose it is or was: the table forgets that when its release begins, the release and the audit trail must not.
    occupant: Mutex<Option<Occupant>>,
}

impl Room {
    pub(crate) fn new(
        id: RoomId,
        created_at: jiff::Timestamp,
        dir: Option<RoomDir>,
        listener: Option<Listener>,
    ) -> Self {
        Self {
            id,
            created_at,
            dir,
            listener: Mutex::new(listener),
            teardown_lock: tokio::sync::Mutex::default(),
            files: tokio::sync::Mutex::default(),
            sync_scheduled: AtomicBool::default(),
            occupant: Mutex::default(),
        }
    }

    /// Closes its egress listener, if it is open. Requests and tunnels get `deadline` to end.
    pub async fn close_listener(&self, deadline: Duration) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.stop(deadline).await;
        }
    }

    /// The conversation that it belongs or belonged to.
    pub(crate) fn occupant(&self) -> Option<Occupant> {
        self.occupant.lock().clone()
    }
}

/// What a room is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomState {
    /// It is being made.
    Starting,
    /// It waits for a conversation.
    Pooled,
    /// It belongs to a conversation.
    Bound {
        /// Whose.
        occupant: Occupant,
        /// Whether a run is in it.
        leased: bool,
        /// Driver's session that its last run left.
        session: Option<String>,
    },
    /// It is being taken down.
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

/// A room as it is listed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The room.
    pub room: Arc<Room>,
    /// What it is doing.
    pub state: RoomState,
    /// When it was last used.
    pub last_used: Instant,
}

/// Answer to another server that asks for a conversation's room.
#[derive(Debug)]
pub enum Handover {
    /// The conversation has no room here.
    NoRoom,
    /// A run is in the room.
    Busy,
    /// The room, with its driver's session; it is no longer in this server's table.
    Room(Arc<Room>, Option<String>),
}

/// All rooms.
#[derive(Debug, Default)]
pub struct Rooms {
    table: Mutex<Table>,
    /// Rooms that are about to be added to the table.
    incoming: Mutex<HashSet<RoomId>>,
    clock: Clock,
}

/// Marks a room as this server's until it is in the table.
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

    /// Marks a room as this server's before it is in the table, where other servers and our own garbage collection look.
    pub(crate) fn reserve(&self, id: &RoomId) -> Incoming<'_> {
        self.incoming.lock().insert(id.clone());
        Incoming { rooms: self, id: id.clone() }
    }

    /// Whether a room is this server's, or is about to be: nobody else is to judge what exists of it so far.
    pub(crate) fn is_own(&self, id: &RoomId) -> bool {
        // In this order: an announced room is in the table before it is announced no more.
        let incoming = self.incoming.lock().contains(id);
        incoming || self.contains(id)
    }

    /// Every room that is this server's, or is about to be.
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

    /// Takes in a room that is being made, unless there are already `most`; 0 is no limit.
    pub(crate) fn insert_within(&self, room: Arc<Room>, most: usize) -> bool {
        let mut table = self.table();
        if most > 0 && table.entries.len() >= most {
            return false;
        }
        let entry = Entry { room: room.clone(), state: RoomState::Starting, last_used: self.clock.now() };
        table.entries.insert(room.id.clone(), entry);
        true
    }

    /// Whether a room is known and nobody takes it down.
    pub(crate) fn is_live(&self, id: &RoomId) -> bool {
        self.table().entries.get(id).is_some_and(|entry| entry.state != RoomState::Releasing)
    }

    /// Whether a room waits for a conversation.
    pub(crate) fn is_pooled(&self, id: &RoomId) -> bool {
        self.table().entries.get(id).is_some_and(|entry| entry.state == RoomState::Pooled)
    }

    /// How many rooms there are, whatever they do.
    pub(crate) fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Moves a room to a new state, unless it is being taken down; says whether it did.
    pub(crate) fn advance(&self, id: &RoomId, state: RoomState) -> bool {
        let mut table = self.table();
        let open = table.entries.get(id).is_some_and(|entry| entry.state != RoomState::Releasing);
        if open {
            table.set(id, state, self.clock.now());
        }
        open
    }

    /// Takes the longest-waiting room out of the pool and gives it to `occupant`, leased.
    pub(crate) fn lease_pooled(&self, occupant: &Occupant) -> Option<Arc<Room>> {
        let mut table = self.table();
        let id = table.pool.pop_front()?;
        let state = RoomState::Bound { occupant: occupant.clone(), leased: true, session: None };
        table.set(&id, state, self.clock.now());
        table.entries.get(&id).map(|entry| entry.room.clone())
    }

    /// The room of a conversation with its session, leased to the caller; `None` where there is none or a run is in it.
    pub(crate) fn lease_bound(&self, conversation: &str) -> Option<(Arc<Room>, Option<String>)> {
        let mut table = self.table();
        let id = table.by_conversation.get(conversation)?.clone();
        let entry = table.entries.get_mut(&id)?;
        let RoomState::Bound { leased, session, .. } = &mut entry.state else { return None };
        if std::mem::replace(leased, true) {
            return None;
        }
        Some((entry.room.clone(), session.clone()))
    }

    /// The room of a conversation, whether or not it is leased; it counts as used.
    #[must_use]
    pub fn touch_room_of(&self, conversation: &str) -> Option<Arc<Room>> {
        let mut table = self.table();
        let id = table.by_conversation.get(conversation)?.clone();
        let now = self.clock.now();
        let entry = table.entries.get_mut(&id)?;
        entry.last_used = now;
        Some(entry.room.clone())
    }

    /// Ends a lease, keeping the session the run left.
    pub(crate) fn end_lease(&self, id: &RoomId, new_session: Option<String>) {
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

    /// Whether a run is in the conversation's room.
    #[must_use]
    pub fn is_leased(&self, conversation: &str) -> bool {
        let table = self.table();
        let entry = table.by_conversation.get(conversation).and_then(|id| table.entries.get(id));
        entry.is_some_and(|entry| matches!(entry.state, RoomState::Bound { leased: true, .. }))
    }

    /// Forgets the conversation's room for another server to have, unless something runs in it.
    pub fn hand_over(&self, conversation: &str) -> Handover {
        let mut table = self.table();
        let Some(id) = table.by_conversation.get(conversation).cloned() else { return Handover::NoRoom };
        let found = table.entries.get(&id).map(|entry| (entry.room.clone(), entry.state.clone()));
        let Some((room, RoomState::Bound { leased: false, session, .. })) = found else { return Handover::Busy };
        table.unlink(&id);
        table.entries.remove(&id);
        Handover::Room(room, session)
    }

    /// Occupant and session to be recorded of a room; `None` where it is being made or taken down.
    pub(crate) fn as_recorded(&self, id: &RoomId) -> Option<(Option<Occupant>, Option<String>)> {
        match &self.table().entries.get(id)?.state {
            RoomState::Starting | RoomState::Releasing => None,
            RoomState::Pooled => Some((None, None)),
            RoomState::Bound { occupant, session, .. } => Some((Some(occupant.clone()), session.clone())),
        }
    }

    /// As [`Rooms::begin_release`], if nothing has happened to the room since `seen`; says so.
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

    /// Begins to take a room down: from here on nobody finds it by conversation or in the pool. `None`
    /// where it is not this server's.
    pub(crate) fn begin_release(&self, id: &RoomId) -> Option<Arc<Room>> {
        let mut table = self.table();
        table.set(id, RoomState::Releasing, self.clock.now());
        table.entries.get(id).map(|entry| entry.room.clone())
    }

    /// The same for a room that somebody left and this server has claimed: it becomes known, so that the work is not lost
    /// if it is cut off.
    pub(crate) fn begin_release_unowned(&self, id: &RoomId) -> Arc<Room> {
        let mut table = self.table();
        if !table.entries.contains_key(id) {
            let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), None, None));
            table.entries.insert(id.clone(), Entry { room, state: RoomState::Releasing, last_used: self.clock.now() });
        }
        table.set(id, RoomState::Releasing, self.clock.now());
        table.entries[id].room.clone()
    }

    /// Forgets a room that is gone.
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

    /// The room of a conversation, whatever it is doing.
    #[must_use]
    pub fn of_conversation(&self, conversation: &str) -> Option<RoomId> {
        self.table().by_conversation.get(conversation).cloned()
    }

    /// All rooms as they are now.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.table().entries.values().cloned().collect()
    }

    /// Rooms that wait for a conversation.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.table().pool.len()
    }

    /// The newest rooms in the pool beyond `keep`.
    pub(crate) fn surplus(&self, keep: usize) -> Vec<RoomId> {
        self.table().pool.iter().skip(keep).cloned().collect()
    }
}

impl Table {
    /// The one place where state, reverse look-up and pool change, together.
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
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_released_only_if_nothing_has_happened_since() {
        let rooms = Rooms::new(Clock::default());
        let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None, None));
        rooms.insert(room.clone(), RoomState::Bound { occupant, leased: false, session: None });
        let seen = |rooms: &Rooms| rooms.all().pop().expect("a room");
        let idle = seen(&rooms);
        rooms.lease_bound("c").expect("a lease");
        assert!(!rooms.begin_release_if_unchanged(&idle), "a run has come in");
        rooms.end_lease(&room.id, None);
        assert!(!rooms.begin_release_if_unchanged(&idle), "a run has come and gone");
        assert!(rooms.begin_release_if_unchanged(&seen(&rooms)));
        assert!(!rooms.is_live(&room.id));
        rooms.remove(&room.id);
        assert!(!rooms.begin_release_if_unchanged(&idle) && !rooms.contains(&room.id), "another server has it");
    }

    #[test]
    fn a_room_is_given_up_only_if_nothing_runs_in_it() {
        let rooms = Rooms::new(Clock::default());
        assert!(matches!(rooms.hand_over("c"), Handover::NoRoom));
        let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None, None));
        rooms.insert(room.clone(), RoomState::Bound { occupant, leased: true, session: Some("s".into()) });
        assert!(matches!(rooms.hand_over("c"), Handover::Busy) && rooms.is_leased("c"));
        rooms.end_lease(&room.id, None);
        assert!(matches!(rooms.hand_over("c"), Handover::Room(_, Some(session)) if session == "s"));
        assert!(!rooms.contains(&room.id) && rooms.of_conversation("c").is_none());
    }
}
