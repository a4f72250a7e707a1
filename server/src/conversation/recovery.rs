//! An execution's events, picked up again where the connection to the agent broke but the execution goes on.

use std::time::{Duration, Instant};

use nagaya_protocol::AgentEvent;

use nagaya_workspace::Lease;
use nagaya_workspace::agent::{AgentError, EventStream};

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
    /// What was wrong with what had arrived.
    broken: Option<AgentError>,
}

impl Stream {
    pub(super) fn new(events: EventStream) -> Self {
        Self { events, execution: None, last: 0, broken: None }
    }

    /// An execution of which an earlier process has heard up to its event number `after`.
    ///
    /// # Errors
    /// The execution is lost, and why.
    pub(super) async fn take_up(lease: &Lease, execution: String, after: u64) -> Result<Self, AgentError> {
        let events = connect(lease, &execution, after, |error| error).await?;
        Ok(Self { events, execution: Some(execution), last: after, broken: None })
    }

    /// The execution's id, once it has told it.
    pub(super) fn execution(&self) -> Option<&str> {
        self.execution.as_deref()
    }

    /// The next event with its number; the stream must not be read after `result` or `error`. Cancel-safe.
    ///
    /// # Errors
    /// The execution is lost, and why.
    pub(super) async fn next(&mut self, lease: &Lease) -> Result<(u64, AgentEvent), AgentError> {
        loop {
            let next = match self.broken.take() {
                Some(broken) => Err(broken),
                None => self.events.next().await,
            };
            let broken = match next {
                Ok(Some(event)) => match self.fresh(event) {
                    Some(event) => return Ok(event),
                    None => continue,
                },
                Ok(None) => AgentError::Broken("the stream of events ended before the execution".into()),
                Err(error) => error,
            };
            let Some(execution) = &self.execution else { return Err(broken) };
            self.events = connect(lease, execution, self.last, |_| broken).await?;
            tracing::warn!(workspace = lease.workspace_id(), "connection to an agent made again");
        }
    }

    /// An event that has arrived already, if one has.
    pub(super) fn arrived(&mut self) -> Option<(u64, AgentEvent)> {
        match self.events.arrived() {
            Ok(event) => self.fresh(event?),
            Err(broken) => {
                self.broken = Some(broken);
                None
            }
        }
    }

    fn fresh(&mut self, (number, event): (u64, AgentEvent)) -> Option<(u64, AgentEvent)> {
        if number <= self.last {
            return None;
        }
        self.last = number;
        if let AgentEvent::Started { execution_id } = &event {
            self.execution = Some(execution_id.clone());
        }
        Some((number, event))
    }
}

/// Connects to an execution, and tries again for a while; `told` is asked for the error to tell after that.
async fn connect(
    lease: &Lease,
    execution: &str,
    after: u64,
    told: impl FnOnce(AgentError) -> AgentError,
) -> Result<EventStream, AgentError> {
    let began = Instant::now();
    loop {
        match lease.follow(execution, after).await {
            Ok(events) => return Ok(events),
            // It answers, and does not know the execution, or no longer has those events.
            Err(error @ AgentError::Refused { .. }) => return Err(error),
            Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(told(error)),
        }
    }
}
