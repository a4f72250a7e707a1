//! Rooms among several servers: whose a room is, how it changes its server, and what is kept in shared state.
//!
//! A living server's table says which rooms are its own. Records say whose the rooms of the dead were. Nobody touches a room
//! that is not in its table before having claimed its record by compare-and-set, be it to adopt it or to take it down.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;

use super::Workspaces;
use super::acquire::AcquireError;
use super::id::RoomId;
use super::lease::{Lease, Origin};
use super::peers::{self, Answer, Handed, PeerError, Question};
use super::reconcile::Adoption;
use super::release::{self, ReleaseError, Why};
use super::room::{Occupant, Yielded};
use crate::state::{Record, StateError, Swap};

/// How long a conversation is held for a run that was admitted and is about to ask for its room.
const ADMITTED: Duration = Duration::from_secs(10);
/// How long it is held while its room is looked for or made: longer than that ever takes. Who dies holding it is found out.
const HELD: Duration = Duration::from_secs(120);
/// How often a room that changes its server at this very moment is looked for again.
const LOOKS: usize = 3;

impl Workspaces {
    /// Answers the other servers until this one leaves.
    pub(super) async fn answer_peers(self: Arc<Self>, listener: UnixListener) {
        loop {
            match self.door.run_until_cancelled(listener.accept()).await {
                None => break,
                Some(Ok((stream, _))) => {
                    let this = self.clone();
                    self.doors.spawn(peers::serve(stream, async move |question| this.answer(question).await));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "another server's question");
                    // Out of descriptors, most likely: that passes, and asking again at once does not help it.
                    self.door.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await;
                }
            }
        }
        self.parts.peers.leave();
    }

    async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Rooms => Answer::Rooms(self.own_rooms()),
            Question::Runs(conversation) | Question::HandOver(conversation) if self.is_getting(&conversation) => {
                Answer::Busy
            }
            Question::Runs(conversation) => match self.rooms.is_leased(&conversation) {
                true => Answer::Busy,
                false => Answer::No,
            },
            Question::HandOver(conversation) => match self.rooms.give_up(&conversation) {
                Yielded::Nothing => Answer::No,
                Yielded::Busy => Answer::Busy,
                Yielded::Room(room, session) => {
                    release::stop_listener(&room, Duration::ZERO).await;
                    tracing::info!(workspace = %room.id, "room handed over to another server");
                    Answer::Handed(Handed { workspace: room.id.to_string(), session })
                }
            },
        }
    }

    /// Whether a room for the conversation is just being looked for or made here.
    fn is_getting(&self, conversation: &str) -> bool {
        self.getting.lock().unwrap_or_else(PoisonError::into_inner).contains(conversation)
    }

    fn own_rooms(&self) -> Vec<String> {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rooms = self.rooms.all().into_iter().map(|entry| entry.room.id.clone());
        rooms.chain(incoming).map(|id| id.to_string()).collect()
    }

    /// Whether a room is this server's, or is about to be: nobody else is to judge what is there of it so far.
    pub(super) fn is_own(&self, id: &RoomId) -> bool {
        // In this order: what was announced stands in the table before it is announced no more.
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
        incoming || self.rooms.contains(id)
    }

    /// Rooms of the other living servers.
    pub(super) async fn foreign(&self) -> Result<HashSet<RoomId>, PeerError> {
        let answers = self.parts.peers.ask(&Question::Rooms).await?;
        let rooms = answers.into_iter().filter_map(|answer| match answer {
            Answer::Rooms(rooms) => Some(rooms),
            _ => None,
        });
        Ok(rooms.flatten().filter_map(|id| RoomId::parse(&id)).collect())
    }

    /// Makes known that a room is this server's before it stands in the table.
    pub(super) fn announce(&self, id: &RoomId) -> Incoming<'_> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Incoming { workspaces: self, id: id.clone() }
    }

    /// Makes a room that is in nobody's table this server's, to be taken down; `false` where somebody was quicker.
    pub(super) async fn claim(&self, id: &RoomId, old: Option<&Record>) -> Result<bool, StateError> {
        let claimed = self.record_for(id, None, None);
        Ok(self.parts.state.swap(id.as_str(), old, Some(&claimed)).await? == Swap::Done)
    }

    pub(super) fn record_for(&self, id: &RoomId, occupant: Option<&Occupant>, session: Option<String>) -> Record {
        Record {
            workspace: id.to_string(),
            occupant: occupant.map(|o| (o.conversation.clone(), o.tenant.clone())),
            session,
            owner: self.parts.peers.id().to_owned(),
        }
    }

    /// Whether a room of the conversation may be looked for elsewhere than in the table.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        !self.parts.peers.is_alone() || !self.is_reconciled()
    }

    /// Holds a conversation against the other servers; [`AcquireError::Busy`] where one of them holds it.
    async fn hold(&self, conversation: &str, ttl: Duration) -> Result<(), AcquireError> {
        let (state, me) = (&self.parts.state, self.parts.peers.id());
        let Some(holder) = state.lock(conversation, me, None, ttl).await? else { return Ok(()) };
        if self.parts.peers.lives(&holder).await? {
            return Err(AcquireError::Busy);
        }
        match state.lock(conversation, me, Some(&holder), ttl).await? {
            None => Ok(()),
            Some(_) => Err(AcquireError::Busy),
        }
    }

    async fn let_go(&self, conversation: &str) {
        if let Err(error) = self.parts.state.unlock(conversation, self.parts.peers.id()).await {
            tracing::warn!(%error, conversation, "a conversation's lock is left to end by itself");
        }
    }

    /// Asks for a conversation among all servers: nobody else gets it a room, or a run, until it has one here.
    pub(super) async fn admit_among(&self, conversation: &str) -> Result<(), AcquireError> {
        if self.parts.peers.is_alone() {
            return Ok(());
        }
        self.hold(conversation, ADMITTED).await?;
        let answers = self.parts.peers.ask(&Question::Runs(conversation.to_owned())).await;
        let refused = match answers {
            Ok(answers) if answers.iter().any(|answer| matches!(answer, Answer::Busy)) => Err(AcquireError::Busy),
            other => other.map(drop).map_err(Into::into),
        };
        if refused.is_err() {
            self.let_go(conversation).await;
        }
        refused
    }

    /// Does the work that gets a conversation its room while no other server does.
    pub(super) async fn while_held<T>(
        &self,
        conversation: &str,
        work: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, AcquireError> {
        if self.parts.peers.is_alone() {
            return work.await;
        }
        self.hold(conversation, HELD).await?;
        let getting = Getting::new(self, conversation);
        let done = work.await;
        drop(getting);
        self.let_go(conversation).await;
        done
    }

    /// The room the conversation has with another server, or had with one that died, leased.
    pub(super) async fn fetch(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        if !self.may_be_elsewhere() {
            return Ok(None);
        }
        for _ in 0..LOOKS {
            let Some(Found { id, old, session }) = self.find(&occupant.conversation).await? else { return Ok(None) };
            match self.adopt(&id, old.as_ref(), Some(occupant.clone()), session.clone(), true).await? {
                Adoption::Done(room) => {
                    return Ok(Some(Lease::new(self.clone(), room, occupant.clone(), Origin::Reused, session)));
                }
                Adoption::Unfit => return Ok(None),
                Adoption::Lost => {}
            }
        }
        Err(AcquireError::Busy)
    }

    /// A conversation's room that is in no table, or has just been handed over.
    async fn find(&self, conversation: &str) -> Result<Option<Found>, AcquireError> {
        let state = &self.parts.state;
        let mut handed = None;
        for answer in self.parts.peers.ask(&Question::HandOver(conversation.to_owned())).await? {
            match answer {
                Answer::Busy => return Err(AcquireError::Busy),
                Answer::Handed(room) => handed = Some(room),
                _ => {}
            }
        }
        if let Some(handed) = handed
            && let Some(id) = RoomId::parse(&handed.workspace)
        {
            return Ok(Some(Found { old: state.record(&handed.workspace).await?, id, session: handed.session }));
        }
        let Some(record) = state.record_of(conversation).await? else { return Ok(None) };
        let Some(id) = RoomId::parse(&record.workspace) else { return Ok(None) };
        if self.rooms.contains(&id) || self.foreign().await?.contains(&id) {
            // Its server is taking it down: it is no longer the conversation's.
            let vacant = Record { occupant: None, ..record.clone() };
            state.swap(&record.workspace, Some(&record), Some(&vacant)).await?;
            return Ok(None);
        }
        Ok(Some(Found { id, session: record.session.clone(), old: Some(record) }))
    }

    /// Releases the room a conversation has with another server, or had with one that died.
    pub(super) async fn release_elsewhere(self: &Arc<Self>, conversation: &str, why: Why) -> Result<(), ReleaseError> {
        if !self.may_be_elsewhere() {
            return Ok(());
        }
        match self.find(conversation).await {
            Ok(None) => Ok(()),
            Ok(Some(Found { id, old, .. })) => match self.claim(&id, old.as_ref()).await? {
                true => self.release_left(&id, why).await,
                false => Err(ReleaseError::Elsewhere),
            },
            Err(AcquireError::Busy) => Err(ReleaseError::Elsewhere),
            Err(AcquireError::State(error)) => Err(error.into()),
            Err(AcquireError::Peer(error)) => Err(error.into()),
            Err(AcquireError::Build(_)) => Err(ReleaseError::CutOff),
        }
    }
}

/// A room to be adopted.
struct Found {
    id: RoomId,
    /// Its record as it was then, which a claim must find unchanged.
    old: Option<Record>,
    session: Option<String>,
}

/// A room that is about to stand in the table.
pub(super) struct Incoming<'a> {
    workspaces: &'a Workspaces,
    id: RoomId,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.workspaces.incoming.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A conversation whose room is being looked for or made. Should shared state forget the lock, this is still told to others.
struct Getting<'a> {
    workspaces: &'a Workspaces,
    conversation: &'a str,
}

impl<'a> Getting<'a> {
    /// At most one at a time for a conversation: its turnstile is held.
    fn new(workspaces: &'a Workspaces, conversation: &'a str) -> Self {
        workspaces.getting.lock().unwrap_or_else(PoisonError::into_inner).insert(conversation.to_owned());
        Self { workspaces, conversation }
    }
}

impl Drop for Getting<'_> {
    fn drop(&mut self) {
        self.workspaces.getting.lock().unwrap_or_else(PoisonError::into_inner).remove(self.conversation);
    }
}
