//! Starting, following and cancelling runs. Their events are server-sent events (WHATWG HTML, "Server-sent events").

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::conversations::ConversationPath;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiPath, ApiQuery};
use super::idempotency::Work;
use super::order;
use super::run_request::{self, RunForm, RunRequest, Submission};
use crate::conversation::journal::Journal;
use crate::conversation::runs::{Runs, StartError};
use nagaya_workspace::rooms::Occupant;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Query parameter of following a run.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FollowQuery {
    /// Id of the last event received, if the client cannot send `Last-Event-ID`: `<run_id>:<seq>`, or only `<seq>` for the
    /// current or last run.
    after: Option<String>,
}

/// One server-sent event of a run.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it only documents what the journal writes")]
pub(super) struct RunEvent {
    /// Id of the event, `<run_id>:<seq>`; `seq` starts at 1 and has no gaps.
    #[schema(pattern = "^[0-9a-f-]{36}:[1-9][0-9]*$")]
    id: String,
    /// Name of the event: `progress`, `init`, `assistant`, `text_delta`, `thinking`, `tool_call`, `tool_result`,
    /// `subagent_start`, `subagent_end`, `approval_required`, `question`, `approval_resolved`, `tool_request`,
    /// `tool_request_resolved`, `compacted`, `mcp_server`, `title`, `ping`, `context_status`, `error`, `container_recovered` or, for the last event, `done`. `closed`,
    /// without an id, ends a stream whose key or token has ended.
    #[schema(pattern = "^[a-z_]+$")]
    event: String,
    /// A JSON object with `seq`, `timestamp` and the event's own fields (`RunEventData`).
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// Starts a run and streams its events. Closing the connection does not end the run. Files that are sent with the request are in the
/// workspace before the run begins.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/stream", tag = "runs",
    params(ConversationPath),
    request_body(content((RunRequest = "application/json"), (RunForm = "multipart/form-data"))),
    responses((status = 200, content_type = "text/event-stream", body = RunEvent, description = "The events of the run"),
        (status = 404, body = ErrorEnvelope),
        (status = 403, body = ErrorEnvelope, description = "PATH_TRAVERSAL: a file's path leads out of the workspace"),
        (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope),
        (status = 507, body = ErrorEnvelope, description = "INSUFFICIENT_STORAGE: the server has no disk space for the files")))]
pub(super) async fn start(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    request: Request,
) -> Result<Response, ApiError> {
    // Checked before the body, which may be large, is read, and again afterwards, as the conversation may have changed meanwhile.
    order::check_startable(&app, &tenant, &path.conversation_id).await?;
    if app.runs.is_running(&path.conversation_id) {
        return Err(StartError::Locked.into());
    }
    let work = request.extensions().get::<Work>().cloned();
    let Submission { request, files } = run_request::read(&app, request).await?;
    let (batch, uploads) = files.unzip();
    let mut order = order::order(&app, &tenant, &path.conversation_id, request).await?;
    order.uploads = uploads.filter(|uploads| !uploads.files.is_empty());
    let conversation = order.conversation.conversation_id.clone();
    let occupant = Occupant { conversation: conversation.clone(), tenant: order.conversation.tenant_id.clone() };
    app.cluster.admit(&occupant).await?;
    let run_id = Runs::new_id();
    if let Some(work) = &work {
        work.starts(&run_id).await?;
    }
    let user = order.user.clone();
    let journal = app.runs.start_as(run_id, order).await?;
    if let Some(batch) = batch {
        batch.keep();
    }
    tracing::info!(conversation, run = journal.run_id(), executor = user, "run started");
    Ok(events(&journal, 0))
}

/// Streams the events of the current or last run, from its beginning or from after a given event.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/stream", tag = "runs",
    params(ConversationPath, FollowQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event received; takes precedence over `after`")),
    responses((status = 200, content_type = "text/event-stream", body = RunEvent, description = "The events of the run"),
        (status = 404, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn follow(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    let after = match (header, &query.after) {
        (Some(text), _) => Some(EventId::parse(text, "Last-Event-ID")?),
        (None, Some(text)) => Some(EventId::parse(text, "after")?),
        (None, None) => None,
    };
    app.store.conversation(&tenant, &path.conversation_id).await?;
    let journal = app.runs.journal(&path.conversation_id).await.map_err(|error| ApiError::internal(&error))?;
    let journal = journal.ok_or_else(|| ApiError::not_found("run"))?;
    let after = match after {
        Some(id) => id.position(&journal).await?,
        None => 0,
    };
    Ok(events(&journal, after))
}

/// Cancels the current run, which ends asynchronously with a `done` event.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/cancel", tag = "runs",
    params(ConversationPath),
    responses((status = 202, description = "The run will end soon"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn cancel(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<StatusCode, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    if app.runs.cancel(&path.conversation_id).await.map_err(|error| ApiError::internal(&error))? {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(ApiError::new(Code::Conflict, "no run is in progress in this conversation"))
    }
}

/// The id of an event, as clients send it.
struct EventId<'a> {
    /// The parameter or header that has it.
    field: &'static str,
    /// The run; without it, the current or last one.
    run: Option<&'a str>,
    seq: usize,
}

impl<'a> EventId<'a> {
    fn parse(text: &'a str, field: &'static str) -> Result<Self, ApiError> {
        let (run, seq) = text.rsplit_once(':').map_or((None, text), |(run, seq)| (Some(run), seq));
        match seq.parse() {
            Ok(seq) => Ok(Self { field, run, seq }),
            Err(_) => Err(ApiError::invalid(field, "must be <run_id>:<seq> or <seq>")),
        }
    }

    /// The sequence number in `journal` that the id refers to; 0, the beginning, if the id belongs to another run, or if a power failure
    /// may have taken the event from the journal.
    async fn position(&self, journal: &Arc<Journal>) -> Result<usize, ApiError> {
        if self.run.is_some_and(|run| run != journal.run_id()) {
            return Ok(0);
        }
        let counted = journal.clone();
        let last = tokio::task::spawn_blocking(move || counted.last_seq())
            .await
            .map_err(|error| ApiError::internal(&error))?;
        let last = last.map_err(|error| ApiError::internal(&error))?;
        match self.seq <= last {
            true => Ok(self.seq),
            false if journal.outlived_the_machine() => Ok(0),
            false => Err(ApiError::invalid(self.field, format!("the run's last event so far has the number {last}"))),
        }
    }
}

/// The response that streams the events of a run of this server from its beginning; `None` if this server does not have it any more.
pub(super) async fn own_events(app: &AppState, conversation: &str, run: &str) -> Result<Option<Response>, ApiError> {
    let journal = app.runs.journal(conversation).await.map_err(|error| ApiError::internal(&error))?;
    Ok(journal.filter(|journal| journal.run_id() == run).map(|journal| events(&journal, 0)))
}

/// The response that streams a run's events after the given sequence number.
fn events(journal: &Arc<Journal>, after: usize) -> Response {
    let run = journal.run_id().to_owned();
    let pieces = futures::stream::try_unfold(journal.reader(after), async |mut reader| {
        let piece = reader.next().await?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, reader)))
    });
    let pieces = pieces.inspect_err(move |error| tracing::error!(run, %error, "the journal of a run cannot be read"));
    let headers =
        [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache"), (X_ACCEL_BUFFERING, "no")];
    (headers, Body::from_stream(pieces)).into_response()
}
