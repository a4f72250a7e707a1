//! Follows a turn of the driver in a workspace to its end.

use std::time::Duration;

use jiff::Timestamp;
use nagaya_driver::{Dialogue, Event as Frame, Failure, NOT_JSON, REQUEST, SYSTEM, TOO_MANY, TurnResult};
use nagaya_protocol::AgentEvent;
use tokio::time::Instant;

use super::{Outcome, PING, Run};
use crate::conversation::event::{ErrorType, Event};
use crate::conversation::journal::Note;
use crate::conversation::recovery::{self, Stream};
use nagaya_telemetry::metrics::UnknownFrame;
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::{Lease, OnShutdown, ReleaseReason};

/// How long an interrupted turn may take to end; then its driver is ended.
const INTERRUPT_DEADLINE: Duration = Duration::from_secs(10);
/// Lines of one turn that may have no meaning. A driver that is newer than the server may print some.
const MOST_UNKNOWN: u32 = 10_000;
/// Requests of one turn that the server answers by itself. They are nothing that a conversation needs.
const MOST_REPLIES: u32 = 10_000;
/// Characters of what an agent says of its memory.
const LONGEST_TOLD: usize = 500;
/// Shortest wait for what expires, so that a decision that cannot be written is not tried without pause.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait of a run for anything.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a turn needs while it is followed.
pub(super) struct Turn {
    pub(super) lease: Lease,
    pub(super) stream: Stream,
    dialogue: Box<dyn Dialogue>,
    /// What the driver was started with, as a digest.
    pub(super) options: String,
    /// When the run's time is up, or how much of it is left while it waits for people.
    time: Time,
    /// When an interrupted turn must have ended.
    interrupted: Option<Instant>,
    unknown: u32,
    /// Requests of the driver's that the server has answered by itself.
    replies: u32,
    /// Whether clients have been told that a tool was killed for want of memory.
    out_of_memory: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    Until(Instant),
    Left(Duration),
}

impl Time {
    fn pause(&mut self) {
        if let Self::Until(until) = *self {
            *self = Self::Left(until.saturating_duration_since(Instant::now()));
        }
    }

    fn go_on(&mut self) {
        if let Self::Left(left) = *self {
            *self = Self::Until(Instant::now() + left);
        }
    }
}

/// How a turn goes on after an event.
enum Next {
    /// There will be others.
    Wait,
    /// The turn has ended with this result.
    Result(Box<TurnResult>),
    /// The turn has ended without a result.
    Failed(Failure),
    /// The driver, which had waited for the turn, has ended before it took the turn's input.
    NotTaken,
    /// The agent or the driver has sent what it may not.
    Hostile(String),
}

impl Turn {
    pub(super) fn new(
        lease: Lease,
        stream: Stream,
        dialogue: Box<dyn Dialogue>,
        options: String,
        left: Duration,
    ) -> Self {
        let time = Time::Until(Instant::now() + left);
        Self { lease, stream, dialogue, options, time, interrupted: None, unknown: 0, replies: 0, out_of_memory: false }
    }

    pub(super) fn execution(&self) -> Option<&str> {
        self.stream.execution()
    }
}

