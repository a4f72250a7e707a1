//! `/api/tenants/{tenant_id}/conversations`: conversations and their messages.

use axum::Json;
use axum::extract::State;
use axum::http::header::LINK;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, ApiQuery, check_length};
use super::forward;
use super::tenants::TenantPath;
use crate::conversation::store::{
    Conversation, ConversationChange, ConversationFilter, ConversationStatus, Message, ModelStatus, NewConversation,
};
use nagaya_workspace::ReleaseReason;
use nagaya_workspace::rooms::Occupant;

/// Messages on one page, at most.
const MOST_MESSAGES: i64 = 1_000;

/// Path parameters of the routes of one conversation.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ConversationPath {
    /// Id of the conversation's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the conversation.
    pub(super) conversation_id: String,
}

/// A conversation to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationCreation, example = json!({"user_id": "ada"}))]
pub(super) struct Creation {
    /// The tenant's own id of the user, 1 to 256 characters.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    user_id: String,
    /// Id of an active model; defaults to the tenant's model.
    model_id: Option<String>,
    /// Whether the conversation gets a workspace, without which it cannot run; default true.
    workspace_enabled: Option<bool>,
}

/// Changes to a conversation; absent fields keep their value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationUpdate, example = json!({"title": "Invoices of March"}))]
pub(super) struct Update {
    /// New title, up to 500 characters.
    #[schema(max_length = 500, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// New status: `active` accepts runs, `archived` does not.
    status: Option<ConversationStatus>,
    /// Id of an active model that the next runs use. It cannot be changed during a run.
    model_id: Option<String>,
}

/// Filter and page of a list of conversations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only conversations of this user.
    user_id: Option<String>,
    /// Only conversations with this status.
    status: Option<ConversationStatus>,
    /// Only conversations created at or after this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from_date: Option<Timestamp>,
    /// Only conversations created at or before this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to_date: Option<Timestamp>,
    /// Page size: 1 to 100, default 50.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<i64>,
    /// Number of conversations to skip; default 0.
    #[param(minimum = 0, default = 0)]
    offset: Option<i64>,
}

/// One page of a list of conversations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConversationPage {
    /// The conversations of this page, newest first.
    items: Vec<Conversation>,
    /// Number of conversations that match the filter, on all pages.
    total: i64,
    /// Page size that was applied.
    limit: i64,
    /// Number of conversations that were skipped.
    offset: i64,
}

/// Lists a tenant's conversations, newest first.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations", tag = "conversations",
    params(TenantPath, Filter),
    responses((status = 200, body = ConversationPage, description = "The requested page of conversations"), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<ConversationPage>, ApiError> {
    app.store.tenant(&tenant).await?;
    let (limit, offset) = (filter.limit.unwrap_or(50), filter.offset.unwrap_or(0));
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid("limit", "must be from 1 to 100"));
    }
    if offset < 0 {
        return Err(ApiError::invalid("offset", "must be 0 or more"));
    }
    let filter = ConversationFilter {
        user_id: filter.user_id,
        status: filter.status,
        from: filter.from_date,
        to: filter.to_date,
        limit,
        offset,
    };
    let page = app.store.conversations(&tenant, &filter).await?;
    Ok(Json(ConversationPage { items: page.items, total: page.total, limit, offset }))
}

/// Creates a conversation for one of the tenant's users.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations", tag = "conversations",
    params(TenantPath), request_body = Creation,
    responses((status = 201, body = Conversation, description = "The conversation as created"), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<(StatusCode, Json<Conversation>), ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    check_length("user_id", &new.user_id, 1..=256)?;
    let effective = app.tenancy.effective(&tenant, None).await?;
    let model_id = new
        .model_id
        .or(effective.default_model.value)
        .ok_or_else(|| ApiError::invalid("model_id", "required, because the tenant has no default model"))?;
    check_model(&app, &model_id, &effective.models.value).await?;
    let new = NewConversation {
        tenant_id: tenant.tenant_id,
        user_id: new.user_id,
        model_id,
        workspace_enabled: new.workspace_enabled.unwrap_or(true),
    };
    Ok((StatusCode::CREATED, Json(app.store.create_conversation(new).await?)))
}

/// Checks that a conversation may have a model; `allowed` are those that the tenant, and the conversation if there is one, allow.
async fn check_model(app: &AppState, model_id: &str, allowed: &[String]) -> Result<(), ApiError> {
    let model = app.store.model(model_id).await?;
    if !allowed.iter().any(|id| id == model_id) {
        return Err(ApiError::invalid(
            "model_id",
            "the configuration of the tenant or the conversation does not allow this model",
        ));
    }
    if model.status == ModelStatus::Deprecated {
        return Err(ApiError::invalid("model_id", "the model is deprecated; choose an active one"));
    }
    Ok(())
}

