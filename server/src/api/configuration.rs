//! `/api/tenants/{tenant_id}/configuration` and that of each conversation, and what applies where the levels meet.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use nagaya_egress::{Explanation, Question};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::conversations::ConversationPath;
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, ApiQuery};
use super::tenants::TenantPath;
use crate::conversation::store::ConfigurationOf;
use crate::tenancy::documents::Versioned;
use crate::tenancy::{Document, Effective};

/// A configuration with its version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConfigurationVersion)]
pub(super) struct Configuration {
    /// Number of the change that wrote it; 0 where none was ever written.
    version: i64,
    /// The configuration; empty where none was ever written.
    configuration: Document,
    /// Time of the last change.
    #[schema(value_type = Option<String>, format = DateTime)]
    updated_at: Option<Timestamp>,
}

impl From<Versioned> for Configuration {
    fn from(of: Versioned) -> Self {
        Self { version: of.version, configuration: of.document, updated_at: of.updated_at }
    }
}

/// A configuration that replaces the present one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConfigurationUpdate)]
pub(super) struct Update {
    /// Version of the configuration that is replaced: 0 where none was ever written.
    #[schema(minimum = 0)]
    version: i64,
    /// The new configuration, whole.
    configuration: Document,
}

impl Update {
    fn check(&self) -> Result<(), ApiError> {
        if self.version < 0 { Err(ApiError::invalid("version", "must be 0 or more")) } else { Ok(()) }
    }
}

/// Query parameter of a change of configuration.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UpdateQuery {
    /// Whether open tunnels and transfers of the workspaces concerned end as well; default false: they go on as they began.
    close: Option<bool>,
}

/// Query parameters of a question about egress.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExplainQuery {
    /// Address of the request, such as `http://api.example.com/v1/items`.
    url: String,
    /// Method of the request; default `GET`. An `https` address asks about the tunnel to its host, whatever the method.
    method: Option<String>,
    /// The model that the request's body names, as its provider names it.
    model: Option<String>,
    /// Id of the conversation in whose workspace the request would be made; without it, the tenant's configuration alone counts.
    conversation_id: Option<String>,
    /// Whether a run is in progress; default true.
    run: Option<bool>,
}

/// What would happen to a request, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explained {
    /// Whether it would be allowed.
    allowed: bool,
    /// Why not, in one word, as in the answer that the workspace would get.
    reason: Option<String>,
    /// Why not, as a sentence.
    message: Option<String>,
    /// Whose rules decided: `operator`, `tenant` or `conversation`.
    layer: Option<String>,
    /// The rule that decided.
    rule: Option<String>,
    /// Id of the credential that the request would get, or its number among the operator's.
    credential: Option<String>,
    /// Name of the operation that the request is, if its credential has a list of them.
    operation: Option<String>,
    /// The port that would be connected to.
    port: u16,
    /// What else is to be known.
    notes: Vec<String>,
}

impl From<Explanation> for Explained {
    fn from(of: Explanation) -> Self {
        let Explanation { allowed, reason, message, layer, rule, credential, operation, port, notes } = of;
        Self {
            allowed,
            reason: reason.map(ToOwned::to_owned),
            message,
            layer,
            rule,
            credential,
            operation,
            port,
            notes,
        }
    }
}

/// Returns the tenant's configuration.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/configuration", tag = "configuration", params(TenantPath),
    responses((status = 200, body = Configuration, description = "The tenant's configuration with its version"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn of_tenant(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Configuration>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    Ok(Json(app.tenancy.document(ConfigurationOf::Tenant(&tenant.tenant_id)).await?.into()))
}

/// Replaces the tenant's configuration. It holds for the next request of each of the tenant's workspaces.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/configuration", tag = "configuration",
    params(TenantPath, UpdateQuery), request_body = Update,
    responses((status = 200, body = Configuration, description = "The configuration as written"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the configuration has another version"),
        (status = 422, body = ErrorEnvelope, description = "Every problem, with its place in the configuration; nothing is changed")))]
pub(super) async fn write_of_tenant(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiQuery(query): ApiQuery<UpdateQuery>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Configuration>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    update.check()?;
    let of = ConfigurationOf::Tenant(&tenant.tenant_id);
    let close = query.close.unwrap_or(false);
    Ok(Json(app.tenancy.write_document(&tenant, of, update.version, &update.configuration, close).await?.into()))
}

/// Returns the conversation's configuration.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/configuration", tag = "configuration",
    params(ConversationPath),
    responses((status = 200, body = Configuration, description = "The conversation's configuration with its version"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn of_conversation(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Configuration>, ApiError> {
    let conversation = app.store.conversation(&tenant, &path.conversation_id).await?;
    Ok(Json(app.tenancy.document(ConfigurationOf::Conversation(&conversation.conversation_id)).await?.into()))
}

/// Replaces the conversation's configuration. It holds for the next request of its workspace.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/configuration", tag = "configuration",
    params(ConversationPath, UpdateQuery), request_body = Update,
    responses((status = 200, body = Configuration, description = "The configuration as written"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the configuration has another version"),
        (status = 422, body = ErrorEnvelope, description = "Every problem, with its place in the configuration; nothing is changed")))]
pub(super) async fn write_of_conversation(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<UpdateQuery>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Configuration>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    let conversation = app.store.conversation(&tenant.tenant_id, &path.conversation_id).await?;
    update.check()?;
    let of = ConfigurationOf::Conversation(&conversation.conversation_id);
    let close = query.close.unwrap_or(false);
    Ok(Json(app.tenancy.write_document(&tenant, of, update.version, &update.configuration, close).await?.into()))
}

/// Returns what applies to the tenant's conversations that have no configuration of their own, each value with where it comes from.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/effective", tag = "configuration", params(TenantPath),
    responses((status = 200, body = Effective, description = "What applies, and which level decided it"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn effective_of_tenant(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Effective>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    Ok(Json(app.tenancy.effective(&tenant, None).await?))
}

/// Returns what applies to the conversation, each value with where it comes from.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/effective", tag = "configuration",
    params(ConversationPath),
    responses((status = 200, body = Effective, description = "What applies, and which level decided it"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn effective_of_conversation(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Effective>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    let conversation = app.store.conversation(&tenant.tenant_id, &path.conversation_id).await?;
    Ok(Json(app.tenancy.effective(&tenant, Some(&conversation)).await?))
}

/// Says what would happen to a request from a workspace, and which rule of whose configuration decides. No request is made, and no
/// name is resolved.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/egress/explain", tag = "configuration",
    params(TenantPath, ExplainQuery),
    responses((status = 200, body = Explained, description = "Whether the request would be allowed, and why"),
        (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn explain(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiQuery(query): ApiQuery<ExplainQuery>,
) -> Result<Json<Explained>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    let conversation = match &query.conversation_id {
        Some(id) => Some(app.store.conversation(&tenant.tenant_id, id).await?),
        None => None,
    };
    let method = query.method.unwrap_or_else(|| "GET".to_owned());
    let running = query.run.unwrap_or(true);
    let question = Question { url: query.url, method, running, model: query.model };
    let explained = app.tenancy.explain(&tenant, conversation.as_ref(), question).await?;
    Ok(Json(explained.into()))
}

/// Returns the JSON Schema (2020-12) of a configuration.
#[utoipa::path(get, path = "/api/schemas/configuration", tag = "configuration",
    responses((status = 200, description = "The JSON Schema of a configuration", content_type = "application/json")))]
pub(super) async fn schema() -> Result<Json<Value>, ApiError> {
    super::schemas::schema_of("Configuration").map(Json).ok_or_else(|| ApiError::not_found("schema"))
}
