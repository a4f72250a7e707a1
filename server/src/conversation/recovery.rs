//! The event stream of an execution, reconnected where the connection to the agent breaks while the execution continues.

use std::time::{Duration, Instant};

use nagaya_protocol::AgentEvent;

use nagaya_workspace::Lease;
use nagaya_workspace::agent::{AgentError, EventStream};

/// How long reconnection is attempted.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the connection may break without a new event in between.
const MOST_RECONNECTIONS: u32 = 20;
/// How often the connection of one execution may break in all.
const MOST_IN_ALL: u32 = 1_000;

/// The events of one execution, across reconnections.
#[derive(Debug)]
pub(super) struct Stream {
    events: EventStream,
    execution: Option<String>,
    taken: Taken,
    /// An error found by [`Stream::arrived`], which the next [`Stream::next`] handles.
    broken: Option<AgentError>,
    /// Reconnections since the last new event.
    reconnections: u32,
    /// All reconnections.
    in_all: u32,
}

/// Which events were returned: those up to a number. After a reconnection some may arrive again.
#[derive(Debug, Clone, Copy)]
struct Taken(u64);

impl Taken {
    /// Whether an event is to be returned, which it then was.
    fn take(&mut self, number: u64) -> bool {
        let is_new = number > self.0;
        self.0 = self.0.max(number);
        is_new
    }

    /// The number after which the agent is asked for the rest.
    fn after(self) -> u64 {
        self.0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.in_all > 1 {
            tracing::warn!(times = self.in_all, "reconnected to the agent several times during the run");
        }
    }
}

impl Stream {
    pub(super) fn new(events: EventStream) -> Self {
        Self { events, execution: None, taken: Taken(0), broken: None, reconnections: 0, in_all: 0 }
    }

    /// Connects to an execution that an earlier process has followed up to event number `after`.
    ///
    /// # Errors
    /// The agent cannot be reached or does not know the execution: it is lost.
    pub(super) async fn resume(lease: &Lease, execution: String, after: u64) -> Result<Self, AgentError> {
        let events = connect(lease, &execution, after, |error| error).await?;
        Ok(Self { events, execution: Some(execution), taken: Taken(after), broken: None, reconnections: 0, in_all: 0 })
    }

    /// Id of the execution, once its `started` event has arrived.
    pub(super) fn execution(&self) -> Option<&str> {
        self.execution.as_deref()
    }

    /// Number of the last event that was returned.
    pub(super) fn last(&self) -> u64 {
        self.taken.0
    }

    /// The next event with its number; the stream must not be read after [`AgentEvent::Ended`]. Cancel-safe.
    ///
    /// # Errors
    /// The agent cannot be reached or does not know the execution: it is lost.
    pub(super) async fn next(&mut self, lease: &Lease) -> Result<(u64, AgentEvent), AgentError> {
        loop {
            let next = match self.broken.take() {
                Some(broken) => Err(broken),
                None => self.events.next().await,
            };
            let broken = match next {
                Ok(Some(event)) => match self.accept(event) {
                    Some(event) => return Ok(event),
                    None => continue,
                },
                Ok(None) => AgentError::Broken("the stream of events ended before the execution".into()),
                Err(error) => error,
            };
            let Some(execution) = self.execution.as_ref().filter(|_| !broken.is_hostile()) else { return Err(broken) };
            (self.reconnections, self.in_all) = (self.reconnections + 1, self.in_all + 1);
            if self.reconnections > MOST_RECONNECTIONS {
                return Err(AgentError::Hostile(format!(
                    "its stream broke {MOST_RECONNECTIONS} times without a new event"
                )));
            }
            if self.in_all > MOST_IN_ALL {
                return Err(AgentError::Hostile(format!("its stream broke {MOST_IN_ALL} times")));
            }
            tokio::time::sleep(PAUSE).await;
            self.events = connect(lease, execution, self.taken.after(), |_| broken).await?.continuing(&self.events);
            // A room decides how often this happens: only the first time is a line of its own, and the rest are counted.
            if self.in_all == 1 {
                tracing::warn!(workspace = lease.workspace_id(), "reconnected to the agent");
            }
        }
    }

    /// The next event if it has arrived already.
    pub(super) fn arrived(&mut self) -> Option<(u64, AgentEvent)> {
        match self.events.arrived() {
            Ok(event) => self.accept(event?),
            Err(broken) => {
                self.broken = Some(broken);
                None
            }
        }
    }

    /// The event, unless an earlier connection has delivered it.
    fn accept(&mut self, (number, event): (u64, AgentEvent)) -> Option<(u64, AgentEvent)> {
        if !self.taken.take(number) {
            return None;
        }
        self.reconnections = 0;
        if let AgentEvent::Started { execution_id } = &event {
            self.execution = Some(execution_id.clone());
        }
        Some((number, event))
    }
}

/// Writes lines to the driver of an execution, and tries again for [`PATIENCE`] where the agent does not answer: it writes what has the
/// same id only once.
///
/// # Errors
/// The agent cannot be reached, or the execution has ended.
pub(super) async fn deliver(lease: &Lease, execution: &str, id: &str, lines: Vec<String>) -> Result<(), AgentError> {
    let began = Instant::now();
    loop {
        match lease.write(execution, id, lines.clone()).await {
            Err(error) if !matches!(error, AgentError::Refused { .. }) && began.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Connects to an execution and retries for [`PATIENCE`]; `final_error` maps the error of the last attempt.
async fn connect(
    lease: &Lease,
    execution: &str,
    after: u64,
    final_error: impl FnOnce(AgentError) -> AgentError,
) -> Result<EventStream, AgentError> {
    let began = Instant::now();
    loop {
        match lease.follow(execution, after).await {
            Ok(events) => return Ok(events),
            // The agent answers, but does not know the execution or no longer has those events.
            Err(error @ AgentError::Refused { .. }) => return Err(error),
            Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(final_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_again_after_a_stream_that_breaks_counts_once_and_nothing_is_skipped() {
        let mut taken = Taken(0);
        assert!(taken.take(1) && taken.take(2));
        assert_eq!(taken.after(), 2, "the agent is asked for 3");
        assert_eq!([2, 3, 3, 1, 4].map(|number| taken.take(number)), [false, true, false, false, true]);
        assert_eq!(taken.after(), 4);
    }
}
