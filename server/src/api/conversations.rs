//! `/api/tenants/{tenant_id}/conversations`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, ApiQuery, check_length};
use crate::conversation::store::{
    Conversation, ConversationChange, ConversationFilter, ConversationStatus, Message, ModelStatus, NewConversation,
};
use nagaya_workspace::Why;
use nagaya_workspace::rooms::Occupant;

/// Ids in a conversation's path.
#[derive(Debug, Deserialize)]
pub(super) struct ConversationPath {
    #[allow(dead_code, reason = "read by TenantScope, which also judges it")]
    tenant_id: String,
    pub(super) conversation_id: String,
}

/// What makes a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationCreation, example = json!({"user_id": "ada"}))]
pub(super) struct Creation {
    /// Which of the tenant's users; 1 to 256 characters.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    user_id: String,
    /// Default is the tenant's.
    model_id: Option<String>,
    /// Whether its runs have a room; default true.
    workspace_enabled: Option<bool>,
}

/// What of a conversation is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationUpdate, example = json!({"title": "Invoices of March"}))]
pub(super) struct Update {
    /// Up to 500 characters.
    #[schema(max_length = 500, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// Whether it may go on.
    status: Option<ConversationStatus>,
}

/// Which conversations are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// This user's.
    user_id: Option<String>,
    /// In this status.
    status: Option<ConversationStatus>,
    /// Created at or after (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from_date: Option<Timestamp>,
    /// Created at or before (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to_date: Option<Timestamp>,
    /// At most so many: 1 to 100, default 50.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<i64>,
    /// After so many; default 0.
    #[param(minimum = 0, default = 0)]
    offset: Option<i64>,
}

/// A page of conversations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConversationPage {
    items: Vec<Conversation>,
    total: i64,
    limit: i64,
    offset: i64,
}

/// A tenant's conversations, newest first.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations", tag = "conversations",
    params(("tenant_id" = String, Path), Filter),
    responses((status = 200, body = ConversationPage), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<ConversationPage>, ApiError> {
    app.store.tenant(&tenant).await?;
    let (limit, offset) = (filter.limit.unwrap_or(50), filter.offset.unwrap_or(0));
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid("limit", "1 to 100 is accepted"));
    }
    if offset < 0 {
        return Err(ApiError::invalid("offset", "0 or more is accepted"));
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

/// Creates a conversation.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations", tag = "conversations",
    params(("tenant_id" = String, Path)), request_body = Creation,
    responses((status = 201, body = Conversation), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<(StatusCode, Json<Conversation>), ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    check_length("user_id", &new.user_id, 1..=256)?;
    let model_id = new
        .model_id
        .or(tenant.model_id)
        .ok_or_else(|| ApiError::invalid("model_id", "the tenant has no model of its own, so one has to be named"))?;
    let model = app.store.model(&model_id).await?;
    if model.status == ModelStatus::Deprecated {
        return Err(ApiError::invalid("model_id", "the model is deprecated; choose an active one"));
    }
    let new = NewConversation {
        tenant_id: tenant.tenant_id,
        user_id: new.user_id,
        model_id,
        workspace_enabled: new.workspace_enabled.unwrap_or(true),
    };
    Ok((StatusCode::CREATED, Json(app.store.create_conversation(new).await?)))
}

/// One conversation.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path)),
    responses((status = 200, body = Conversation), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Conversation>, ApiError> {
    Ok(Json(app.store.conversation(&tenant, &path.conversation_id).await?))
}

/// Changes a conversation; what is left out stays.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path)), request_body = Update,
    responses((status = 200, body = Conversation), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
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
    let change = ConversationChange { title: update.title, status: update.status };
    Ok(Json(change_conversation(&app, &tenant, &path.conversation_id, change).await?))
}

/// Archives a conversation: it is kept, takes no further run, and its room is released.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/archive", tag = "conversations",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path)),
    responses((status = 200, body = Conversation), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
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
    let archives = change.status == Some(ConversationStatus::Archived);
    if archives {
        app.store.conversation(tenant, id).await?;
        if app.runs.is_going(id) {
            return Err(ApiError::new(Code::ResourceLocked, "a run is going on in this conversation; cancel it first"));
        }
    }
    let changed = app.store.update_conversation(tenant, id, change).await?;
    if archives {
        app.cluster.release_conversation(id, Why::Conversation).await?;
    }
    Ok(changed)
}

/// Deletes a conversation: ends its run, releases its room, deletes its stored files and its messages.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}", tag = "conversations",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<StatusCode, ApiError> {
    let id = &path.conversation_id;
    // Archived first: no new run starts while the old one ends.
    let archived = ConversationChange { status: Some(ConversationStatus::Archived), ..ConversationChange::default() };
    app.store.update_conversation(&tenant, id, archived).await?;
    if !app.runs.end(id).await {
        return Err(ApiError::unavailable("the conversation's run did not end yet; delete again"));
    }
    app.cluster.release_conversation(id, Why::Deletion).await?;
    // Before the conversation itself: as long as it is there, what is left of it can be deleted once more.
    let occupant = Occupant { conversation: id.clone(), tenant: tenant.clone() };
    app.workspaces.delete_files(&occupant).await.map_err(|error| {
        ApiError::unavailable(format!("the conversation's stored files are not deleted yet ({error}); delete again"))
    })?;
    app.store.delete_conversation(&tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All messages of a conversation, in order.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/messages", tag = "conversations",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path)),
    responses((status = 200, body = Vec<Message>), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn messages(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Vec<Message>>, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    Ok(Json(app.store.messages(&path.conversation_id).await?))
}
