//! The end of a turn, and what becomes of its driver.

use std::time::Duration;

use nagaya_driver::{ErrorKind, Failure, TurnResult};
use nagaya_protocol::{AgentEvent, Ended, How};

use super::follow::Turn;
use super::{Outcome, Run, model_error};
use crate::conversation::event::{DoneStatus, ErrorType, Event};
use crate::conversation::translate;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::{Lease, Living, ReleaseReason, Session};

/// How long to watch whether an agent stays alive: longer than an agent that is shutting down keeps answering.
const SHUTDOWN_OF_AGENT: Duration = Duration::from_secs(2);
/// How long a driver may take to end once its input is closed: longer than the agent waits for it.
const EXIT_DEADLINE: Duration = Duration::from_secs(25);

impl Run {
    fn model_error(&self, status: Option<u16>, said: &str) -> String {
        model_error::message(&self.services.providers, &self.order.model, status, said)
    }

    /// Ends a turn that has a result.
    pub(super) async fn end_turn(&mut self, mut turn: Turn, result: TurnResult) -> Outcome {
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

    /// Begins a turn again whose driver has ended before it took the input: another one continues its session.
    pub(super) async fn begin_anew(&mut self, turn: Turn) -> Option<Outcome> {
        tracing::info!(
            workspace = turn.lease.workspace_id(),
            "the driver that waited has ended; another one continues its session"
        );
        // The numbers that an earlier process has seen were those of the execution that has ended.
        (self.agent_event, self.past.agent_event) = (0, 0);
        let session = turn.lease.session().map(|session| Session::ended(session.id.clone()));
        Box::pin(self.begin(turn.lease, session)).await
    }

    /// Ends a turn that has no result, and with it the driver.
    pub(super) async fn fail_turn(&mut self, turn: Turn, Failure { kind, message }: Failure) -> Option<Outcome> {
        self.withdraw_all().await;
        match kind {
            ErrorKind::Cancelled => Some(self.cancelled_by_agent(turn.lease, message).await),
            ErrorKind::SessionLost if self.continues => {
                tracing::warn!(
                    workspace = turn.lease.workspace_id(),
                    message,
                    "beginning a new session with the history"
                );
                (self.agent_event, self.past.agent_event) = (0, 0);
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
        let TurnResult {
            is_error,
            mut result,
            session_id,
            usage,
            num_turns,
            model_failed,
            model_status,
            stop_reason,
            interrupted,
            structured_output,
        } = turn;
        let whole = (is_error && !model_failed) || model_status.is_some() || structured_output.is_some();
        let stopped = stop_reason.as_deref().filter(|_| !whole);
        let (mut status, mut outcome) = (DoneStatus::Success, RunOutcome::Success);
        if interrupted && self.interrupt.is_cancelled() {
            (status, outcome) = (DoneStatus::Cancelled, RunOutcome::Cancelled);
        } else if interrupted && let Some(why) = self.cost_exceeded() {
            (status, outcome) = (DoneStatus::Error, RunOutcome::Error);
            self.fail(ErrorType::CostLimit, why).await;
        } else if let Some((kind, why)) = model_error::no_answer(&self.order.model, stopped) {
            (status, outcome) = (DoneStatus::Error, RunOutcome::Error);
            result.clone_from(&why);
            self.fail(kind, why).await;
        } else if self.order.bounds.output_schema.is_some() && !is_error && structured_output.is_none() {
            (status, outcome) = (DoneStatus::Error, RunOutcome::Error);
            self.fail(
                ErrorType::OutputInvalid,
                "the model has given no result that keeps to agent.output_schema".into(),
            )
            .await;
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
        let (turns, session) = (num_turns, Some(session_id));
        Outcome { status, outcome, result, usage, turns, session, stop_reason, structured_output }
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
    pub(super) async fn end_execution(&mut self, turn: Turn, or: ReleaseReason) -> bool {
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

    pub(super) async fn time_out(&mut self, turn: Turn) -> Outcome {
        let limit = self.longest();
        let kept = self.end_execution(turn, ReleaseReason::Timeout).await;
        let workspace = if kept { "it was ended, and its workspace was kept" } else { "its workspace was removed" };
        let message = format!("the run took longer than {limit:?} ({}); {workspace}", self.longest_is_from());
        self.fail(ErrorType::TimeoutError, message).await;
        Outcome::without_result(DoneStatus::Error, RunOutcome::Timeout)
    }
}
