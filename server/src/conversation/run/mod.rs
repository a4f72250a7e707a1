//! One run: a workspace, an execution in it, and the journal of what happens.

mod acquire;
mod asking;
mod end;
mod files;
mod follow;
mod model_error;
mod record;
mod request;
mod turn_end;

pub use asking::answers;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nagaya_driver::Usage;
use nagaya_protocol::ExecuteRequest;
use tokio_util::sync::CancellationToken;

use super::approvals::Approvals;
use super::event::{DoneStatus, ErrorType, Event};
use super::journal::{Journal, Note, Past, PastExecution};
use super::order::Order;
use super::recovery::Stream;
use super::services::RunServices;
use super::store::{ConversationStatus, StoreError};
use super::translate::{self, Translator};
use follow::Turn;
use nagaya_telemetry::audit;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::{AcquireError, Lease, Living, OnShutdown, Origin, ReleaseReason, Session};
use request::digest;

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
    /// Whether a new driver was to continue a session, instead of being told the history.
    continues: bool,
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
}

/// The result of a run before it is written to the journal and reported.
struct Outcome {
    status: DoneStatus,
    outcome: RunOutcome,
    result: String,
    usage: Usage,
    turns: u32,
    session: Option<String>,
}

impl Outcome {
    fn without_result(status: DoneStatus, outcome: RunOutcome) -> Self {
        Self { status, outcome, result: String::new(), usage: Usage::default(), turns: 0, session: None }
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
        let (conversation, request_id) = (order.conversation.conversation_id.clone(), order.request_id.clone());
        let translator = Translator::new(conversation, request_id, std::mem::take(&mut past.tools));
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
            continues: false,
            past,
        }
    }

    /// Drives the run from its first event, or from where an earlier process stopped, to `done`.
    pub(super) async fn drive(mut self) -> Settled {
        self.catch_up().await;
        self.ask_again();
        let ending = match self.past.ending.take() {
            Some(ending) => ending,
            // The run has panicked in an earlier process, which wrote `done` without an ending.
            None if self.past.done => return self.mark_settled(),
            None => match self.execute().await {
                Some(outcome) => {
                    self.withdraw_all().await;
                    self.write_ending(outcome).await
                }
                None => return self.leave().await,
            },
        };
        self.conclude(ending).await
    }

    /// Starts the execution, or continues an earlier process's; `None` if the run is left to the next process.
    async fn execute(&mut self) -> Option<Outcome> {
        match (self.past.room.take(), self.past.execution.take()) {
            (None, _) => self.start().await,
            (Some(room), execution) => self.resume(&room, execution).await,
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

    /// Acquires a workspace, starts the execution in it and follows that to its end.
    async fn start(&mut self) -> Option<Outcome> {
        // The conversation may have been archived or deleted between the request's look-up and the run's entry into the table. From
        // the entry on a deletion cancels the run, so this second look closes the gap.
        if self.has_no_conversation().await {
            return Some(Outcome::cancelled());
        }
        self.emit(&Event::setup("Opening a workspace")).await;
        let lease = match self.acquire().await {
            Ok(lease) => lease,
            Err(_) if self.cancel.is_cancelled() => return Some(Outcome::cancelled()),
            Err(error) => {
                let kind = match error {
                    AcquireError::Busy => ErrorType::ConversationLocked,
                    _ => ErrorType::WorkspaceError,
                };
                self.fail(kind, error.to_string()).await;
                return Some(Outcome::error());
            }
        };
        self.enter(lease.workspace_id());
        let origin = match lease.origin() {
            Origin::Reused => "already the conversation's",
            Origin::Warm => "from the warm pool",
            Origin::Cold => "newly created",
        };
        let (workspace, took_ms) = (lease.workspace_id(), self.elapsed_ms());
        self.emit(&Event::setup(format!("Workspace {workspace} is ready: {origin}, {took_ms} ms"))).await;
        if let Some(loss) = lease.loss() {
            let message = format!(
                "The conversation's former workspace was lost: {}. This run has a new one",
                loss.why.explanation()
            );
            let files = loss.files.into();
            self.emit(&Event::ContainerRecovered { message, recovered: true, retry_recommended: false, files }).await;
        }
        self.restore_files(&lease).await;
        if let Err(why) = self.copy_uploads(&lease).await {
            let why = format!("files of the request are not in the workspace: {why}; the model was not called");
            self.fail(ErrorType::StorageError, why).await;
            self.store_files_and_finish(lease, None).await;
            return Some(Outcome::error());
        }
        if self.cancel.is_cancelled() {
            return Some(Outcome::cancelled());
        }
        if self.stop.is_cancelled() && self.services.on_shutdown == OnShutdown::Keep {
            return None;
        }
        // Before the request to the agent: from here on a restarted server must look for the execution in this room.
        if let Err(error) = self.journal.note(&Note::Room { workspace: lease.workspace_id().into() }) {
            return Some(self.end_without_journal(lease, None, error).await);
        }
        self.remove_uploads();
        let session = lease.session().cloned();
        self.begin(lease, session).await
    }

    /// Begins a turn, and follows it: of the driver that waits for it, else of a new one, which continues the driver's session or is told
    /// the history where there is none.
    async fn begin(&mut self, lease: Lease, session: Option<Session>) -> Option<Outcome> {
        let driver = self.services.driver.clone();
        let mut options = self.options();
        let digest = digest(&options);
        let run = self.journal.run_id().to_owned();
        if let Some(Living { execution, read, options: started_with }) = session.as_ref().and_then(|s| s.living.clone())
        {
            if started_with == digest {
                let lines = driver.prompt(&run, &self.input());
                if lease.write(&execution, &run, lines).await.is_ok() {
                    self.note_execution(execution.clone(), read);
                    if let Ok(stream) = Stream::resume(&lease, execution.clone(), read).await {
                        self.continues = false;
                        let turn = Turn::new(lease, stream, driver.dialogue(Some(&run)), digest, self.longest());
                        return self.follow(turn).await;
                    }
                }
            }
            // It has ended, does not answer, or was started with other options.
            if let Err(error) = lease.cancel(&execution).await {
                return Some(self.give_up_agent(lease, &error).await);
            }
        }
        self.continues = session.is_some();
        options.session = session.map(|session| session.id);
        let input = match self.continues {
            true => self.input(),
            false => match self.input_with_history().await {
                Ok(input) => input,
                Err(error) => {
                    tracing::error!(conversation = self.order.conversation.conversation_id, %error, "cannot read the history for a new session");
                    let why =
                        "the conversation's history cannot be read, and its workspace does not have it; try again";
                    self.fail(ErrorType::ExecutionError, why.to_owned()).await;
                    lease.finish(None).await;
                    return Some(Outcome::error());
                }
            },
        };
        let request = ExecuteRequest { input: driver.prompt(&run, &input), ..driver.start(&options) };
        let request_id = self.order.request_id.clone();
        let mut started = lease.execute(&request, request_id.as_deref()).await;
        if matches!(&started, Err(error) if error.is_busy()) {
            started = match lease.cancel_stray().await {
                Ok(()) => lease.execute(&request, request_id.as_deref()).await,
                Err(error) => Err(error),
            };
        }
        match started {
            Ok(stream) => {
                let turn = Turn::new(lease, Stream::new(stream), driver.dialogue(None), digest, self.longest());
                self.follow(turn).await
            }
            Err(error) => Some(self.give_up_agent(lease, &error).await),
        }
    }

    /// Continues an execution that an earlier process has left in a room.
    async fn resume(&mut self, room: &str, execution: Option<PastExecution>) -> Option<Outcome> {
        self.enter(room);
        let reattached = self.services.cluster.workspaces().reattach(self.occupant(), room);
        let lease = self.stop.run_until_cancelled(reattached).await?;
        // The driver in a room of an earlier version cannot be followed.
        let Some(lease) = lease.filter(|lease| !lease.is_outdated()) else {
            if self.has_no_conversation().await {
                return Some(Outcome::cancelled());
            }
            let why = "the workspace was lost: it ended while no server was running".to_owned();
            self.report_crash(&why);
            self.fail(ErrorType::ExecutionError, why).await;
            let acquired = self.services.cluster.acquire(self.occupant()).await;
            self.offer_new_room(acquired).await;
            return Some(Outcome::error());
        };
        let Some(PastExecution { id, began, after }) = execution else {
            // The agent may have started an execution, whose id is not known: only a new room is sure to be free of it.
            let why = "the server stopped before the agent had answered".to_owned();
            return Some(self.replace_room(lease, ReleaseReason::Dead, why).await);
        };
        // The turn is read from its beginning, for what its first events say of the later ones; where the agent no longer has them, from
        // the last one that was handled, of whose events only some may be in the journal.
        let (stream, whole) = match Stream::resume(&lease, id.clone(), after).await {
            Err(error) if error.is_gone() => {
                (Stream::resume(&lease, id, self.past.agent_event.saturating_sub(1)).await, false)
            }
            stream => (stream, true),
        };
        let run = self.journal.run_id().to_owned();
        match stream {
            Ok(stream) => {
                let left = self.longest().saturating_sub(since(began));
                let digest = digest(&self.options());
                let after_others = (whole && after > 0).then_some(run.as_str());
                let dialogue = self.services.driver.dialogue(after_others);
                self.follow(Turn::new(lease, stream, dialogue, digest, left)).await
            }
            Err(error) => Some(self.give_up_agent(lease, &error).await),
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
