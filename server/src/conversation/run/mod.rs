//! One run: a workspace, an execution in it, and the journal of what happens.

mod acquire;
mod asking;
mod begin;
mod content;
mod end;
mod files;
mod follow;
mod model_error;
mod record;
mod request;
mod skills;
mod spending;
mod started;
mod transcript;
mod turn_end;

pub use started::PoolDriver;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nagaya_driver::Usage;
use tokio_util::sync::CancellationToken;

use super::approvals::Approvals;
use super::cost::Meter;
use super::event::{DoneStatus, ErrorType, Event};
use super::journal::{Journal, Past};
use super::order::Order;
use super::services::RunServices;
use super::store::{ConversationStatus, StoreError};
use super::translate::{self, Translator};
use nagaya_telemetry::audit;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::{AcquireError, Lease, ReleaseReason};

/// Interval of the `ping` events.
const PING: Duration = Duration::from_secs(10);

/// A run in progress.
#[derive(Debug)]
pub(super) struct Run {
    services: RunServices,
    order: Order,
    past: Past,
    journal: Arc<Journal>,
    cancel: CancellationToken,
    interrupt: CancellationToken,
    approvals: Arc<Approvals>,
    stop: CancellationToken,
    translator: Translator,
    /// Id of the room that the run is, or was, in.
    room: Option<String>,
    began: Timestamp,
    /// Messages of the `error` events so far.
    errors: Vec<String>,
    /// Number of the agent's event that is being handled; 0 for none.
    agent_event: u64,
    /// How many of its events an earlier process has recorded, and this one skips.
    recorded: usize,
    /// Number of the first event whose message is in the journal but not in the database; 0 is the user's message.
    first_missing: Option<usize>,
    /// The database has refused a part of the run.
    refused: bool,
    /// Tokens that the execution has reported so far.
    usage: Usage,
    /// What they cost.
    meter: Meter,
    /// Whether a new driver was to continue a session, instead of being told the history.
    continues: bool,
    /// Whether that session was restored from what is stored.
    restored: bool,
    /// Whether the workspace is as it was in the pool.
    untouched: bool,
    /// What is not stored yet of the driver's transcript.
    unstored: transcript::Unstored,
    /// Questions that nobody has answered since somebody has answered one.
    unanswered: u32,
}

/// What requests have to do with a run in progress.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    /// Cancelled when the run is to be cancelled: its driver ends.
    pub(super) cancel: CancellationToken,
    /// Cancelled when the turn is to be interrupted: its driver lives on.
    pub(super) interrupt: CancellationToken,
    /// What the driver has asked.
    pub(super) approvals: Arc<Approvals>,
}

/// Whether a run is finished in every respect, or the next process has something left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The run has ended and is in the database.
    Yes,
    /// The run continues, or is not in the database yet; the next process resumes it from the journal.
    No,
    /// Another server has taken the run over.
    Elsewhere,
}

/// The result of a run before it is written to the journal and reported.
struct Outcome {
    status: DoneStatus,
    outcome: RunOutcome,
    result: String,
    usage: Usage,
    turns: u32,
    session: Option<String>,
    stop_reason: Option<String>,
    structured_output: Option<serde_json::Value>,
}

impl Outcome {
    fn without_result(status: DoneStatus, outcome: RunOutcome) -> Self {
        Self {
            status,
            outcome,
            result: String::new(),
            usage: Usage::default(),
            turns: 0,
            session: None,
            stop_reason: None,
            structured_output: None,
        }
    }

    fn error() -> Self {
        Self::without_result(DoneStatus::Error, RunOutcome::Error)
    }

    fn cancelled() -> Self {
        Self::without_result(DoneStatus::Cancelled, RunOutcome::Cancelled)
    }

    /// Makes this the outcome of a failed run, with the usage that was reported.
    fn fail(&mut self) {
        (self.status, self.outcome) = (DoneStatus::Error, RunOutcome::Error);
    }
}

impl Run {
    /// A run that continues from its past; a new run has an empty one.
    pub(super) fn new(
        services: RunServices,
        mut past: Past,
        journal: Arc<Journal>,
        signals: Signals,
        stop: CancellationToken,
    ) -> Self {
        let Signals { cancel, interrupt, approvals } = signals;
        let order = past.head.order.clone();
        let meter = Meter::new(order.model.input_token_price, order.model.output_token_price);
        let (conversation, request_id) = (order.conversation.conversation_id.clone(), order.request_id.clone());
        let translator = Translator::new(conversation, request_id, services.driver.clone(), past.take_known_before());
        if past.cancelled {
            cancel.cancel();
        }
        if past.interrupted {
            interrupt.cancel();
        }
        Self {
            services,
            order,
            journal,
            cancel,
            interrupt,
            approvals,
            stop,
            translator,
            room: past.room.clone(),
            began: past.head.began,
            errors: std::mem::take(&mut past.errors),
            agent_event: 0,
            recorded: 0,
            first_missing: Some(0),
            refused: false,
            usage: Usage::default(),
            meter,
            continues: false,
            restored: false,
            untouched: false,
            unstored: transcript::Unstored::default(),
            unanswered: 0,
            past,
        }
    }

