//! Follows an execution in a workspace to its end.

use std::time::Duration;

use jiff::Timestamp;
use nagaya_protocol::{AgentEvent, ErrorKind, Usage};

use super::{Outcome, PING, Run, model_error};
use crate::conversation::event::{DoneStatus, ErrorType, Event};
use crate::conversation::journal::Note;
use crate::conversation::recovery::Stream;
use crate::conversation::translate;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::{Lease, OnShutdown, ReleaseReason};

/// How long to watch whether an agent stays alive: longer than an agent that is shutting down keeps answering.
const SHUTDOWN_OF_AGENT: Duration = Duration::from_secs(2);

impl Run {
    /// Follows the execution for at most `left`; `None` if the execution is left to the next process.
    pub(super) async fn follow(&mut self, lease: Lease, mut stream: Stream, left: Duration) -> Option<Outcome> {
        let time_up = tokio::time::sleep(left);
        tokio::pin!(time_up);
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        loop {
            let event = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.end_execution(lease, stream.execution(), ReleaseReason::Unhealthy).await;
                    return Some(Outcome::cancelled());
                }
                () = self.stop.cancelled() => {
                    if self.services.on_shutdown == OnShutdown::Keep && stream.execution().is_some() {
                        return None;
                    }
                    self.fail(ErrorType::ServerStopping, "the server is stopping".into()).await;
                    self.end_execution(lease, stream.execution(), ReleaseReason::Unhealthy).await;
                    return Some(Outcome::error());
                }
                () = &mut time_up => return Some(self.time_out(lease, stream.execution()).await),
                _ = ping.tick() => {
                    self.emit(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await;
                    continue;
                }
                event = stream.next(&lease) => event,
            };
            let mut received = match event {
                Ok(event) => Some(event),
                Err(error) => return Some(self.give_up_agent(lease, &error).await),
            };
            // Events that have arrived together are written together: one write(2) per event would dominate the cost of a run.
            while let Some((number, event)) = received {
                self.set_agent_event(number);
                match event {
                    AgentEvent::Usage { usage } => self.usage = usage,
                    AgentEvent::Result {
                        is_error,
                        mut result,
                        session_id,
                        usage,
                        num_turns,
                        model_failed,
                        model_status,
                        ..
                    } => {
                        let mut kind = ErrorType::ExecutionError;
                        if model_failed {
                            kind = ErrorType::ModelError;
                            result = self.model_error(model_status, &result);
                        }
                        let failure = is_error.then_some(kind);
                        let outcome = self.finish(failure, result, session_id.clone(), usage, num_turns).await;
                        self.store_files_and_finish(lease, Some(session_id)).await;
                        return Some(outcome);
                    }
                    AgentEvent::Error { error_type: ErrorKind::Cancelled, message } => {
                        return Some(self.cancelled_by_agent(lease, message).await);
                    }
                    AgentEvent::Error { error_type: ErrorKind::SessionLost, message } if self.continues => {
                        tracing::warn!(
                            workspace = lease.workspace_id(),
                            message,
                            "beginning a new session with the history"
                        );
                        self.agent_event = 0;
                        return Box::pin(self.begin(lease, None)).await;
                    }
                    AgentEvent::Error { error_type: ErrorKind::OutOfMemory, message } => {
                        self.fail_for_good(ErrorType::OutOfMemory, message).await;
                        self.store_files_and_finish(lease, None).await;
                        return Some(Outcome::error());
                    }
                    AgentEvent::Error { error_type: ErrorKind::ModelCredentials, message } => {
                        let why = self.model_error(Some(403), &message);
                        self.fail(ErrorType::ModelError, why).await;
                        self.store_files_and_finish(lease, None).await;
                        return Some(Outcome::error());
                    }
                    AgentEvent::Error { error_type, message } => {
                        self.fail(translate::error_type(error_type), message).await;
                        self.store_files_and_finish(lease, None).await;
                        return Some(Outcome::error());
                    }
                    AgentEvent::Started { execution_id } => self.note_execution(execution_id),
                    event => {
                        if matches!(event, AgentEvent::ToolResult { .. }) {
                            lease.files_changed();
                        }
                        self.forward(event).await;
                    }
                }
                if let Some(excess) = self.translator.excess().or_else(|| self.journal.full()) {
                    return Some(self.give_up_agent(lease, &AgentError::Hostile(excess)).await);
                }
                received = stream.arrived();
            }
            self.agent_event = 0;
            if let Err(error) = self.journal.flush() {
                return Some(self.end_without_journal(lease, stream.execution(), error).await);
            }
        }
    }

    fn model_error(&self, status: Option<u16>, said: &str) -> String {
        model_error::message(&self.services.providers, &self.order.model, status, said)
    }

    fn note_execution(&self, id: String) {
        if self.past.agent_event == 0
            && let Err(error) = self.journal.note(&Note::Execution { id, began: Timestamp::now() })
        {
            // The line stays pending; the flush after this batch of events reports the failure and ends the run.
            tracing::warn!(run = self.journal.run_id(), %error, "the execution was not written to the journal");
        }
    }

    async fn forward(&mut self, event: AgentEvent) {
        for event in self.translator.translate(event) {
            self.put(&event).await;
        }
    }

    async fn finish(
        &mut self,
        failure: Option<ErrorType>,
        result: String,
        session: String,
        usage: Usage,
        turns: u32,
    ) -> Outcome {
        let (status, outcome) = match failure {
            Some(_) => (DoneStatus::Error, RunOutcome::Error),
            None => (DoneStatus::Success, RunOutcome::Success),
        };
        if let Some(kind) = failure {
            self.fail(kind, result.clone()).await;
        } else if self.order.conversation.title.is_none() {
            self.emit(&Event::Title { title: self.title() }).await;
        }
        Outcome { status, outcome, result, usage, turns, session: Some(session) }
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
    pub(super) async fn end_execution(&mut self, lease: Lease, execution: Option<&str>, or: ReleaseReason) -> bool {
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

    async fn time_out(&mut self, lease: Lease, execution: Option<&str>) -> Outcome {
        let limit = self.longest();
        let kept = self.end_execution(lease, execution, ReleaseReason::Timeout).await;
        let workspace = if kept { "it was ended, and its workspace was kept" } else { "its workspace was removed" };
        let message = format!("the run took longer than {limit:?} ({}); {workspace}", self.longest_is_from());
        self.fail(ErrorType::TimeoutError, message).await;
        Outcome::without_result(DoneStatus::Error, RunOutcome::Timeout)
    }
}
