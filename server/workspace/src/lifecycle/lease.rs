//! A lease: the exclusive right of one run to a room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use nagaya_protocol::ExecuteRequest;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{AgentError, EventStream};
use crate::lifecycle::acquire::is_responding;
use crate::losses::Loss;
use crate::reason::ReleaseReason;
use crate::rooms::{Occupant, Room};
use crate::session::{Living, Session};
use crate::workspaces::Workspaces;

/// Pause between two health requests while an agent is watched.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// Where the room of a lease comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The conversation already had the room.
    Reused,
    /// The room was taken from the warm pool.
    Warm,
    /// The room was newly built.
    Cold,
}

/// The exclusive right to run something in a room. Dropping it ends the lease.
#[derive(Debug)]
pub struct Lease {
    workspaces: Arc<Workspaces>,
    room: Arc<Room>,
    occupant: Occupant,
    origin: Origin,
    session: Option<Session>,
    loss: Option<Loss>,
}

impl Lease {
    pub(crate) fn new(
        workspaces: Arc<Workspaces>,
        room: Arc<Room>,
        occupant: Occupant,
        origin: Origin,
        session: Option<Session>,
    ) -> Self {
        let loss = match origin {
            Origin::Reused => None,
            Origin::Warm | Origin::Cold => workspaces.losses.take(&occupant.conversation),
        };
        Self { workspaces, room, occupant, origin, session, loss }
    }

    pub(crate) fn workspaces(&self) -> &Arc<Workspaces> {
        &self.workspaces
    }

    /// The conversation that holds the lease, with its tenant.
    #[must_use]
    pub fn occupant(&self) -> &Occupant {
        &self.occupant
    }

