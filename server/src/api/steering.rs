//! Messages to a conversation whose run is in progress, and interruptions of its turn.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::attempts::Attempts;
use super::auth::TenantScope;
use super::conversations::ConversationPath;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, ApiQuery};
use super::order;
use super::run_request::{self, RunRequest};
use nagaya_workspace::rooms::Occupant;

/// Query parameter of a message.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessageQuery {
    /// Same as `interrupt` in the body; give one of them.
    interrupt: Option<bool>,
}

/// A message that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// Id of the run that the message begins; its events have this id before the colon.
    run_id: String,
    /// How many runs are before it; 0 if it has begun.
    before: usize,
}

/// Sends a message to the conversation. It begins a run at once, or when the run in progress and the messages before it have ended; with
/// `interrupt` the turn in progress is interrupted first. It outlives a restart of the server. A cancellation of the run in progress drops the messages that wait.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/messages", tag = "runs",
    params(ConversationPath, MessageQuery), request_body = RunRequest,
    responses((status = 202, body = Accepted, description = "The message begins a run, now or later"),
        (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "Too many messages wait, or the conversation takes no further one"),
        (status = 422, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn send(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<MessageQuery>,
    attempts: Attempts,
    ApiJson(request): ApiJson<RunRequest>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let interrupt = whether_to_interrupt(query.interrupt, request.interrupt)?;
    for run_id in &attempts.earlier {
        if let Some(before) = app.runs.accepted(&path.conversation_id, run_id).await? {
            // It may have died before it did so.
            app.runs.interrupt_for(&path.conversation_id, run_id).await;
            return Ok((StatusCode::ACCEPTED, Json(Accepted { run_id: run_id.clone(), before })));
        }
    }
    run_request::check(&app, &request)?;
    let order = order::order(&app, &tenant, &path.conversation_id, request).await?;
    if !app.runs.is_running(&path.conversation_id) {
        let conversation = &order.conversation;
        let occupant =
            Occupant { conversation: conversation.conversation_id.clone(), tenant: conversation.tenant_id.clone() };
        app.cluster.admit(&occupant).await?;
    }
    let (run_id, before) = app.runs.start_or_wait(attempts.own().await?, order, interrupt).await?;
    tracing::info!(conversation = path.conversation_id, run = run_id, before, "message accepted");
    Ok((StatusCode::ACCEPTED, Json(Accepted { run_id, before })))
}

/// What the query and the body say together. They must not contradict each other.
fn whether_to_interrupt(query: Option<bool>, body: Option<bool>) -> Result<bool, ApiError> {
    match (query, body) {
        (Some(query), Some(body)) if query != body => {
            Err(ApiError::invalid("interrupt", format!("is {body} in the body and {query} in the query")))
        }
        (query, body) => Ok(body.or(query).unwrap_or(false)),
    }
}

/// Interrupts the turn of the conversation's run, which then ends as cancelled. Unlike a cancellation it keeps the driver, and all that
/// the model has done so far is in the conversation's memory.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/interrupt", tag = "runs",
    params(ConversationPath),
    responses((status = 202, description = "The turn will end soon"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn interrupt(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<StatusCode, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    match app.runs.interrupt(&path.conversation_id).await {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(ApiError::new(Code::Conflict, "no run is in progress in this conversation")),
    }
}
