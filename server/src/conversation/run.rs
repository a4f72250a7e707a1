//! One run: a room, an execution in it, and the journal of what happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_protocol::{AgentEvent, ErrorKind, ExecuteRequest, Usage};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::cost;
use super::event::{Done, DoneStatus, ErrorType, Event, UsageReport};
use super::journal::Journal;
use super::recovery::Stream;
use super::runs::Means;
use super::store::{Conversation, Model, RunTotals, Tenant};
use super::translate::{self, Translator};
use crate::telemetry::metrics::RunOutcome;
use crate::workspace::room::Occupant;
use crate::workspace::{Lease, Origin, Why};

/// How often a reader hears that the run goes on.
const PING: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// In which conversation.
    pub conversation: Conversation,
    /// Whose it is.
    pub tenant: Tenant,
    /// With which model.
    pub model: Model,
    /// What the user asks for.
    pub user_input: String,
}

/// A run under way.
#[derive(Debug)]
pub(super) struct Run {
    means: Means,
    order: Order,
    journal: Arc<Journal>,
    cancel: CancellationToken,
    stop: CancellationToken,
    translator: Translator,
    began: Instant,
    errors: Vec<String>,
}

/// How a run ended, before it is told.
struct Ending {
    status: DoneStatus,
    outcome: RunOutcome,
    result: String,
    usage: Usage,
    turns: u32,
    session: Option<String>,
}

impl Ending {
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

/// What still has to be said where a run's code panicked.
pub(super) struct Closing {
    journal: Arc<Journal>,
    means: Means,
    began: Instant,
}

impl Closing {
    pub(super) fn after_panic(self) {
        let message = "the server failed while it was running this; it is a bug of the server".to_owned();
        tracing::error!(run = self.journal.run_id(), "a run panicked");
        self.journal.append(&Event::Error {
            error_type: ErrorType::InternalError,
            message: message.clone(),
            recoverable: false,
        });
        self.journal.append(&done(Ending::error(), "0".into(), vec![message], self.began));
        self.means.metrics.run_ended(RunOutcome::Error);
    }
}

impl Run {
    pub(super) fn new(
        means: Means,
        order: Order,
        journal: Arc<Journal>,
        cancel: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let translator = Translator::new(order.conversation.conversation_id.clone());
        Self { means, order, journal, cancel, stop, translator, began: Instant::now(), errors: Vec::new() }
    }

    pub(super) fn closing(&self) -> Closing {
        Closing { journal: self.journal.clone(), means: self.means.clone(), began: self.began }
    }

    /// From the first event to `done`.
    pub(super) async fn drive(mut self) {
        self.keep("user", None, &json!({"text": self.order.user_input})).await;
        let ending = self.course().await;
        self.conclude(ending).await;
    }

    async fn course(&mut self) -> Ending {
        self.say(&Event::setup("Opening a room")).await;
        let lease = match self.means.workspaces.acquire(self.occupant()).await {
            Ok(lease) => lease,
            Err(error) => {
                self.fail(ErrorType::WorkspaceError, error.to_string(), true).await;
                return Ending::error();
            }
        };
        let origin = match lease.origin() {
            Origin::Reused => "the conversation's own",
            Origin::Warm => "from the warm pool",
            Origin::Cold => "newly made",
        };
        let message =
            format!("Room {} is ready: {origin}, {} ms", lease.workspace_id(), self.began.elapsed().as_millis());
        self.say(&Event::setup(message)).await;
        match lease.execute(&self.request(&lease)).await {
            Ok(stream) => self.follow(lease, Stream::new(stream)).await,
            Err(error) => self.give_up(lease, error.to_string()).await,
        }
    }

    fn occupant(&self) -> Occupant {
        let conversation = &self.order.conversation;
        Occupant { conversation: conversation.conversation_id.clone(), tenant: conversation.tenant_id.clone() }
    }

