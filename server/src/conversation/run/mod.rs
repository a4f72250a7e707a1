//! One run: a room, an execution in it, and the journal of what happened.

mod end;
mod files;
mod follow;
mod request;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nagaya_protocol::Usage;
use tokio_util::sync::CancellationToken;

use super::event::{DoneStatus, ErrorType, Event};
use super::journal::{Journal, Note, Past, PastExecution};
use super::order::Order;
use super::recovery::Stream;
use super::services::RunServices;
use super::store::{Conversation, ConversationStatus, StoreError};
use super::translate::{self, Translator};
use nagaya_telemetry::audit;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::{AcquireError, Lease, OnShutdown, Origin, ReleaseReason};

/// How often a reader hears that the run goes on.
const PING: Duration = Duration::from_secs(10);

/// A run under way.
#[derive(Debug)]
pub(super) struct Run {
    services: RunServices,
    order: Order,
    past: Past,
    journal: Arc<Journal>,
    cancel: CancellationToken,
    stop: CancellationToken,
    translator: Translator,
    /// The room it is, or was, in.
    room: Option<String>,
    began: Timestamp,
    errors: Vec<String>,
    /// Number of the agent's event that is being told; 0 for none.
    agent: u64,
    /// How many of its events an earlier process has told already.
    told: usize,
    /// Messages from this event on are in the journal, but not yet in the database.
    unkept: Option<usize>,
}

/// How a run ended, before it is told.
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
}

impl Run {
    /// A run that goes on from its past, which may be nothing.
    pub(super) fn new(
        services: RunServices,
        mut past: Past,
        journal: Arc<Journal>,
        cancel: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let order = past.head.order.clone();
        let (conversation, request_id) = (order.conversation.conversation_id.clone(), order.request_id.clone());
        let translator = Translator::new(conversation, request_id, std::mem::take(&mut past.tools));
        if past.cancelled {
            cancel.cancel();
        }
        Self {
            services,
            order,
            journal,
            cancel,
            stop,
            translator,
            room: past.room.clone(),
            began: past.head.began,
            errors: std::mem::take(&mut past.errors),
            agent: 0,
            told: 0,
            unkept: Some(0),
            past,
        }
    }

    /// From the first event, or from where an earlier process stopped, to `done`. `false` where this process stops and
    /// something is left for the next to do.
    pub(super) async fn drive(mut self) -> bool {
        self.catch_up().await;
        let ending = match self.past.ending.take() {
            Some(ending) => ending,
            // A run that panicked: there is no more to it.
            None if self.past.done => return self.settled(),
            None => match self.course().await {
                Some(outcome) => self.ending(outcome).await,
                None => return self.leave().await,
            },
        };
        self.conclude(ending).await
    }

    /// `None` where the run goes on without this process.
    async fn course(&mut self) -> Option<Outcome> {
        match (self.past.room.take(), self.past.execution.take()) {
            (None, _) => self.set_out().await,
            (Some(room), execution) => self.take_up(&room, execution).await,
        }
    }

    async fn set_out(&mut self) -> Option<Outcome> {
        // It may have been archived or deleted between its look-up and the run's entry into the table, from where on a
        // deletion sees the run: then no room must be opened for it any more.
        let (tenant, id) = (&self.order.conversation.tenant_id, &self.order.conversation.conversation_id);
        match self.services.store.conversation(tenant, id).await {
            Ok(Conversation { status: ConversationStatus::Archived, .. }) | Err(StoreError::NotFound(_)) => {
                return Some(Outcome::cancelled());
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(conversation = id, %error, "a run begins without a look at its conversation"),
        }
        self.say(&Event::setup("Opening a room")).await;
        let lease = match self.services.cluster.acquire(self.occupant()).await {
            Ok(lease) => lease,
            Err(error) => {
                let kind = match error {
                    AcquireError::Busy => ErrorType::ConversationLocked,
                    _ => ErrorType::WorkspaceError,
                };
                self.fail(kind, error.to_string(), true).await;
                return Some(Outcome::error());
            }
        };
        self.is_in(lease.workspace_id());
        let origin = match lease.origin() {
            Origin::Reused => "the conversation's own",
            Origin::Warm => "from the warm pool",
            Origin::Cold => "newly made",
        };
        self.say(&Event::setup(format!("Room {} is ready: {origin}, {} ms", lease.workspace_id(), self.elapsed_ms())))
            .await;
        self.bring_files(&lease).await;
        if let Err(why) = self.bring_uploads(&lease).await {
            let why = format!("files of the request are not in the room: {why}; the model was not asked");
            self.fail(ErrorType::StorageError, why, true).await;
            self.part(lease, None).await;
            return Some(Outcome::error());
        }
        if self.cancel.is_cancelled() {
            return Some(Outcome::cancelled());
        }
        if self.stop.is_cancelled() && self.services.on_shutdown == OnShutdown::Keep {
            return None;
        }
        // Before the agent is asked: from here on a restarted server must look into this room.
        if let Err(error) = self.journal.note(&Note::Room { workspace: lease.workspace_id().into() }) {
            return Some(self.unwritable(lease, None, error).await);
        }
        self.forget_uploads();
        let request = match self.request(&lease).await {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(conversation = self.order.conversation.conversation_id, %error, "no history for a new room");
                let why = "what was said so far cannot be read, and the room does not know it; try again".to_owned();
                self.fail(ErrorType::ExecutionError, why, true).await;
                lease.finish(None).await;
                return Some(Outcome::error());
            }
        };
        match lease.execute(&request, self.order.request_id.as_deref()).await {
            Ok(stream) => self.follow(lease, Stream::new(stream), self.services.execution_timeout).await,
            Err(error) => Some(self.give_up(lease, error.to_string()).await),
        }
    }

