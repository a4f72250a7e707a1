//! Distributes a deployment's workspaces among its servers, and finds out which server has one.
//!
//! Servers of a deployment share a host, a directory of Unix sockets and the shared state. A running server's table of rooms is
//! the truth about its rooms, and it answers other servers' questions about them ([`peers`]). Records in the shared state say
//! what a server that has died had. So a room changes its server in one of two ways: a running server hands it over, or its
//! record is claimed after its owner has died.
//!
//! [`Cluster`] is the layer above [`Workspaces`], which knows only this server's rooms. The only server of a deployment uses it as
//! well; then there are no other servers to ask.

mod files;
mod peer_api;
pub mod peers;
pub mod policies;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::{Handover, Occupant, Room};
use nagaya_workspace::state::Record;
use nagaya_workspace::{
    AcquireError, AdoptAs, Adoption, Lease, OnShutdown, PeerRooms, PeerUnavailable, ReconcileError, ReleaseError,
    ReleaseReason, Session, Workspaces, gc,
};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use peer_api::{LastRun, PeerApi, PeerApiError};

use nagaya_workspace::backoff::Backoff;
use peers::{Answer, Handed, PeerError, Peers, Question};

/// How long a conversation stays locked for a run that was admitted and is about to acquire its room.
const ADMITTED: Duration = Duration::from_secs(10);
/// How long it stays locked, from the last renewal, while its room is looked for or built. A holder that dies is found out
/// by its socket, so this is only the last resort.
const HELD: Duration = Duration::from_secs(120);
/// How often a room that is just being handed over to another server is looked for again.
const LOOKS: usize = 3;
/// First and longest pause while the engine, the shared state or another server does not answer at the start.
const RECONCILE_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Pause after a question of another server could not be accepted, most likely for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long, at a shutdown, answers to other servers may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// The workspaces of a deployment, as one of its servers sees them.
#[derive(Debug)]
pub struct Cluster {
    workspaces: Arc<Workspaces>,
    peers: Peers,
    /// Conversations whose room this server is looking for or building.
    acquiring: Mutex<HashSet<String>>,
    /// Answers to other servers' questions, and the end of them.
    answers: TaskTracker,
    leaving: CancellationToken,
}

impl Cluster {
    /// This server's workspaces among those of `peers`. Nothing runs yet.
    #[must_use]
    pub fn new(workspaces: Arc<Workspaces>, peers: Peers) -> Arc<Self> {
        Arc::new(Self {
            workspaces,
            peers,
            acquiring: Mutex::default(),
            answers: TaskTracker::new(),
            leaving: CancellationToken::new(),
        })
    }

    /// This server's own workspaces.
    #[must_use]
    pub fn workspaces(&self) -> &Arc<Workspaces> {
        &self.workspaces
    }

    /// Id of this server process; every start has a new one.
    #[must_use]
    pub fn id(&self) -> &str {
        self.peers.id()
    }

