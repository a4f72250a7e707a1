//! Follows a turn of the driver in a workspace to its end.

use std::time::Duration;

use jiff::Timestamp;
use nagaya_driver::{Dialogue, ErrorKind, Event as Frame, Failure, TurnResult};
use nagaya_protocol::{AgentEvent, Ended, How};
use tokio::time::Instant;

use super::{Outcome, PING, Run, model_error};
use crate::conversation::event::{DoneStatus, ErrorType, Event};
use crate::conversation::journal::Note;
use crate::conversation::recovery::{self, Stream};
use crate::conversation::translate;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::{Lease, Living, OnShutdown, ReleaseReason, Session};

/// How long to watch whether an agent stays alive: longer than an agent that is shutting down keeps answering.
const SHUTDOWN_OF_AGENT: Duration = Duration::from_secs(2);
/// How long a driver may take to end once its input is closed: longer than the agent waits for it.
const EXIT_DEADLINE: Duration = Duration::from_secs(25);
/// How long an interrupted turn may take to end; then its driver is ended.
const INTERRUPT_DEADLINE: Duration = Duration::from_secs(10);
/// Lines of one turn that may have no meaning. A driver that is newer than the server may print some.
const MOST_UNKNOWN: u32 = 10_000;
/// Longest wait of a run for anything.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a turn needs while it is followed.
pub(super) struct Turn {
    lease: Lease,
    stream: Stream,
    dialogue: Box<dyn Dialogue>,
    /// What the driver was started with, as a digest.
    options: String,
    /// When the run's time is up, or how much of it is left while it waits for people.
    time: Time,
    /// When an interrupted turn must have ended.
    interrupted: Option<Instant>,
    unknown: u32,
}

#[derive(Debug, Clone, Copy)]
enum Time {
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
        Self { lease, stream, dialogue, options, time, interrupted: None, unknown: 0 }
    }

    fn execution(&self) -> Option<&str> {
        self.stream.execution()
    }
}