    /// Takes up what an earlier process left in a room.
    async fn take_up(&mut self, room: &str, execution: Option<PastExecution>) -> Option<Outcome> {
        self.is_in(room);
        let reattached = self.services.cluster.workspaces().reattach(self.occupant(), room);
        let Some(lease) = self.stop.run_until_cancelled(reattached).await? else {
            let why = "the room was lost: it did not outlive the server's absence".to_owned();
            self.crashed(&why);
            self.fail(ErrorType::ExecutionError, why, true).await;
            let acquired = self.services.cluster.acquire(self.occupant()).await;
            self.move_on(acquired).await;
            return Some(Outcome::error());
        };
        let Some(PastExecution { id, began }) = execution else {
            // Whether the agent was reached, and under which id the execution goes on, nobody knows.
            let why = "the server was gone before the agent had answered".to_owned();
            return Some(self.give_up(lease, why).await);
        };
        // The last of the agent's events once more: it may have been told in part only.
        match Stream::take_up(&lease, id, self.past.agent.saturating_sub(1)).await {
            Ok(stream) => {
                let left = self.services.execution_timeout.saturating_sub(since(began));
                self.follow(lease, stream, left).await
            }
            Err(error) => Some(self.give_up(lease, error.to_string()).await),
        }
    }

    /// From here on every line of the log about this run tells the room, too.
    fn is_in(&mut self, workspace: &str) {
        tracing::Span::current().record("workspace", workspace);
        tracing::info!(conversation = self.order.conversation.conversation_id, "the run has a room");
        self.room = Some(workspace.to_owned());
    }

    fn crashed(&self, reason: &str) {
        self.services.metrics.crashed();
        let (run, request_id) = (self.journal.run_id(), self.order.request_id.as_deref());
        let subject = self.order.subject(self.room.as_deref());
        tracing::warn!(run, reason, "a room was lost under a run");
        self.services.audit.record(&audit::Event::RoomCrashed { subject, run, request_id, reason });
    }

    fn occupant(&self) -> Occupant {
        let conversation = &self.order.conversation;
        Occupant { conversation: conversation.conversation_id.clone(), tenant: conversation.tenant_id.clone() }
    }

    fn title(&self) -> String {
        translate::shorten(&self.order.user_input)
    }

    /// The disk does not take the journal: a run that could not be read again must not go on.
    async fn unwritable(&mut self, lease: Lease, execution: Option<&str>, error: std::io::Error) -> Outcome {
        self.agent = 0;
        self.fail(ErrorType::InternalError, format!("the run's journal cannot be written: {error}"), true).await;
        match execution {
            Some(_) => self.end_execution(lease, execution).await,
            None => lease.finish(None).await,
        }
        Outcome::error()
    }

    /// The room cannot be talked to: it goes, and where another can be had, that is told.
    async fn give_up(&mut self, lease: Lease, why: String) -> Outcome {
        self.crashed(&why);
        self.agent = 0;
        self.fail(ErrorType::ExecutionError, format!("the room was lost: {why}"), true).await;
        // The new room need not wait until the old one is gone; the end of the run does: something may still go on in there.
        let cluster = self.services.cluster.clone();
        let (old_is_gone, acquired) = cluster.replace(lease, ReleaseReason::Dead).await;
        self.move_on(acquired).await;
        old_is_gone.await;
        Outcome::error()
    }

    async fn move_on(&mut self, acquired: Result<Lease, AcquireError>) {
        match acquired {
            Ok(lease) => {
                self.bring_files(&lease).await;
                lease.finish(None).await;
                self.say(&Event::ContainerRecovered {
                    message: "The room was lost; a new one stands ready".into(),
                    recovered: true,
                    retry_recommended: true,
                })
                .await;
            }
            Err(error) => self.fail(ErrorType::WorkspaceError, format!("no new room: {error}"), true).await,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.began)
    }
}

fn millis(began: Timestamp) -> u64 {
    u64::try_from(since(began).as_millis()).unwrap_or(u64::MAX)
}

/// Time since then, by a clock that goes on while no server runs.
fn since(then: Timestamp) -> Duration {
    Timestamp::now().duration_since(then).try_into().unwrap_or_default()
}
