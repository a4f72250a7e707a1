//! The log of a conversation: what was put into its runs, and their events.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::conversations::ConversationPath;
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiPath, ApiQuery};
use crate::conversation::journal::{Entry, Position};

/// Entries of a page unless the request says how many, and at most.
const PAGE: usize = 100;
const LARGEST: usize = 1_000;

/// Query parameters of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Id of the entry after which the page begins; without it, the page begins with the oldest entry that is kept.
    after: Option<String>,
    /// Number of entries, from 1 to 1,000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// Some entries of a conversation's log, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogPage {
    /// The entries of the page.
    entries: Vec<LogEntry>,
    /// Whether the log has further entries after these.
    more: bool,
}

/// One entry of a conversation's log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogEntry {
    /// Id of the entry: that of the event, `<run_id>:<seq>`, and `<run_id>:0` for what was put into the run.
    #[schema(pattern = "^[0-9a-f-]{36}:[0-9]+$")]
    id: String,
    /// Id of the run that the entry belongs to.
    run_id: String,
    /// `user` for what was put into the run, else the name of the event.
    #[serde(rename = "type")]
    kind: String,
    /// The event's fields as they were streamed; for `user` what its message has, and `model_id`, `request_id` and `timestamp`.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

impl From<Entry> for LogEntry {
    fn from(Entry { position, kind, data }: Entry) -> Self {
        Self { id: format!("{}:{}", position.run_id, position.seq), run_id: position.run_id, kind, data }
    }
}

/// Reads the conversation's log: what was put into its runs and all their events, in order. Of runs before the last one, events that are
/// only of use while they are new (`text_delta`, `progress`, `ping`) are not kept, and runs are kept for LOG_RETENTION after their end.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/log", tag = "runs",
    params(ConversationPath, LogQuery),
    responses((status = 200, body = LogPage, description = "A page of the log"), (status = 404, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn log(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    let after = match &query.after {
        Some(text) => text.parse().map_err(|why| ApiError::invalid("after", why))?,
        None => Position::default(),
    };
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LARGEST).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be from 1 to {LARGEST}")));
    }
    app.store.conversation(&tenant, &path.conversation_id).await?;
    let listed = app.runs.log(&path.conversation_id, after, limit).await;
    let (entries, more) = listed.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(LogPage { entries: entries.into_iter().map(LogEntry::from).collect(), more }))
}