impl Run {
    /// Follows a turn; `None` if it is left to the next process.
    pub(super) async fn follow(&mut self, mut turn: Turn) -> Option<Outcome> {
        let mut decisions = self.approvals.decisions();
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        let (interrupt, journal) = (self.interrupt.clone(), self.journal.clone());
        loop {
            if self.waits_for_people() {
                turn.time.pause();
            } else {
                turn.time.go_on();
            }
            let time_up = match turn.time {
                Time::Until(until) => until,
                Time::Left(_) => Instant::now() + FOR_EVER,
            };
            let expiry = self
                .next_expiry()
                .map_or(FOR_EVER, |expires| expires.duration_since(Timestamp::now()).try_into().unwrap_or_default())
                .max(SHORTEST_WAIT);
            let event = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.end_execution(turn, ReleaseReason::Unhealthy).await;
                    return Some(Outcome::cancelled());
                }
                () = self.stop.cancelled() => {
                    if self.services.on_shutdown == OnShutdown::Keep && turn.execution().is_some() {
                        return None;
                    }
                    self.fail(ErrorType::ServerStopping, "the server is stopping".into()).await;
                    self.end_execution(turn, ReleaseReason::Unhealthy).await;
                    return Some(Outcome::error());
                }
                () = journal.taken_over() => return None,
                () = tokio::time::sleep_until(time_up) => return Some(self.time_out(turn).await),
                () = interrupt.cancelled(), if turn.interrupted.is_none() && turn.execution().is_some() => {
                    if let Err(error) = self.interrupt_turn(&mut turn).await {
                        return Some(self.give_up_agent(turn.lease, &error).await);
                    }
                    continue;
                }
                () = until(turn.interrupted) => {
                    tracing::warn!(workspace = turn.lease.workspace_id(), "the driver did not end an interrupted turn; it is ended");
                    let exceeded = self.cost_exceeded().filter(|_| !interrupt.is_cancelled());
                    self.end_execution(turn, ReleaseReason::Unhealthy).await;
                    let Some(why) = exceeded else { return Some(Outcome::cancelled()) };
                    self.fail(ErrorType::CostLimit, why).await;
                    return Some(Outcome::error());
                }
                _ = decisions.changed(), if turn.execution().is_some() => {
                    let execution = turn.execution().unwrap_or_default().to_owned();
                    if let Err(error) = self.deliver(&turn.lease, &execution, turn.time).await {
                        return Some(self.give_up_agent(turn.lease, &error).await);
                    }
                    // Broken off. What a driver that has ended was not told is withdrawn instead.
                    if self.is_called(turn.time) && self.approvals.has_decided() {
                        decisions.mark_changed();
                    }
                    continue;
                }
                () = tokio::time::sleep(expiry) => {
                    self.decide_expired().await;
                    continue;
                }
                _ = ping.tick() => {
                    self.emit(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await;
                    continue;
                }
                event = turn.stream.next(&turn.lease) => event,
            };
            let mut received = match event {
                Ok(event) => Some(event),
                Err(error) => return Some(self.give_up_agent(turn.lease, &error).await),
            };
            // Events that have arrived together are written together: one write(2) per event would dominate the cost of a run.
            while let Some((number, event)) = received {
                self.set_agent_event(number);
                match self.take(&mut turn, number, event).await {
                    Next::Wait => {}
                    Next::Result(result) => return Some(self.end_turn(turn, *result).await),
                    Next::Failed(failure) => return self.fail_turn(turn, failure).await,
                    Next::NotTaken => return self.begin_anew(turn).await,
                    Next::Hostile(why) => return Some(self.give_up_agent(turn.lease, &AgentError::Hostile(why)).await),
                }
                if let Some(excess) = self.translator.excess().or_else(|| self.journal.full()) {
                    return Some(self.give_up_agent(turn.lease, &AgentError::Hostile(excess)).await);
                }
                // What a driver has said at once may take long to answer, and others have a say meanwhile.
                received = if self.is_called(turn.time) { None } else { turn.stream.arrived() };
            }
            self.clear_agent_event();
            if turn.interrupted.is_none()
                && turn.execution().is_some()
                && self.cost_exceeded().is_some()
                && let Err(error) = self.interrupt_turn(&mut turn).await
            {
                return Some(self.give_up_agent(turn.lease, &error).await);
            }
            if let Err(error) = self.journal.flush().await {
                let execution = turn.execution().map(ToOwned::to_owned);
                return Some(self.end_without_journal(turn.lease, execution.as_deref(), error).await);
            }
            self.store_transcript_when_due().await;
        }
    }

    /// Whether something is to be done before further events are taken: the run is cancelled, the server is stopping, or the time is up.
    pub(super) fn is_called(&self, time: Time) -> bool {
        let late = matches!(time, Time::Until(until) if until <= Instant::now());
        late || self.cancel.is_cancelled() || self.stop.is_cancelled()
    }

    /// Takes an event of the agent's.
    async fn take(&mut self, turn: &mut Turn, number: u64, event: AgentEvent) -> Next {
        match event {
            AgentEvent::Started { execution_id } => {
                self.note_execution(execution_id, 0).await;
                Next::Wait
            }
            AgentEvent::OutOfMemory { message } => {
                self.tell_of_memory(turn, number, &message).await;
                Next::Wait
            }
            AgentEvent::Ended(_) if !turn.dialogue.has_begun() => Next::NotTaken,
            AgentEvent::Ended(ended) => Next::Failed(self.services.driver.failure(&ended)),
            AgentEvent::Frame(line) => {
                let events = match turn.dialogue.read(&line) {
                    Ok(events) => events,
                    Err(why) => return Next::Hostile(why),
                };
                for event in events {
                    match self.take_frame(turn, number, event).await {
                        Next::Wait => {}
                        next => return next,
                    }
                }
                Next::Wait
            }
        }
    }

    /// Takes what the driver has said.
    async fn take_frame(&mut self, turn: &mut Turn, number: u64, event: Frame) -> Next {
        match event {
            Frame::Usage { usage } => self.usage = usage,
            // Also what an earlier process has handled: it may not have stored it.
            Frame::Transcript { file, lines } => self.unstored.add(file, lines),
            Frame::Fallback { from, to, reason } => self.fall_back(number, &from, &to, &reason).await,
            // An earlier process has handled it; it was read again for what it says of the following.
            _ if number < self.past.agent_event => {}
            Frame::Result(result) => return Next::Result(Box::new(result)),
            Frame::Failed(failure) => return Next::Failed(failure),
            // The last event that an earlier process has handled is handled again, but not what came after it.
            Frame::Ask(ask) if number == self.past.agent_event && self.past.told.contains(&ask.request_id) => {}
            Frame::Ask(ask) => {
                if let Err(why) = self.ask(ask).await {
                    return Next::Hostile(why);
                }
            }
            Frame::Withdrawn { request_id } => self.withdrawn(request_id).await,
            Frame::Reply { id, lines } => {
                turn.replies += 1;
                if turn.replies > MOST_REPLIES {
                    return Next::Hostile(format!("more than {MOST_REPLIES} requests that only the server answers"));
                }
                let Some(execution) = turn.execution().map(ToOwned::to_owned) else { return Next::Wait };
                let delivered = recovery::deliver(&turn.lease, &execution, &id, lines);
                match self.cancel.run_until_cancelled(delivered).await {
                    // The stream says how the execution has ended.
                    Some(Err(error)) if !error.is_gone() => {
                        tracing::warn!(workspace = turn.lease.workspace_id(), %error, "a request of the driver's is not answered");
                    }
                    _ => {}
                }
            }
            Frame::Unknown { kind } => {
                if let Some(excess) = self.count_unknown(turn, &kind) {
                    return Next::Hostile(excess);
                }
            }
            event => {
                if let Frame::System { version: Some(version), .. } = &event {
                    self.judge_version(turn, version);
                }
                if matches!(event, Frame::ToolResult { .. }) {
                    turn.lease.files_changed();
                }
                for event in self.translator.translate(event) {
                    self.put(&event).await;
                }
            }
        }
        Next::Wait
    }

    /// Tells clients that a tool was killed for want of memory: once in a turn, whatever the agent says. What an earlier process has handled
    /// is told already, and what was before the turn belongs to another one.
    async fn tell_of_memory(&mut self, turn: &mut Turn, number: u64, message: &str) {
        let is_new = number >= self.past.agent_event && turn.dialogue.has_begun();
        if is_new && !std::mem::replace(&mut turn.out_of_memory, true) {
            let said: String = message.chars().filter(|c| !c.is_control()).take(LONGEST_TOLD).collect();
            self.fail(ErrorType::OutOfMemory, format!("{said}; the run goes on")).await;
        }
    }

    /// Counts turns of a driver's program of a version that this server was not tested with.
    fn judge_version(&self, turn: &Turn, version: &str) {
        let driver = &self.services.driver;
        if driver.is_tested_with(version) || self.services.metrics.untested_driver() > 1 {
            return;
        }
        let (oldest, newest) = driver.versions().unwrap_or_default();
        let workspace = turn.lease.workspace_id();
        tracing::warn!(
            workspace,
            version,
            oldest,
            newest,
            "the driver's program in this image is of a version that this server was not tested with; build the image again; further turns \
             with it are counted"
        );
    }

    /// Counts a line that means nothing to the conversation; the result says that there are too many.
    fn count_unknown(&self, turn: &mut Turn, kind: &str) -> Option<String> {
        turn.unknown += 1;
        if turn.unknown == 1 {
            let workspace = turn.lease.workspace_id();
            tracing::warn!(workspace, kind, "skipped a line of the driver's; further ones are counted");
        }
        self.services.metrics.unknown_frame(match kind {
            NOT_JSON | TOO_MANY => UnknownFrame::Malformed,
            REQUEST => UnknownFrame::Request,
            system if system.starts_with(SYSTEM) => UnknownFrame::System,
            _ => UnknownFrame::Other,
        });
        (turn.unknown > MOST_UNKNOWN).then(|| format!("more than {MOST_UNKNOWN} lines that have no meaning"))
    }

    async fn interrupt_turn(&mut self, turn: &mut Turn) -> Result<(), AgentError> {
        let id = format!("{}-interrupt", self.journal.run_id());
        turn.interrupted = Some(Instant::now() + INTERRUPT_DEADLINE);
        let execution = turn.execution().unwrap_or_default().to_owned();
        match recovery::deliver(&turn.lease, &execution, &id, self.services.driver.interrupt(&id)).await {
            // The stream says how the execution has ended.
            Err(error) if error.is_gone() => Ok(()),
            delivered => delivered,
        }
    }

    pub(super) async fn note_execution(&self, id: String, after: u64) {
        if self.past.agent_event == 0
            && let Err(error) = self.journal.note(&Note::Execution { id, began: Timestamp::now(), after }).await
        {
            // The line stays pending; the flush after this batch of events reports the failure and ends the run.
            tracing::warn!(run = self.journal.run_id(), %error, "the execution was not written to the journal");
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
