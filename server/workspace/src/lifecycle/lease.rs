//! A room, lent to one run.

use std::sync::Arc;
use std::time::Duration;

use nagaya_protocol::ExecuteRequest;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{self, AgentError, EventStream};
use crate::directory::RoomDir;
use crate::lifecycle::acquire::is_responding;
use crate::reason::ReleaseReason;
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Between two looks at an agent.
const PULSE: Duration = Duration::from_millis(100);

/// Where the room of a lease came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The conversation had it.
    Reused,
    /// The pool had it.
    Warm,
    /// It was made.
    Cold,
}

/// The right to run something in a room; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    workspaces: Arc<Workspaces>,
    room: Arc<Room>,
    occupant: Occupant,
    origin: Origin,
    session: Option<String>,
}

impl Lease {
    pub(crate) fn new(
        workspaces: Arc<Workspaces>,
        room: Arc<Room>,
        occupant: Occupant,
        origin: Origin,
        session: Option<String>,
    ) -> Self {
        Self { workspaces, room, occupant, origin, session }
    }

    pub(crate) fn workspaces(&self) -> &Arc<Workspaces> {
        &self.workspaces
    }

    /// The conversation that it was leased for.
    #[must_use]
    pub fn occupant(&self) -> &Occupant {
        &self.occupant
    }

    /// The leased room.
    #[must_use]
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    fn dir(&self) -> Result<&RoomDir, AgentError> {
        self.room.dir.as_ref().ok_or_else(|| AgentError::Broken("the room has no directory".into()))
    }

    /// The room's id.
    #[must_use]
    pub fn workspace_id(&self) -> &str {
        self.room.id.as_str()
    }

    /// Where the room came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Driver's session of an earlier run in this very room.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Starts an execution in the room, for a request with an id.
    ///
    /// # Errors
    /// The agent refused, or cannot be reached.
    pub async fn execute(&self, what: &ExecuteRequest, request_id: Option<&str>) -> Result<EventStream, AgentError> {
        agent::execute(self.dir()?, what, request_id).await
    }

    /// Picks an execution up again after its stream broke.
    ///
    /// # Errors
    /// The agent does not know it, or cannot be reached.
    pub async fn follow(&self, execution: &str, after: u64) -> Result<EventStream, AgentError> {
        agent::follow(self.dir()?, execution, after).await
    }

    /// Cancels an execution; when this returns, none of its processes lives.
    ///
    /// # Errors
    /// The agent did not say so.
    pub async fn cancel(&self, execution: &str) -> Result<(), AgentError> {
        agent::cancel(self.dir()?, execution).await
    }

    /// Whether the room's agent answers all through the next `time`: an agent that ends still answers for a moment.
    pub async fn stays_alive(&self, time: Duration) -> bool {
        let until = tokio::time::Instant::now() + time;
        loop {
            if !is_responding(&self.room).await {
                return false;
            }
            if tokio::time::Instant::now() >= until {
                return true;
            }
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Ends the lease and keeps the driver's session for the conversation's next run.
    pub async fn finish(mut self, session: Option<String>) {
        if session.is_some() {
            self.session = session;
            let remembered = self.workspaces.write_record(&self.room, Some(&self.occupant), self.session.clone()).await;
            if let Err(error) = remembered {
                // The room keeps it; only another server, or a restarted one, would not know it.
                self.workspaces.set_behind(true);
                tracing::warn!(workspace = %self.room.id, %error, "session not recorded");
            }
        }
    }

    /// Ends the lease and begins to release the room: from here on the conversation has none. The future ends when the room is
    /// gone, or will not be gone soon; the release goes on without it.
    #[must_use = "the run ends only when the room is gone"]
    pub fn begin_release(self, why: ReleaseReason) -> impl Future<Output = ()> {
        let (workspaces, id) = (self.workspaces.clone(), self.room.id.clone());
        drop(self);
        workspaces.rooms.begin_release(&id);
        let releasing = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = workspaces.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "workspace not released; garbage collection tries again");
            }
        }));
        async move {
            if let Err(error) = releasing.await {
                tracing::error!(%error, "a release was cut off");
            }
        }
    }

    /// Ends the lease and the room with it.
    pub async fn release(self, why: ReleaseReason) {
        let (workspaces, id) = (self.workspaces.clone(), self.room.id.clone());
        drop(self);
        if let Err(error) = workspaces.release(&id, why).await {
            tracing::error!(workspace = %id, %error, "room not released; the garbage collector will try again");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.workspaces.rooms.end_lease(&self.room.id, self.session.take());
    }
}