    /// The leased room.
    #[must_use]
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether the room's agent speaks an earlier protocol, so that no run can be followed there.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.room.is_outdated()
    }

    /// The room's id.
    #[must_use]
    pub fn workspace_id(&self) -> &str {
        self.room.id.as_str()
    }

    /// Where the room comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The loss of the conversation's former workspace, which this one replaces and of which no run has told a client yet.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        self.loss
    }

    /// Why a room whose agent failed is released: [`ReleaseReason::Paused`] or [`ReleaseReason::Dead`].
    pub async fn reason_of_silence(&self) -> ReleaseReason {
        self.workspaces.reason_of_silence(&self.room).await
    }

    /// What an earlier run left of its driver in this room.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The driver that was started in the room before it had a conversation, if nobody has taken it: it is the caller's.
    #[must_use]
    pub fn take_started(&self) -> Option<Living> {
        self.room.take_started()
    }

    /// Starts an execution in the room. The agent logs `request_id` with it.
    ///
    /// # Errors
    /// The agent refuses or cannot be reached.
    pub async fn execute(&self, request: &ExecuteRequest, request_id: Option<&str>) -> Result<EventStream, AgentError> {
        self.room.unsaved.store(true, Ordering::Release);
        self.room.set_running(true);
        self.room.agent()?.execute(request, request_id).await
    }

    /// Writes a file to the driver's home directory, which is not part of the workspace's files.
    ///
    /// # Errors
    /// The agent refuses it, or cannot be reached.
    pub async fn write_home(&self, path: &str, content: Bytes) -> Result<(), AgentError> {
        self.room.agent()?.write_home(path, content).await
    }

    /// Removes the room's folders of a kind but the one of this name; returns whether that one is there. No driver may be using the others.
    ///
    /// # Errors
    /// They cannot be read or removed.
    pub async fn keep_placed(&self, kind: &'static str, name: Option<&str>) -> io::Result<bool> {
        let (sockets, id) = (self.workspaces.parts.sockets.clone(), self.room.id.clone());
        let name = name.map(ToOwned::to_owned);
        let kept = tokio::task::spawn_blocking(move || sockets.keep_placed(&id, kind, name.as_deref()));
        kept.await.map_err(io::Error::other)?
    }

    /// Places a folder of files in the room, which the room reads below its socket directory as `<kind>-<name>` and cannot change.
    ///
    /// # Errors
    /// The files cannot be written, or are there already.
    pub async fn place(&self, kind: &'static str, name: &str, files: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let (sockets, id, name) = (self.workspaces.parts.sockets.clone(), self.room.id.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || sockets.place(&id, kind, &name, &files)).await.map_err(io::Error::other)?
    }

    /// Resumes the event stream of an execution after event number `after`.
    ///
    /// # Errors
    /// The agent has no such execution or cannot be reached.
    pub async fn follow(&self, execution: &str, after: u64) -> Result<EventStream, AgentError> {
        self.room.unsaved.store(true, Ordering::Release);
        self.room.set_running(true);
        self.room.agent()?.follow(execution, after).await
    }

    /// Writes lines to the driver of an execution, which begin its next turn if it is parked; lines with an id that it has got are not
    /// written again.
    ///
    /// # Errors
    /// The agent has no such execution, or cannot be reached.
    pub async fn write(&self, execution: &str, id: &str, lines: Vec<String>) -> Result<(), AgentError> {
        self.room.unsaved.store(true, Ordering::Release);
        self.room.set_running(true);
        self.room.agent()?.write(execution, id, lines).await
    }

    /// Closes the input of an execution's driver, which ends the driver.
    ///
    /// # Errors
    /// As [`Lease::write`].
    pub async fn close_input(&self, execution: &str) -> Result<(), AgentError> {
        self.room.agent()?.close_input(execution).await
    }

    /// Ends a turn: once this returns, only the driver's own process runs, which waits for its next turn for this long.
    ///
    /// # Errors
    /// As [`Lease::write`].
    pub async fn park(&self, execution: &str, time: Duration) -> Result<(), AgentError> {
        self.room.agent()?.park(execution, time).await
    }

    /// Cancels an execution. Once this returns, all of its processes have exited.
    ///
    /// # Errors
    /// The agent did not confirm it.
    pub async fn cancel(&self, execution: &str) -> Result<(), AgentError> {
        self.room.agent()?.cancel(execution).await
    }

    /// Cancels whatever is running in the room. A lease is exclusive, so an execution that the holder has not started is nobody's:
    /// its run has ended without it, or its server has died.
    ///
    /// # Errors
    /// The agent does not answer, or does not confirm the end.
    pub async fn cancel_stray(&self) -> Result<(), AgentError> {
        let health = self.room.agent()?.health().await?;
        match health.execution.or(health.parked) {
            Some(execution) => self.cancel(&execution).await,
            None => Ok(()),
        }
    }

    /// Whether the room's agent keeps answering for `time`. One answer proves little: an agent that is being killed still answers for
    /// a moment.
    pub async fn stays_alive(&self, time: Duration) -> bool {
        let until = tokio::time::Instant::now() + time;
        loop {
            if !is_responding(&self.room).await {
                return false;
            }
            if tokio::time::Instant::now() >= until {
                return true;
            }
            tokio::time::sleep(HEALTH_INTERVAL).await;
        }
    }

    /// Ends the lease and stores what is left of the driver for the conversation's next run.
    pub async fn finish(mut self, session: Option<Session>) {
        if session.is_some() {
            self.session = session;
            let written = self.workspaces.write_record(&self.room, Some(&self.occupant), self.session.clone()).await;
            if let Err(error) = written {
                // The table has the session; only another server or the next process would not find it in the record.
                self.workspaces.set_records_stale(true);
                tracing::warn!(workspace = %self.room.id, %error, "the driver's session was not written to the workspace's record; it is written again later");
            }
        }
        let workspaces = self.workspaces.clone();
        // A driver of the pool that the conversation has not taken over serves nobody.
        let unused = self.room.take_started().map(|living| (self.room.clone(), living));
        drop(self);
        // Not awaited: another workspace must not hold up the end of this run.
        let tasks = workspaces.tasks.clone();
        tasks.spawn(async move {
            if let Some((room, living)) = unused {
                end_driver(&room, &living, "no run has taken it over").await;
            }
            end_surplus_drivers(&workspaces).await;
        });
    }

    /// Ends the lease and begins to release the room, which no longer belongs to the conversation once this returns. The future
    /// completes when the room is removed or the release has timed out and continues in the background.
    #[must_use = "a run may end only after its room is removed"]
    pub fn begin_release(self, why: ReleaseReason) -> impl Future<Output = ()> {
        let (workspaces, id) = (self.workspaces.clone(), self.room.id.clone());
        workspaces.note_loss(&self.room, why);
        drop(self);
        workspaces.rooms.begin_release(&id);
        let releasing = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = workspaces.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "workspace not released; garbage collection tries again");
            }
        }));
        async move {
            if let Err(error) = releasing.await {
                tracing::error!(%error, "the release of a workspace was interrupted; garbage collection tries again");
            }
        }
    }

    /// Ends the lease and releases the room, waiting for the release.
    pub async fn release(self, why: ReleaseReason) {
        let (workspaces, id) = (self.workspaces.clone(), self.room.id.clone());
        drop(self);
        if let Err(error) = workspaces.release(&id, why).await {
            tracing::error!(workspace = %id, %error, "workspace not released; garbage collection tries again");
        }
    }
}

/// Ends the drivers that wait for another turn beyond the most that may: those first that have not been used for the longest time.
pub(super) async fn end_surplus_drivers(workspaces: &Workspaces) {
    for (room, living) in workspaces.rooms.take_surplus_drivers(workspaces.parts.settings.most_waiting_drivers) {
        end_driver(&room, &living, "too many others wait").await;
    }
}

async fn end_driver(room: &Room, living: &Living, why: &str) {
    let ended = match room.agent() {
        Ok(agent) => agent.close_input(&living.execution).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => tracing::debug!(workspace = %room.id, why, "a driver is ended"),
        // The next run of the conversation ends whatever it finds.
        Err(error) => tracing::warn!(workspace = %room.id, why, %error, "a driver that should end was not ended"),
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.room.set_running(false);
        self.workspaces.rooms.end_lease(&self.room.id, self.session.take());
    }
}