    /// Drives the run from its first event, or from where an earlier process stopped, to `done`.
    pub(super) async fn drive(mut self) -> Settled {
        self.catch_up().await;
        self.ask_again().await;
        let ending = match self.past.ending.take() {
            Some(ending) => ending,
            // The run has panicked in an earlier process, which wrote `done` without an ending.
            None if self.past.done => return self.mark_settled().await,
            None => match Box::pin(self.execute()).await {
                Some(outcome) => {
                    self.withdraw_all().await;
                    self.write_ending(outcome).await
                }
                None if self.journal.is_taken_over() => return Settled::Elsewhere,
                None => return self.leave().await,
            },
        };
        self.conclude(ending).await
    }

    /// Starts the execution, or continues an earlier process's; `None` if the run is left to the next process.
    async fn execute(&mut self) -> Option<Outcome> {
        match (self.past.room.take(), self.past.execution.take()) {
            (None, _) => self.start().await,
            (Some(room), execution) => Box::pin(self.resume(&room, execution)).await,
        }
    }

    /// Whether the conversation was archived or deleted, so that no workspace may be acquired for it any more.
    async fn has_no_conversation(&self) -> bool {
        let (tenant, id) = (&self.order.conversation.tenant_id, &self.order.conversation.conversation_id);
        match self.services.store.conversation(tenant, id).await {
            Ok(conversation) => conversation.status == ConversationStatus::Archived,
            Err(StoreError::NotFound(_)) => true,
            Err(error) => {
                tracing::warn!(conversation = id, %error, "the conversation's status was not checked before its run");
                false
            }
        }
    }

    /// Notes the run's room and adds its id to every following log line of the run.
    fn enter(&mut self, workspace: &str) {
        tracing::Span::current().record("workspace", workspace);
        tracing::info!(conversation = self.order.conversation.conversation_id, "the run has a workspace");
        self.room = Some(workspace.to_owned());
    }

    fn report_crash(&self, reason: &str) {
        self.services.metrics.crashed();
        let (run, request_id) = (self.journal.run_id(), self.order.request_id.as_deref());
        let subject = self.order.subject(self.room.as_deref());
        tracing::warn!(run, reason, "the workspace was lost during a run");
        self.services.audit.record(&audit::Event::RoomCrashed { subject, run, request_id, reason });
    }

    fn occupant(&self) -> Occupant {
        let conversation = &self.order.conversation;
        Occupant { conversation: conversation.conversation_id.clone(), tenant: conversation.tenant_id.clone() }
    }

    fn title(&self) -> String {
        translate::shorten(&self.order.user_input)
    }

    /// Ends the run because its journal cannot be written: without it neither a client nor a restarted server can follow the run.
    async fn end_without_journal(&mut self, lease: Lease, execution: Option<&str>, error: std::io::Error) -> Outcome {
        self.agent_event = 0;
        self.fail(ErrorType::InternalError, format!("the run's journal cannot be written: {error}")).await;
        match execution {
            Some(_) => {
                self.cancel_execution(lease, execution, ReleaseReason::Unhealthy).await;
            }
            None => lease.finish(None).await,
        }
        Outcome::error()
    }

    /// Gives up a room for what its agent did, and offers a new one.
    async fn give_up_agent(&mut self, lease: Lease, error: &AgentError) -> Outcome {
        let reason = match error.is_hostile() {
            true => ReleaseReason::Hostile,
            false => lease.reason_of_silence().await,
        };
        self.replace_room(lease, reason, error.to_string()).await
    }

    /// Gives up a room, and offers a new one.
    async fn replace_room(&mut self, lease: Lease, reason: ReleaseReason, why: String) -> Outcome {
        self.report_crash(&why);
        self.agent_event = 0;
        let (kind, message) = match reason {
            ReleaseReason::Hostile => (ErrorType::LimitExceeded, format!("the workspace was removed: {why}")),
            _ => (ErrorType::ExecutionError, format!("the workspace was lost: {why}")),
        };
        self.fail(kind, message).await;
        // The new room need not wait for the removal of the old one. The end of the run must: the execution may still be running.
        let cluster = self.services.cluster.clone();
        let (removed, acquired) = cluster.replace(lease, reason).await;
        self.offer_new_room(acquired).await;
        removed.await;
        Outcome::error()
    }

    async fn offer_new_room(&mut self, acquired: Result<Lease, AcquireError>) {
        match acquired {
            Ok(lease) => {
                let assumed = self.services.cluster.workspaces().assumed_files_fate();
                let files = lease.loss().map_or(assumed, |loss| loss.files).into();
                self.restore_files(&lease).await;
                lease.finish(None).await;
                self.emit(&Event::ContainerRecovered {
                    message: "The workspace was lost; a new one is ready".into(),
                    recovered: true,
                    retry_recommended: true,
                    files,
                })
                .await;
            }
            Err(error) => self.fail(ErrorType::WorkspaceError, format!("no new workspace: {error}")).await,
        }
    }

    /// Longest time of the execution.
    fn longest(&self) -> Duration {
        let limit = self.services.execution_timeout;
        self.order.bounds.seconds.map_or(limit, |seconds| limit.min(Duration::from_secs(seconds)))
    }

    /// What sets that time.
    fn longest_is_from(&self) -> &'static str {
        if self.longest() < self.services.execution_timeout {
            "limits.run_seconds"
        } else {
            "CONTAINER_EXECUTION_TIMEOUT"
        }
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.began)
    }
}

fn millis(began: Timestamp) -> u64 {
    u64::try_from(since(began).as_millis()).unwrap_or(u64::MAX)
}

/// Time since then by the wall clock, which also counts while no server is running.
fn since(then: Timestamp) -> Duration {
    Timestamp::now().duration_since(then).try_into().unwrap_or_default()
}