impl Run {
    /// Follows a turn; `None` if it is left to the next process.
    pub(super) async fn follow(&mut self, mut turn: Turn) -> Option<Outcome> {
        let mut decisions = self.approvals.decisions();
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        let interrupt = self.interrupt.clone();
        loop {
            if self.waits_for_people() {
                turn.time.pause()
            } else {
                turn.time.go_on()
            }
            let time_up = match turn.time {
                Time::Until(until) => until,
                Time::Left(_) => Instant::now() + FOR_EVER,
            };
            let expiry = self
                .next_expiry()
                .map_or(FOR_EVER, |expires| expires.duration_since(Timestamp::now()).try_into().unwrap_or_default());
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
                () = tokio::time::sleep_until(time_up) => return Some(self.time_out(turn).await),
                () = interrupt.cancelled(), if turn.interrupted.is_none() && turn.execution().is_some() => {
                    if let Err(error) = self.interrupt_turn(&mut turn).await {
                        return Some(self.give_up_agent(turn.lease, &error).await);
                    }
                    continue;
                }
                () = until(turn.interrupted) => {
                    tracing::warn!(workspace = turn.lease.workspace_id(), "the driver did not end an interrupted turn; it is ended");
                    self.end_execution(turn, ReleaseReason::Unhealthy).await;
                    return Some(Outcome::cancelled());
                }
                _ = decisions.changed(), if turn.execution().is_some() => {
                    let execution = turn.execution().unwrap_or_default().to_owned();
                    if let Err(error) = self.deliver(&turn.lease, &execution).await {
                        return Some(self.give_up_agent(turn.lease, &error).await);
                    }
                    continue;
                }
                () = tokio::time::sleep(expiry) => {
                    self.decide_expired();
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
                    Next::Hostile(why) => return Some(self.give_up_agent(turn.lease, &AgentError::Hostile(why)).await),
                }
                if let Some(excess) = self.translator.excess().or_else(|| self.journal.full()) {
                    return Some(self.give_up_agent(turn.lease, &AgentError::Hostile(excess)).await);
                }
                received = turn.stream.arrived();
            }
            self.clear_agent_event();
            if let Err(error) = self.journal.flush() {
                let execution = turn.execution().map(ToOwned::to_owned);
                return Some(self.end_without_journal(turn.lease, execution.as_deref(), error).await);
            }
        }
    }

    /// Takes an event of the agent's.
    async fn take(&mut self, turn: &mut Turn, number: u64, event: AgentEvent) -> Next {
        match event {
            AgentEvent::Started { execution_id } => {
                self.note_execution(execution_id, 0);
                Next::Wait
            }
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
            // An earlier process has handled it; it was read again for what it says of the following.
            _ if number < self.past.agent_event => {}
            Frame::Result(result) => return Next::Result(Box::new(result)),
            Frame::Failed(failure) => return Next::Failed(failure),
            Frame::Ask(ask) => {
                if let Err(why) = self.ask(ask).await {
                    return Next::Hostile(why);
                }
            }
            Frame::Withdrawn { request_id } => self.withdrawn(request_id).await,
            Frame::Reply { id, lines } => {
                let Some(execution) = turn.execution().map(ToOwned::to_owned) else { return Next::Wait };
                match recovery::deliver(&turn.lease, &execution, &id, lines).await {
                    // The stream says how the execution has ended.
                    Err(error) if !error.is_gone() => {
                        tracing::warn!(workspace = turn.lease.workspace_id(), %error, "a request of the driver's is not answered");
                    }
                    _ => {}
                }
            }
            Frame::Unknown { kind } => {
                turn.unknown += 1;
                if turn.unknown == 1 {
                    tracing::warn!(
                        workspace = turn.lease.workspace_id(),
                        kind,
                        "skipped a line of the driver's; further ones are counted"
                    );
                }
                self.services.metrics.unknown_frame();
                if turn.unknown > MOST_UNKNOWN {
                    return Next::Hostile(format!("more than {MOST_UNKNOWN} lines that have no meaning"));
                }
            }
            event => {
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

    fn model_error(&self, status: Option<u16>, said: &str) -> String {
        model_error::message(&self.services.providers, &self.order.model, status, said)
    }

    pub(super) fn note_execution(&self, id: String, after: u64) {
        if self.past.agent_event == 0
            && let Err(error) = self.journal.note(&Note::Execution { id, began: Timestamp::now(), after })
        {
            // The line stays pending; the flush after this batch of events reports the failure and ends the run.
            tracing::warn!(run = self.journal.run_id(), %error, "the execution was not written to the journal");
        }
    }

    /// Ends a turn that has a result.
    async fn end_turn(&mut self, mut turn: Turn, result: TurnResult) -> Outcome {
        let session = Session::ended(result.session_id.clone());
        let outcome = self.finish(result).await;
        self.withdraw_all().await;
        match self.leave_driver(&mut turn).await {
            Ok(living) => {
                self.store_files_and_finish(turn.lease, Some(Session { living, ..session })).await;
                outcome
            }
            Err(why) => {
                let succeeded = outcome.status == DoneStatus::Success;
                if succeeded {
                    let message = format!("the CLI reported success and then ended with an error ({why})");
                    self.fail(ErrorType::ExecutionError, message).await;
                }
                self.store_files_and_finish(turn.lease, Some(session)).await;
                if succeeded {
                    Outcome { status: DoneStatus::Error, outcome: RunOutcome::Error, ..outcome }
                } else {
                    outcome
                }
            }
        }
    }

    /// Lets the driver wait for the conversation's next turn, or ends it. The error says how one that was to end has failed.
    async fn leave_driver(&mut self, turn: &mut Turn) -> Result<Option<Living>, String> {
        let Some(execution) = turn.execution().map(ToOwned::to_owned) else { return Ok(None) };
        let time = self.services.driver_keep_alive;
        let parked = if time.is_zero() { None } else { Some(turn.lease.park(&execution, time).await) };
        match parked {
            Some(Ok(())) => {
                return Ok(Some(Living { execution, read: turn.stream.last(), options: turn.options.clone() }));
            }
            Some(Err(error)) => {
                tracing::debug!(workspace = turn.lease.workspace_id(), %error, "the driver does not wait for another turn");
            }
            None => {}
        }
        let ended = async {
            if let Err(error) = turn.lease.close_input(&execution).await
                && !error.is_gone()
            {
                return Err(error);
            }
            loop {
                if let (_, AgentEvent::Ended(ended)) = turn.stream.next(&turn.lease).await? {
                    return Ok(ended);
                }
            }
        };
        match tokio::time::timeout(EXIT_DEADLINE, ended).await {
            Ok(Ok(Ended { how: How::Failed, message, stderr, .. })) => {
                let stderr = stderr.trim();
                Err(if stderr.is_empty() { message } else { format!("{message}): {stderr}") })
            }
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => turn.lease.cancel(&execution).await.map(|()| None).map_err(|error| error.to_string()),
        }
    }

    /// Ends a turn that has no result, and with it the driver.
    async fn fail_turn(&mut self, turn: Turn, Failure { kind, message }: Failure) -> Option<Outcome> {
        self.withdraw_all().await;
        match kind {
            ErrorKind::Cancelled => Some(self.cancelled_by_agent(turn.lease, message).await),
            ErrorKind::SessionLost if self.continues => {
                tracing::warn!(
                    workspace = turn.lease.workspace_id(),
                    message,
                    "beginning a new session with the history"
                );
                self.agent_event = 0;
                Box::pin(self.begin(turn.lease, None)).await
            }
            kind => {
                match kind {
                    ErrorKind::OutOfMemory => self.fail_for_good(ErrorType::OutOfMemory, message).await,
                    ErrorKind::ModelCredentials => {
                        let why = self.model_error(Some(403), &message);
                        self.fail(ErrorType::ModelError, why).await;
                    }
                    kind => self.fail(translate::error_type(kind), message).await,
                }
                self.end_execution(turn, ReleaseReason::Unhealthy).await;
                Some(Outcome::error())
            }
        }
    }

    /// The outcome of a result.
    async fn finish(&mut self, turn: TurnResult) -> Outcome {
        let TurnResult { is_error, mut result, session_id, usage, num_turns, model_failed, model_status, interrupted } =
            turn;
        let (mut status, mut outcome) = (DoneStatus::Success, RunOutcome::Success);
        if interrupted && self.interrupt.is_cancelled() {
            (status, outcome) = (DoneStatus::Cancelled, RunOutcome::Cancelled);
        } else if is_error {
            (status, outcome) = (DoneStatus::Error, RunOutcome::Error);
            let mut kind = ErrorType::ExecutionError;
            if model_failed {
                kind = ErrorType::ModelError;
                result = self.model_error(model_status, &result);
            }
            self.fail(kind, result.clone()).await;
        } else if self.order.conversation.title.is_none() {
            self.emit(&Event::Title { title: self.title() }).await;
        }
        Outcome { status, outcome, result, usage, turns: num_turns, session: Some(session_id) }
    }

    /// Handles a cancellation that this server did not request: the agent cancels an execution that no client has followed for too
    /// long, or when its container stops.
    async fn cancelled_by_agent(&mut self, lease: Lease, why: String) -> Outcome {
        if !lease.stays_alive(SHUTDOWN_OF_AGENT).await {
            return self.replace_room(lease, ReleaseReason::Dead, why).await;
        }
        self.fail(ErrorType::ExecutionError, why).await;
        self.store_files_and_finish(lease, None).await;
        Outcome::error()
    }

    /// Cancels the execution. A workspace whose agent does not confirm that is removed, for this reason; `false` if it was.
    async fn end_execution(&mut self, turn: Turn, or: ReleaseReason) -> bool {
        self.cancel_execution(turn.lease, turn.stream.execution(), or).await
    }

    /// As [`Run::end_execution`].
    pub(super) async fn cancel_execution(&mut self, lease: Lease, execution: Option<&str>, or: ReleaseReason) -> bool {
        let ended = match execution {
            Some(execution) => lease.cancel(execution).await.map_err(|error| error.to_string()),
            None => Err("the agent has not reported the execution's id".into()),
        };
        match ended {
            Ok(()) => {
                self.store_files_and_finish(lease, None).await;
                true
            }
            Err(error) => {
                tracing::warn!(
                    workspace = lease.workspace_id(),
                    error,
                    "execution not cancelled; removing the workspace"
                );
                lease.release(or).await;
                false
            }
        }
    }

    async fn time_out(&mut self, turn: Turn) -> Outcome {
        let limit = self.longest();
        let kept = self.end_execution(turn, ReleaseReason::Timeout).await;
        let workspace = if kept { "it was ended, and its workspace was kept" } else { "its workspace was removed" };
        let message = format!("the run took longer than {limit:?} ({}); {workspace}", self.longest_is_from());
        self.fail(ErrorType::TimeoutError, message).await;
        Outcome::without_result(DoneStatus::Error, RunOutcome::Timeout)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
