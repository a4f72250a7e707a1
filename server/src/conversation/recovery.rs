//! An execution's events, picked up again where the connection to the agent broke but the execution goes on.

use std::time::{Duration, Instant};

use nagaya_protocol::AgentEvent;

use crate::workspace::Lease;
use crate::workspace::agent::{AgentError, EventStream};

/// How long a broken connection is tried to be made again.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The events of one execution, across connections.
#[derive(Debug)]
pub(super) struct Stream {
    events: EventStream,
    execution: Option<String>,
    last: u64,
}

impl Stream {
    pub(super) fn new(events: EventStream) -> Self {
        Self { events, execution: None, last: 0 }
    }

    /// The execution's id, once it has told it.
    pub(super) fn execution(&self) -> Option<&str> {
        self.execution.as_deref()
    }

    /// The next event; the stream must not be read after `result` or `error`. Cancel-safe.
    ///
    /// # Errors
    /// The execution is lost, and why.
    pub(super) async fn next(&mut self, lease: &Lease) -> Result<AgentEvent, AgentError> {
        loop {
            let broken = match self.events.next().await {
                Ok(Some((number, event))) => {
                    if number <= self.last {
                        continue;
                    }
                    self.last = number;
                    if let AgentEvent::Started { execution_id } = &event {
                        self.execution = Some(execution_id.clone());
                    }
                    return Ok(event);
                }
                Ok(None) => AgentError::Broken("the stream of events ended before the execution".into()),
                Err(error) => error,
            };
            self.reconnect(lease, broken).await?;
        }
    }

    async fn reconnect(&mut self, lease: &Lease, broken: AgentError) -> Result<(), AgentError> {
        let Some(execution) = &self.execution else { return Err(broken) };
        let began = Instant::now();
        loop {
            match lease.follow(execution, self.last).await {
                Ok(events) => {
                    tracing::warn!(workspace = lease.workspace_id(), %broken, "connection to an agent made again");
                    self.events = events;
                    return Ok(());
                }
                // It answers, and does not know the execution, or no longer has those events.
                Err(error @ AgentError::Refused { .. }) => return Err(error),
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                Err(_) => return Err(broken),
            }
        }
    }
}
