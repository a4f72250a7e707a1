//! An execution in a room, read to its end.

use std::time::Duration;

use jiff::Timestamp;
use nagaya_protocol::{AgentEvent, ErrorKind, Usage};

use super::{Outcome, PING, Run};
use crate::conversation::event::{DoneStatus, ErrorType, Event};
use crate::conversation::journal::Note;
use crate::conversation::recovery::Stream;
use crate::conversation::translate;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::{Lease, OnShutdown, ReleaseReason};

/// How long an agent that ends goes on answering, and some more.
const FAREWELL: Duration = Duration::from_secs(2);

impl Run {
    /// Reads the execution to its end, or ends it, or leaves it to the next server (`None`).
    pub(super) async fn follow(&mut self, lease: Lease, mut stream: Stream, left: Duration) -> Option<Outcome> {
        let time_up = tokio::time::sleep(left);
        tokio::pin!(time_up);
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        loop {
            let event = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.end_execution(lease, stream.execution()).await;
                    return Some(Outcome::cancelled());
                }
                () = self.stop.cancelled() => {
                    if self.services.on_shutdown == OnShutdown::Keep && stream.execution().is_some() {
                        return None;
                    }
                    self.fail(ErrorType::ServerStopping, "the server is stopping".into(), true).await;
                    self.end_execution(lease, stream.execution()).await;
                    return Some(Outcome::error());
                }
                () = &mut time_up => return Some(self.time_is_up(lease).await),
                _ = ping.tick() => {
                    self.say(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await;
                    continue;
                }
                event = stream.next(&lease) => event,
            };
            let mut heard = match event {
                Ok(event) => Some(event),
                Err(lost) => return Some(self.give_up(lease, lost.to_string()).await),
            };
            // All that has arrived together is written together: a write for each would cost more than all else.
            while let Some((number, event)) = heard {
                self.hear(number);
                match event {
                    AgentEvent::Result { is_error, result, session_id, usage, num_turns, .. } => {
                        let outcome = self.judge(is_error, result, session_id.clone(), usage, num_turns).await;
                        self.part(lease, Some(session_id)).await;
                        return Some(outcome);
                    }
                    AgentEvent::Error { error_type: ErrorKind::Cancelled, message } => {
                        return Some(self.ended_unasked(lease, message).await);
                    }
                    AgentEvent::Error { error_type, message } => {
                        self.fail(translate::error_type(error_type), message, true).await;
                        self.part(lease, None).await;
                        return Some(Outcome::error());
                    }
                    AgentEvent::Started { execution_id } => self.started(execution_id),
                    event => {
                        if matches!(event, AgentEvent::ToolResult { .. }) {
                            lease.files_changed();
                        }
                        self.pass_on(event).await;
                    }
                }
                heard = stream.arrived();
            }
            self.agent = 0;
            if let Err(error) = self.journal.flush() {
                return Some(self.unwritable(lease, stream.execution(), error).await);
            }
        }
    }

    fn started(&self, id: String) {
        if self.past.agent == 0
            && let Err(error) = self.journal.note(&Note::Execution { id, began: Timestamp::now() })
        {
            // The next flush tells the same, and is looked at.
            tracing::warn!(run = self.journal.run_id(), %error, "the execution is not in the journal");
        }
    }

    async fn pass_on(&mut self, event: AgentEvent) {
        for event in self.translator.translate(event) {
            self.put(&event).await;
        }
    }

    async fn judge(&mut self, is_error: bool, result: String, session: String, usage: Usage, turns: u32) -> Outcome {
        let (status, outcome) =
            if is_error { (DoneStatus::Error, RunOutcome::Error) } else { (DoneStatus::Success, RunOutcome::Success) };
        if is_error {
            self.fail(ErrorType::ExecutionError, result.clone(), true).await;
        } else if self.order.conversation.title.is_none() {
            self.say(&Event::Title { title: self.title() }).await;
        }
        Outcome { status, outcome, result, usage, turns, session: Some(session) }
    }

    /// The agent has ended the execution, and not because we said so: nobody listened for too long, or the room itself is
    /// about to end.
    async fn ended_unasked(&mut self, lease: Lease, why: String) -> Outcome {
        if !lease.stays_alive(FAREWELL).await {
            return self.give_up(lease, why).await;
        }
        self.fail(ErrorType::ExecutionError, why, true).await;
        self.part(lease, None).await;
        Outcome::error()
    }

    pub(super) async fn end_execution(&mut self, lease: Lease, execution: Option<&str>) {
        let ended = match execution {
            Some(execution) => lease.cancel(execution).await.map_err(|error| error.to_string()),
            None => Err("the execution has not told its id".into()),
        };
        match ended {
            Ok(()) => self.part(lease, None).await,
            Err(error) => {
                tracing::warn!(workspace = lease.workspace_id(), error, "execution not cancelled, so its room goes");
                lease.release(ReleaseReason::Unhealthy).await;
            }
        }
    }

    async fn time_is_up(&mut self, lease: Lease) -> Outcome {
        let limit = self.services.execution_timeout;
        // Nothing of it runs any more once the room is gone.
        lease.release(ReleaseReason::Timeout).await;
        self.fail(ErrorType::TimeoutError, format!("the run took longer than {limit:?}; its room was replaced"), true)
            .await;
        Outcome::without_result(DoneStatus::Error, RunOutcome::Timeout)
    }
}