    fn request(&self, lease: &Lease) -> ExecuteRequest {
        ExecuteRequest {
            user_input: self.order.user_input.clone(),
            system_prompt: self.order.tenant.system_prompt.clone(),
            model: Some(self.order.model.bedrock_model_id.clone()),
            region: self.order.model.model_region.clone(),
            session_id: lease.session().map(Into::into),
            ..ExecuteRequest::default()
        }
    }

    /// Reads the execution to its end, or ends it.
    async fn follow(&mut self, lease: Lease, mut stream: Stream) -> Ending {
        let time_up = tokio::time::sleep(self.means.execution_timeout);
        tokio::pin!(time_up);
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.end_execution(lease, &stream).await;
                    return Ending::cancelled();
                }
                () = self.stop.cancelled() => {
                    self.fail(ErrorType::ServerStopping, "the server is stopping".into(), true).await;
                    self.end_execution(lease, &stream).await;
                    return Ending::error();
                }
                () = &mut time_up => return self.time_is_up(lease).await,
                _ = ping.tick() => self.say(&Event::Ping { elapsed_ms: millis(self.began) }).await,
                event = stream.next(&lease) => match event {
                    Ok(AgentEvent::Result { is_error, result, session_id, usage, num_turns, .. }) => {
                        lease.finish(Some(session_id.clone())).await;
                        return self.judge(is_error, result, session_id, usage, num_turns).await;
                    }
                    // Nobody asked for that: the agent itself is stopping, and its room with it.
                    Ok(AgentEvent::Error { error_type: ErrorKind::Cancelled, .. }) => {
                        return self.give_up(lease, "its agent has stopped".into()).await;
                    }
                    Ok(AgentEvent::Error { error_type, message }) => {
                        lease.finish(None).await;
                        self.fail(translate::error_type(error_type), message, true).await;
                        return Ending::error();
                    }
                    Ok(event) => self.pass_on(event).await,
                    Err(lost) => return self.give_up(lease, lost.to_string()).await,
                },
            }
        }
    }

    async fn pass_on(&mut self, event: AgentEvent) {
        for event in self.translator.translate(event) {
            self.say(&event).await;
        }
    }

    async fn judge(&mut self, is_error: bool, result: String, session: String, usage: Usage, turns: u32) -> Ending {
        let (status, outcome) =
            if is_error { (DoneStatus::Error, RunOutcome::Error) } else { (DoneStatus::Success, RunOutcome::Success) };
        if is_error {
            self.fail(ErrorType::ExecutionError, result.clone(), true).await;
        } else if self.order.conversation.title.is_none() {
            self.say(&Event::Title { title: self.title() }).await;
        }
        Ending { status, outcome, result, usage, turns, session: Some(session) }
    }

    fn title(&self) -> String {
        translate::shorten(&self.order.user_input)
    }

    async fn end_execution(&mut self, lease: Lease, stream: &Stream) {
        let ended = match stream.execution() {
            Some(execution) => lease.cancel(execution).await.map_err(|error| error.to_string()),
            None => Err("the execution has not told its id".into()),
        };
        match ended {
            Ok(()) => lease.finish(None).await,
            Err(error) => {
                tracing::warn!(workspace = lease.workspace_id(), error, "execution not cancelled, so its room goes");
                lease.abandon(Why::Unhealthy).await;
            }
        }
    }

    async fn time_is_up(&mut self, lease: Lease) -> Ending {
        let limit = self.means.execution_timeout;
        // Nothing of it runs any more once the room is gone.
        lease.abandon(Why::Timeout).await;
        self.fail(ErrorType::TimeoutError, format!("the run took longer than {limit:?}; its room was replaced"), true)
            .await;
        Ending::without_result(DoneStatus::Error, RunOutcome::Timeout)
    }

    /// The room cannot be talked to: it goes, and where another can be had, that is told.
    async fn give_up(&mut self, lease: Lease, why: String) -> Ending {
        self.means.metrics.crashed();
        self.fail(ErrorType::ExecutionError, format!("the room was lost: {why}"), true).await;
        // The new room need not wait until the old one is gone; the end of the run does: something may still go on in there.
        let (old_is_gone, acquired) = lease.replace(Why::Dead).await;
        match acquired {
            Ok(lease) => {
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
        old_is_gone.await;
        Ending::error()
    }

    async fn fail(&mut self, error_type: ErrorType, message: String, recoverable: bool) {
        self.errors.push(message.clone());
        self.say(&Event::Error { error_type, message, recoverable }).await;
    }

    /// Tells the readers, and keeps what belongs into the conversation's history.
    async fn say(&self, event: &Event) {
        self.journal.append(event);
        let kept = matches!(
            event,
            Event::Assistant { .. }
                | Event::Thinking { .. }
                | Event::ToolCall { .. }
                | Event::ToolResult { .. }
                | Event::Error { .. }
        );
        if kept {
            self.keep(event.name(), None, &json!(event)).await;
        }
    }

    async fn keep(&self, kind: &str, subtype: Option<&str>, content: &serde_json::Value) {
        let conversation = &self.order.conversation.conversation_id;
        if let Err(error) = self.means.store.add_message(conversation, kind, subtype, content).await {
            tracing::error!(conversation, kind, %error, "message not kept");
        }
    }

    async fn conclude(mut self, ending: Ending) {
        let model = &self.order.model;
        let cost = cost::of_run(&ending.usage, model.input_token_price, model.output_token_price);
        let context = context_tokens(&ending.usage, ending.turns);
        let window = model.context_window.unsigned_abs();
        let full = context.is_some_and(|tokens| tokens >= window);
        if let Some(tokens) = context {
            self.say(&context_status(tokens, window)).await;
        }
        let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let totals = RunTotals {
            session_id: ending.session.clone(),
            title: (ending.status == DoneStatus::Success).then(|| self.title()),
            input_tokens: signed(ending.usage.total() - ending.usage.output_tokens),
            output_tokens: signed(ending.usage.output_tokens),
            context_tokens: context.map(signed),
            context_full: full,
        };
        let conversation = self.order.conversation.conversation_id.clone();
        if let Err(error) = self.means.store.add_run(&conversation, totals).await {
            tracing::error!(conversation, %error, "run not added to its conversation");
        }
        self.means.metrics.run_ended(ending.outcome);
        let status = ending.status;
        let done = done(ending, cost.to_string(), std::mem::take(&mut self.errors), self.began);
        let subtype = serde_json::to_value(status).ok();
        self.keep("done", subtype.as_ref().and_then(serde_json::Value::as_str), &json!(done)).await;
        tracing::info!(conversation, run = self.journal.run_id(), ?status, took_ms = millis(self.began), "run ended");
        self.journal.append(&done);
    }
}

fn done(ending: Ending, cost_usd: String, errors: Vec<String>, began: Instant) -> Event {
    Event::Done(Done {
        status: ending.status,
        result: ending.result,
        is_error: ending.status == DoneStatus::Error,
        errors,
        usage: UsageReport::from(ending.usage),
        cost_usd,
        turn_count: ending.turns,
        duration_ms: millis(began),
        session_id: ending.session,
    })
}

/// Estimate of what the next turn would send: the mean input of this run's turns, and all it has put out.
fn context_tokens(usage: &Usage, turns: u32) -> Option<u64> {
    let input = usage.total() - usage.output_tokens;
    (turns > 0).then(|| input / u64::from(turns) + usage.output_tokens)
}

fn context_status(tokens: u64, window: u64) -> Event {
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    let percent = if window == 0 { 100.0 } else { tokens as f64 * 100.0 / window as f64 };
    let warning_level = match percent {
        p if p >= 100.0 => "blocked",
        p if p >= 90.0 => "critical",
        p if p >= 75.0 => "warning",
        _ => "normal",
    };
    Event::ContextStatus {
        current_context_tokens: tokens,
        max_context_tokens: window,
        usage_percent: (percent * 10.0).round() / 10.0,
        warning_level,
        can_continue: percent < 100.0,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