    /// Whether other servers may belong to the deployment.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.peers.is_alone()
    }

    /// Starts the background work: reconciliation with what an earlier server left, then the warm pool, garbage collection and
    /// the watch over directories. Returns at once; an engine that does not answer yet is waited for.
    pub fn start(self: &Arc<Self>) {
        if let Some(listener) = self.peers.listener() {
            self.answers.spawn(self.clone().answer_peers(listener));
            let workspaces = self.workspaces.clone();
            self.workspaces.spawn(async move { workspaces.follow_state().await });
        }
        let this = self.clone();
        self.workspaces.spawn(async move {
            if this.workspaces.unless_stopped(this.reconcile_when_possible()).await.is_some() {
                tokio::join!(this.workspaces.maintain(), this.workspaces.collect_regularly(|| this.others()));
            }
        });
    }

    /// Stops the background work, keeps or releases every workspace, then leaves the other servers.
    pub async fn shutdown(&self, what: OnShutdown, deadline: Duration) {
        self.workspaces.shut_down(what, deadline).await;
        // Until this point other servers had to be able to ask which rooms they must not touch.
        self.leaving.cancel();
        self.answers.close();
        if tokio::time::timeout(ANSWER_DEADLINE, self.answers.wait()).await.is_err() {
            tracing::error!("answers to other servers did not end in time");
        }
        self.workspaces.close().await;
        tracing::info!("workspaces {}", if what == OnShutdown::Keep { "kept for the next start" } else { "released" });
    }

    /// Reconciles once engine, shared state and the other servers answer.
    async fn reconcile_when_possible(&self) {
        let mut backoff = Backoff::new(RECONCILE_BACKOFF);
        loop {
            match self.reconcile().await {
                Ok(()) => return,
                Err(error) if backoff.is_first() => {
                    tracing::warn!(%error, "workspaces of earlier servers cannot be examined yet; `nagaya doctor` says what to do");
                }
                Err(error) => tracing::debug!(%error, "workspaces of earlier servers still cannot be examined"),
            }
            backoff.pause().await;
        }
    }

    async fn reconcile(&self) -> Result<(), ReconcileError> {
        self.workspaces.reconcile(self.others()).await
    }

    /// Runs one cycle of garbage collection.
    pub async fn collect(&self) -> gc::Report {
        self.workspaces.collect(self.others()).await
    }

    /// The rooms of the other running servers.
    async fn others(&self) -> Result<PeerRooms, PeerUnavailable> {
        if self.peers.is_alone() {
            return Ok(PeerRooms::NoPeers);
        }
        Ok(PeerRooms::Rooms(self.rooms_of_others().await?))
    }

    async fn rooms_of_others(&self) -> Result<HashSet<RoomId>, PeerError> {
        let answers = self.peers.ask(&Question::Rooms).await?;
        let rooms = answers.into_iter().filter_map(|answer| match answer {
            Answer::Rooms(rooms) => Some(rooms),
            _ => None,
        });
        Ok(rooms.flatten().filter_map(|id| RoomId::parse(&id)).collect())
    }

    /// Answers the other servers until this one leaves.
    async fn answer_peers(self: Arc<Self>, listener: UnixListener) {
        loop {
            match self.leaving.run_until_cancelled(listener.accept()).await {
                None => break,
                Some(Ok((stream, _))) => {
                    let this = self.clone();
                    self.answers.spawn(peers::serve(stream, async move |question| this.answer(question).await));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "a question of another server was not accepted");
                    self.leaving.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                }
            }
        }
        self.peers.leave();
    }

    async fn answer(&self, question: Question) -> Answer {
        let rooms = self.workspaces.rooms();
        match question {
            Question::Rooms => Answer::Rooms(rooms.own_ids().iter().map(ToString::to_string).collect()),
            Question::Runs(conversation) | Question::HandOver(conversation)
                if self.acquiring.lock().contains(&conversation) =>
            {
                Answer::Busy
            }
            Question::Policies(changed) => {
                self.renew_own_policies(&changed).await;
                Answer::No
            }
            Question::Runs(conversation) => match rooms.is_leased(&conversation) {
                true => Answer::Busy,
                false => Answer::No,
            },
            Question::HandOver(conversation) => match rooms.hand_over(&conversation) {
                Handover::NoRoom => Answer::No,
                Handover::Busy => Answer::Busy,
                Handover::Room(room, session) => {
                    room.leave(Duration::ZERO).await;
                    tracing::info!(workspace = %room.id, "workspace handed over to another server");
                    Answer::Handed(Handed::new(room.id.to_string(), session))
                }
            },
        }
    }

    /// A workspace for a run of this conversation, whose agent has just answered: its own, wherever it is, else one of the warm
    /// pool, else a new one.
    ///
    /// # Errors
    /// If no workspace is available.
    pub async fn acquire(&self, occupant: Occupant) -> Result<Lease, AcquireError> {
        let began = Instant::now();
        let _turn = self.workspaces.lock_conversation(&occupant.conversation).await;
        let wanted = self.workspaces.variant(&occupant).await?;
        if let Some(lease) = self.workspaces.reuse(&occupant, &wanted).await? {
            return Ok(lease);
        }
        let find_or_make = async {
            let fitting = match self.fetch(&occupant).await? {
                Some(lease) => self.workspaces.fitting(lease, &wanted).await,
                None => None,
            };
            match fitting {
                Some(lease) => Ok(lease),
                None => self.workspaces.take_or_build(&occupant, &wanted, began).await,
            }
        };
        self.while_held(&occupant.conversation, find_or_make).await
    }

    /// Leases the room in which an earlier process, of this server or of one that has died, left a run of this conversation; `None` if
    /// `workspace` is not the conversation's room any more.
    pub async fn reattach(&self, occupant: Occupant, workspace: &str) -> Option<Lease> {
        if let Some(lease) = self.workspaces.reattach(occupant.clone(), workspace).await {
            return Some(lease);
        }
        if !self.is_shared() {
            return None;
        }
        let _turn = self.workspaces.lock_conversation(&occupant.conversation).await;
        let found = self.while_held(&occupant.conversation, self.fetch(&occupant)).await;
        let lease = found.unwrap_or_else(|error| {
            tracing::warn!(workspace, %error, "the workspace of a run cannot be taken over");
            None
        })?;
        if lease.workspace_id() == workspace {
            return Some(lease);
        }
        lease.finish(None).await;
        None
    }

    /// Whether the server with this id is running.
    ///
    /// # Errors
    /// That cannot be determined.
    pub async fn is_running(&self, id: &str) -> Result<bool, PeerUnavailable> {
        Ok(self.peers.is_running(id).await?)
    }

    /// Ends a lease and its workspace, and acquires another for the conversation. The future ends once the old workspace is gone,
    /// or will not be gone soon.
    pub async fn replace(
        &self,
        lease: Lease,
        why: ReleaseReason,
    ) -> (impl Future<Output = ()>, Result<Lease, AcquireError>) {
        let occupant = lease.occupant().clone();
        let gone = lease.begin_release(why);
        (gone, self.acquire(occupant).await)
    }

    /// Whether a run of this tenant's conversation could get a workspace now. It may be gone a moment later; then the run says so.
    ///
    /// # Errors
    /// The reason why it could not.
    pub async fn admit(&self, Occupant { conversation, tenant }: &Occupant) -> Result<(), AcquireError> {
        if self.workspaces.rooms().of_conversation(conversation).is_some() {
            return Ok(());
        }
        self.admit_among_others(conversation).await?;
        let running = self.runs_without_server(conversation).await;
        if !matches!(running, Ok(false)) {
            self.let_go(conversation).await;
            return running.and(Err(AcquireError::Busy));
        }
        self.workspaces.check_available(tenant).await
    }

    /// Whether a run of the conversation is still in progress in the room of a server that has stopped or died.
    async fn runs_without_server(&self, conversation: &str) -> Result<bool, AcquireError> {
        if !self.is_shared() {
            return Ok(false);
        }
        let Some(record) = self.workspaces.state().record_by_conversation(conversation).await? else {
            return Ok(false);
        };
        let Some(id) = RoomId::parse(&record.workspace) else { return Ok(false) };
        Ok(self.workspaces.runs_for_another(&id).await)
    }

    /// Releases the workspace of a conversation, if it has one, wherever it is.
    ///
    /// # Errors
    /// As [`Workspaces::release`]; [`ReleaseError::BusyElsewhere`] where a run is in it on another server.
    pub async fn release_conversation(&self, conversation: &str, why: ReleaseReason) -> Result<(), ReleaseError> {
        // A room that is being built for the conversation must be waited for, because it would be missed otherwise.
        let _turn = self.workspaces.lock_conversation(conversation).await;
        match self.workspaces.rooms().of_conversation(conversation) {
            Some(id) => self.workspaces.release(&id, why).await,
            None => self.release_elsewhere(conversation, why).await,
        }
    }

    /// The conversation's room, wherever it is, whether or not a run is in it; `None` where it has none.
    ///
    /// # Errors
    /// Another server has it, and a run is in it; or another server or the shared state does not answer.
    async fn room_of(&self, occupant: &Occupant) -> Result<Option<Arc<Room>>, AcquireError> {
        let rooms = self.workspaces.rooms();
        if let Some(room) = rooms.touch_room_of(&occupant.conversation) {
            return Ok(Some(room));
        }
        if !self.may_be_elsewhere() {
            return Ok(None);
        }
        let _turn = self.workspaces.lock_conversation(&occupant.conversation).await;
        if let Some(room) = rooms.touch_room_of(&occupant.conversation) {
            return Ok(Some(room));
        }
        let lease = self.while_held(&occupant.conversation, self.fetch(occupant)).await?;
        Ok(lease.map(|lease| lease.room().clone()))
    }

    /// Whether a conversation's room may be anywhere but in this server's table.
    fn may_be_elsewhere(&self) -> bool {
        self.is_shared() || !self.workspaces.is_reconciled()
    }

    /// Locks a conversation against the other servers; [`AcquireError::Busy`] where a running one holds the lock.
    async fn hold(&self, conversation: &str, ttl: Duration) -> Result<(), AcquireError> {
        let (state, me) = (self.workspaces.state(), self.peers.id());
        let Some(holder) = state.lock(conversation, me, None, ttl).await? else { return Ok(()) };
        if self.peers.is_running(&holder).await? {
            return Err(AcquireError::Busy);
        }
        match state.lock(conversation, me, Some(&holder), ttl).await? {
            None => Ok(()),
            Some(_) => Err(AcquireError::Busy),
        }
    }

    async fn let_go(&self, conversation: &str) {
        if let Err(error) = self.workspaces.state().unlock(conversation, self.peers.id()).await {
            tracing::warn!(%error, conversation, "a conversation's lock was not removed; it expires by itself");
        }
    }

    /// Reserves a conversation among all servers: until it has a room here, no other server starts a run of it.
    async fn admit_among_others(&self, conversation: &str) -> Result<(), AcquireError> {
        if self.peers.is_alone() {
            return Ok(());
        }
        self.hold(conversation, ADMITTED).await?;
        let answers = self.peers.ask(&Question::Runs(conversation.to_owned())).await;
        let refused = match answers {
            Ok(answers) if answers.iter().any(|answer| matches!(answer, Answer::Busy)) => Err(AcquireError::Busy),
            other => other.map(drop).map_err(Into::into),
        };
        if refused.is_err() {
            self.let_go(conversation).await;
        }
        refused
    }

    /// Runs the work that acquires a conversation's room, while no other server can do the same.
    async fn while_held<T>(
        &self,
        conversation: &str,
        work: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, AcquireError> {
        if self.peers.is_alone() {
            return work.await;
        }
        self.hold(conversation, HELD).await?;
        let acquiring = Acquiring::new(self, conversation);
        let done = tokio::select! {
            done = work => done,
            never = self.keep_holding(conversation) => match never {},
        };
        drop(acquiring);
        self.let_go(conversation).await;
        done
    }

    /// Renews a conversation's lock: the start of a container may have to wait for others.
    async fn keep_holding(&self, conversation: &str) -> std::convert::Infallible {
        let (state, me) = (self.workspaces.state(), self.peers.id());
        loop {
            tokio::time::sleep(HELD / 3).await;
            if let Err(error) = state.lock(conversation, me, Some(me), HELD).await {
                tracing::warn!(%error, conversation, "the lock of a conversation was not renewed");
            }
        }
    }

    /// The room that the conversation has on another server, or had on one that died, leased.
    async fn fetch(&self, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        if !self.may_be_elsewhere() {
            return Ok(None);
        }
        for _ in 0..LOOKS {
            let Some(Found { id, old, session, handed_over }) = self.find(&occupant.conversation).await? else {
                return Ok(None);
            };
            // The server that hands a room over has seen that no run is in it.
            if !handed_over && self.is_shared() && self.workspaces.runs_for_another(&id).await {
                return Err(AcquireError::Busy);
            }
            let adopted =
                self.workspaces.adopt(&id, old.as_ref(), Some(occupant.clone()), session.clone(), AdoptAs::Leased);
            match adopted.await? {
                Adoption::Adopted(room) => {
                    return Ok(Some(self.workspaces.lease_adopted(room, occupant.clone(), session)));
                }
                Adoption::Unusable => return Ok(None),
                Adoption::OwnedElsewhere => {}
            }
        }
        Err(AcquireError::Busy)
    }

    /// A conversation's room that is in no server's table, or that another server has just handed over.
    async fn find(&self, conversation: &str) -> Result<Option<Found>, AcquireError> {
        let state = self.workspaces.state();
        let mut handed = None;
        for answer in self.peers.ask(&Question::HandOver(conversation.to_owned())).await? {
            match answer {
                Answer::Busy => return Err(AcquireError::Busy),
                Answer::Handed(room) => handed = Some(room),
                _ => {}
            }
        }
        if let Some(handed) = handed
            && let Some(id) = RoomId::parse(&handed.workspace)
        {
            let old = state.record(&handed.workspace).await?;
            return Ok(Some(Found { id, old, session: handed.session(), handed_over: true }));
        }
        let Some(record) = state.record_by_conversation(conversation).await? else { return Ok(None) };
        let Some(id) = RoomId::parse(&record.workspace) else { return Ok(None) };
        if self.workspaces.rooms().contains(&id) || self.rooms_of_others().await?.contains(&id) {
            // Its server is releasing it: it is no longer the conversation's.
            self.workspaces.clear_conversation(&record).await?;
            return Ok(None);
        }
        Ok(Some(Found { id, session: record.session.clone(), old: Some(record), handed_over: false }))
    }

    /// Releases the room that a conversation has on another server, or had on one that died.
    async fn release_elsewhere(&self, conversation: &str, why: ReleaseReason) -> Result<(), ReleaseError> {
        if !self.may_be_elsewhere() {
            return Ok(());
        }
        match self.find(conversation).await {
            Ok(None) => Ok(()),
            Ok(Some(Found { id, old, .. })) => match self.workspaces.claim(&id, old.as_ref()).await? {
                true => self.workspaces.release_unowned(&id, why).await,
                false => Err(ReleaseError::BusyElsewhere),
            },
            Err(AcquireError::Busy) => Err(ReleaseError::BusyElsewhere),
            Err(AcquireError::State(error)) => Err(error.into()),
            Err(AcquireError::Peer(error)) => Err(error.into()),
            Err(AcquireError::Build(_) | AcquireError::Variant(_)) => Err(ReleaseError::Interrupted),
        }
    }

    /// The socket on which this server answers the API to other servers; `None` where there are none.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn bind_peer_api(&self) -> std::io::Result<Option<UnixListener>> {
        self.peers.bind_api()
    }

    /// The API sockets of the other servers.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn peer_apis(&self) -> std::io::Result<Vec<PeerApi>> {
        Ok(self.peers.api_sockets()?.into_iter().map(PeerApi::new).collect())
    }
}

impl From<PeerError> for PeerUnavailable {
    fn from(error: PeerError) -> Self {
        Self(error.to_string())
    }
}

impl From<PeerError> for AcquireError {
    fn from(error: PeerError) -> Self {
        Self::Peer(error.into())
    }
}

/// A room that may be adopted.
struct Found {
    id: RoomId,
    /// Its record at that moment, which a claim must find unchanged.
    old: Option<Record>,
    session: Option<Session>,
    /// Whether a running server has just handed it over.
    handed_over: bool,
}

/// Marks a conversation as one whose room is being looked for or built. Other servers learn of it by asking this one, even if the
/// shared state has lost the lock.
struct Acquiring<'a> {
    cluster: &'a Cluster,
    conversation: &'a str,
}

impl<'a> Acquiring<'a> {
    /// At most one for a conversation at a time: the caller has its turn.
    fn new(cluster: &'a Cluster, conversation: &'a str) -> Self {
        cluster.acquiring.lock().insert(conversation.to_owned());
        Self { cluster, conversation }
    }
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        self.cluster.acquiring.lock().remove(self.conversation);
    }
}
