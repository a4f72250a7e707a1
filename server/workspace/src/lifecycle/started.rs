//! Drivers that are started in workspaces of the warm pool, before they have a conversation.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nagaya_protocol::{AgentEvent, ExecuteRequest};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Agent, AgentError, EventStream};
use crate::lifecycle::lease::end_surplus_drivers;
use crate::rooms::Room;
use crate::session::Living;
use crate::starter::{Starter, ToStart};
use crate::workspaces::Workspaces;

/// How long a driver waits for a conversation. After that it ends, and the workspace is as one that never had a driver.
const WAITS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest time until a driver is started. Its own preparations go on after that.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Pause before an agent whose connection has broken is asked again what has become of its driver.
const PAUSE: Duration = Duration::from_secs(1);
/// How often in a row the connection may break within [`LASTS`]; after that the driver counts as one that does not wait.
const MOST_BREAKS: u32 = 20;
const LASTS: Duration = Duration::from_secs(60);

impl Workspaces {
    /// From now on, workspaces that are built for the pool get the drivers that `starter` names.
    pub fn start_drivers(&self, starter: Arc<dyn Starter>) {
        if self.starter.set(starter).is_err() {
            tracing::warn!("the drivers of the pool are set already");
        }
    }

    /// Starts a driver in a room that is built for the pool, unless as many wait as may. A failure is logged: the room is of use without.
    pub(crate) async fn start_driver(&self, room: &Arc<Room>) {
        let Some(starter) = self.starter.get() else { return };
        // One after the other, so that each counts those before it.
        let _turn = self.starting.lock().await;
        if self.rooms.started() >= self.parts.settings.most_waiting_drivers {
            return;
        }
        let Some(ToStart { request, options }) = starter.driver().await else { return };
        let Ok(agent) = room.agent() else { return };
        let started = tokio::time::timeout(START_DEADLINE, start(agent, &request)).await;
        let why = match started {
            Ok(Ok((execution, read))) => {
                room.set_started(Some(Living { execution, read, options }));
                watch_started(room);
                return end_surplus_drivers(self).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not started within {START_DEADLINE:?}"),
        };
        // Whatever runs there is ended by the first run that finds it.
        tracing::warn!(workspace = %room.id, why, "a workspace of the pool has no driver");
    }
}

async fn start(agent: &Agent, request: &ExecuteRequest) -> Result<(String, u64), AgentError> {
    let mut events = agent.execute(request, None).await?;
    match events.next().await? {
        Some((read, AgentEvent::Started { execution_id })) => {
            agent.park(&execution_id, WAITS).await?;
            Ok((execution_id, read))
        }
        _ => Err(AgentError::Broken("the execution does not say that it has started".into())),
    }
}

/// Watches the driver that waits in a room of the pool, if there is one: once it has ended it no longer counts as waiting.
pub(super) fn watch_started(room: &Arc<Room>) {
    let Some(living) = room.started() else { return };
    room.set_started_watch(AbortOnDropHandle::new(tokio::spawn(watch(Arc::downgrade(room), living))));
}

/// The room is held only while its agent is connected to: it goes when its release is done.
async fn watch(room: Weak<Room>, living: Living) {
    let mut read = living.read;
    let mut earlier: Option<EventStream> = None;
    let mut breaks = 0;
    let why = loop {
        let since = Instant::now();
        let connected = match room.upgrade() {
            Some(room) => match room.agent() {
                Ok(agent) => agent.follow(&living.execution, read).await,
                Err(_) => return,
            },
            None => return,
        };
        let ended = match connected {
            Ok(events) => {
                let events = match &earlier {
                    Some(earlier) => events.continuing(earlier),
                    None => events,
                };
                until_ended(earlier.insert(events), &mut read).await
            }
            Err(error) => Err(error),
        };
        breaks = if since.elapsed() < LASTS { breaks + 1 } else { 1 };
        match ended {
            Ok(()) => break "it has ended".to_owned(),
            Err(error) if error.is_gone() || error.is_hostile() || breaks == MOST_BREAKS => break error.to_string(),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    if let Some(room) = room.upgrade() {
        tracing::warn!(workspace = %room.id, why, "the driver of a workspace of the pool no longer waits for a conversation");
        // Last, because it ends this task. Whatever still runs there is ended by the first run that finds it.
        room.take_started();
    }
}

/// Reads events until the last one. `read` is the number of the last event that was read.
async fn until_ended(events: &mut EventStream, read: &mut u64) -> Result<(), AgentError> {
    loop {
        match events.next().await? {
            Some((_, AgentEvent::Ended(_))) => return Ok(()),
            Some((number, _)) => *read = number,
            None => return Err(AgentError::Broken("the stream of events ended before the execution".into())),
        }
    }
}