/// Returns the conversation with the given id.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(ConversationPath),
    responses((status = 200, body = Conversation, description = "The conversation with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Conversation>, ApiError> {
    Ok(Json(app.store.conversation(&tenant, &path.conversation_id).await?))
}

/// Changes a conversation; absent fields keep their value. Setting the status to `archived` archives it.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(ConversationPath), request_body = Update,
    responses((status = 200, body = Conversation, description = "The conversation after the change"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Conversation>, ApiError> {
    if let Some(title) = &update.title {
        check_length("title", title, 0..=500)?;
    }
    let change = ConversationChange { title: update.title, status: update.status, model_id: update.model_id };
    Ok(Json(change_conversation(&app, &tenant, &path.conversation_id, change).await?))
}

/// Archives a conversation: it is kept but accepts no further runs, and its workspace is released.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/archive", tag = "conversations",
    params(ConversationPath),
    responses((status = 200, body = Conversation, description = "The conversation after the change"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn archive(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Conversation>, ApiError> {
    let change = ConversationChange { status: Some(ConversationStatus::Archived), ..ConversationChange::default() };
    Ok(Json(change_conversation(&app, &tenant, &path.conversation_id, change).await?))
}

async fn change_conversation(
    app: &AppState,
    tenant: &str,
    id: &str,
    change: ConversationChange,
) -> Result<Conversation, ApiError> {
    let archive = change.status == Some(ConversationStatus::Archived);
    let before = app.store.conversation(tenant, id).await?;
    let model = change.model_id.as_ref().filter(|model| **model != before.model_id);
    if let Some(model) = model {
        let tenant = app.store.tenant(tenant).await?;
        let effective = app.tenancy.effective(&tenant, Some(&before)).await?;
        check_model(app, model, &effective.models.value).await?;
    }
    let changes_model = model.is_some();
    if (archive && app.runs.is_running(id)) || (changes_model && forward::is_running(app, id).await?) {
        return Err(ApiError::new(Code::ResourceLocked, "a run is in progress in this conversation; cancel it first"));
    }
    let changed = app.store.update_conversation(tenant, id, change).await?;
    if changes_model {
        app.tenancy.spread(tenant, Some(id), false).await;
    }
    if archive {
        app.cluster.release_conversation(id, ReleaseReason::Conversation).await?;
    }
    Ok(changed)
}

/// Deletes a conversation: ends its run, releases its workspace, and deletes its stored files and messages.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(ConversationPath),
    responses((status = 204, description = "The conversation is deleted"), (status = 404, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<StatusCode, ApiError> {
    let id = &path.conversation_id;
    // Archiving first keeps a new run from starting while the current one ends.
    let archived = ConversationChange { status: Some(ConversationStatus::Archived), ..ConversationChange::default() };
    app.store.update_conversation(&tenant, id, archived).await?;
    if !app.runs.end(id).await {
        return Err(ApiError::unavailable("the conversation's run has not ended yet; repeat the request"));
    }
    app.cluster.release_conversation(id, ReleaseReason::Deletion).await?;
    // The conversation's record goes last: while it exists, a failed deletion can be repeated.
    let occupant = Occupant { conversation: id.clone(), tenant: tenant.clone() };
    app.workspaces.delete_files(&occupant).await.map_err(|error| {
        ApiError::unavailable(format!(
            "the conversation's stored files could not be deleted ({error}); repeat the request"
        ))
    })?;
    app.store.delete_conversation(&tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the conversation's workspace; the next run gets a new one. Files that a bucket stores are kept, everything else in the
/// workspace is lost.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/workspace", tag = "conversations",
    params(ConversationPath),
    responses((status = 204, description = "The conversation has no workspace any more"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "RESOURCE_LOCKED: a run is in progress; cancel it first"),
        (status = 503, body = ErrorEnvelope)))]
pub(super) async fn delete_workspace(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<StatusCode, ApiError> {
    let id = &app.store.conversation(&tenant, &path.conversation_id).await?.conversation_id;
    if app.runs.is_running(id) {
        return Err(ApiError::new(Code::ResourceLocked, "a run is in progress in this conversation; cancel it first"));
    }
    app.cluster.release_conversation(id, ReleaseReason::Tenant).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Query parameters of a list of messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessagesQuery {
    /// Only messages after the one with this `message_seq`; default 0, from the beginning.
    #[param(minimum = 0, default = 0)]
    after: Option<i64>,
    /// Page size: 1 to 1,000, default 1,000.
    #[param(minimum = 1, maximum = 1_000, default = 1_000)]
    limit: Option<i64>,
}

/// Lists a conversation's messages in pages, oldest first. A page ends at `limit` messages or at 8 MiB of content. If there are
/// further messages, the header `Link` has the address of the next page.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/messages", tag = "conversations",
    params(ConversationPath, MessagesQuery),
    responses((status = 200, body = Vec<Message>, description = "The requested page of messages",
            headers(("Link" = Option<String>, description = "`<address>; rel=\"next\"`, if there are further messages (RFC 8288)"))),
        (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn messages(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<MessagesQuery>,
) -> Result<Response, ApiError> {
    let (after, limit) = (query.after.unwrap_or(0), query.limit.unwrap_or(MOST_MESSAGES));
    if after < 0 {
        return Err(ApiError::invalid("after", "must be 0 or more"));
    }
    if !(1..=MOST_MESSAGES).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be from 1 to {MOST_MESSAGES}")));
    }
    let id = &app.store.conversation(&tenant, &path.conversation_id).await?.conversation_id;
    let page = app.store.messages(id, after, limit).await?;
    let last = page.messages.last().map(|message| message.message_seq);
    let mut response = Json(page.messages).into_response();
    if let Some(last) = last.filter(|_| page.more) {
        let next =
            format!("</api/tenants/{tenant}/conversations/{id}/messages?after={last}&limit={limit}>; rel=\"next\"");
        let next = HeaderValue::try_from(next).map_err(|error| ApiError::internal(&error))?;
        response.headers_mut().insert(LINK, next);
    }
    Ok(response)
}
