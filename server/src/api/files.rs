//! Files of a conversation: `…/files`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::conversations::ConversationPath;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiPath, ApiQuery};
use super::file_path::check_path;
use super::request_id;
use crate::conversation::store::ConversationStatus;
use nagaya_telemetry::audit::{Event, Subject, Way};
use nagaya_workspace::files::{FileInfo, FilesError};
use nagaya_workspace::objects::MAX_FILE_BYTES;
use nagaya_workspace::rooms::Occupant;

/// Files of this folder are meant for the user.
pub const PRESENTED: &str = "outputs/";

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// Its path below the workspace: parts of at most 255 bytes, divided by `/`, none of them `.` or `..`.
    #[param(min_length = 1, max_length = 4095)]
    path: String,
}

/// Which files are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Those whose path begins so.
    prefix: Option<String>,
    /// At most so many: 1 to 10,000, default 1,000.
    #[param(minimum = 1, maximum = 10_000, default = 1000)]
    limit: Option<usize>,
    /// After so many; default 0.
    #[param(minimum = 0, default = 0)]
    offset: Option<usize>,
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct File {
    /// Below the workspace.
    path: String,
    /// In bytes.
    size: u64,
    /// When it was last changed, or stored.
    #[schema(value_type = String, format = DateTime)]
    modified_at: jiff::Timestamp,
}

/// A page of files, by their paths.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilePage {
    items: Vec<File>,
    total: usize,
    limit: usize,
    offset: usize,
    /// `false` where there are files that cannot be told: too many, or with names that are no text.
    complete: bool,
}

/// The conversation, as one that has files.
async fn occupant(app: &AppState, tenant: &str, id: &str, changes: bool) -> Result<Occupant, ApiError> {
    let conversation = app.store.conversation(tenant, id).await?;
    if !conversation.workspace_enabled {
        return Err(ApiError::invalid("conversation_id", "the conversation was created without a workspace"));
    }
    if changes && conversation.status == ConversationStatus::Archived {
        return Err(ApiError::invalid(
            "conversation_id",
            "the conversation is archived; set its status to active first",
        ));
    }
    Ok(Occupant { conversation: conversation.conversation_id, tenant: conversation.tenant_id })
}

fn tell(app: &AppState, occupant: &Occupant, way: Way, path: &str, bytes: u64) {
    let subject =
        Subject { workspace: None, conversation: Some(&occupant.conversation), tenant: Some(&occupant.tenant) };
    app.audit.record(&Event::File { subject, way, path, bytes, request_id: Some(&request_id::current()) });
}

async fn page(app: &AppState, occupant: &Occupant, query: ListQuery, prefix: &str) -> Result<FilePage, ApiError> {
    let (limit, offset) = (query.limit.unwrap_or(1000), query.offset.unwrap_or(0));
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::invalid("limit", "1 to 10000 is accepted"));
    }
    let (files, complete) = app.cluster.files(occupant).await?.list().await?;
    let wanted = query.prefix.unwrap_or_default();
    let fits = |file: &FileInfo| file.path.starts_with(prefix) && file.path.starts_with(&wanted);
    let mut items: Vec<FileInfo> = files.into_iter().filter(fits).collect();
    let total = items.len();
    items.drain(..offset.min(total));
    items.truncate(limit);
    let items = items
        .into_iter()
        .map(|FileInfo { path, size, changed_at }| File { path, size, modified_at: changed_at })
        .collect();
    Ok(FilePage { items, total, limit, offset, complete })
}

/// The workspace's files: out of the conversation's room, or where it has none, as they are stored.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path), ListQuery),
    responses((status = 200, body = FilePage), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<FilePage>, ApiError> {
    let occupant = occupant(&app, &tenant, &path.conversation_id, false).await?;
    Ok(Json(page(&app, &occupant, query, "").await?))
}

/// The files that are meant for the user: those in the workspace's folder `outputs`.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files/presented", tag = "files",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path), ListQuery),
    responses((status = 200, body = FilePage), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn presented(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<FilePage>, ApiError> {
    let occupant = occupant(&app, &tenant, &path.conversation_id, false).await?;
    Ok(Json(page(&app, &occupant, query, PRESENTED).await?))
}

/// What a file holds. Links are not followed.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files/download", tag = "files",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path), FileQuery),
    responses((status = 403, body = ErrorEnvelope, description = "PATH_TRAVERSAL: it leads out of the workspace, or through a link"),
        (status = 200, content_type = "application/octet-stream", body = String), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn download(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(FileQuery { path: file }): ApiQuery<FileQuery>,
) -> Result<Response, ApiError> {
    check_path(&file)?;
    let occupant = occupant(&app, &tenant, &path.conversation_id, false).await?;
    let (size, pieces) = app.cluster.files(&occupant).await?.read(&file).await?;
    tell(&app, &occupant, Way::Out, &file, size);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_LENGTH, HeaderValue::from(size)),
        (CONTENT_DISPOSITION, disposition(&file)),
    ];
    let conversation = occupant.conversation;
    let pieces = pieces.inspect_err(move |error| tracing::warn!(conversation, %error, "a download is cut off"));
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Makes a file of the body, or replaces it. It is there whole, or as it was before.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path), FileQuery),
    request_body(content = String, content_type = "application/octet-stream", description = "Up to 1 GiB"),
    responses((status = 403, body = ErrorEnvelope, description = "PATH_TRAVERSAL: it leads out of the workspace, or through a link"),
        (status = 204), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn upload(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(FileQuery { path: file }): ApiQuery<FileQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    check_path(&file)?;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_FILE_BYTES) {
        return Err(FilesError::TooLarge.into());
    }
    let occupant = occupant(&app, &tenant, &path.conversation_id, true).await?;
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = seen.clone();
    let pieces = body.into_data_stream().map_err(|error| FilesError::Interrupted(error.to_string()));
    let pieces = pieces.inspect_ok(move |piece| {
        counted.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
    });
    app.cluster.write_file(&occupant, &file, pieces.boxed()).await?;
    // It may have been deleted or archived while the file came.
    if let Err(gone) = self::occupant(&app, &tenant, &path.conversation_id, true).await {
        app.cluster.take_back(&occupant, &file).await;
        return Err(gone);
    }
    tell(&app, &occupant, Way::In, &file, seen.load(std::sync::atomic::Ordering::Relaxed));
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a file.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(("tenant_id" = String, Path), ("conversation_id" = String, Path), FileQuery),
    responses((status = 403, body = ErrorEnvelope, description = "PATH_TRAVERSAL: it leads out of the workspace, or through a link"),
        (status = 204), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(FileQuery { path: file }): ApiQuery<FileQuery>,
) -> Result<StatusCode, ApiError> {
    check_path(&file)?;
    let occupant = occupant(&app, &tenant, &path.conversation_id, true).await?;
    app.cluster.files(&occupant).await?.delete(&file).await?;
    tell(&app, &occupant, Way::Delete, &file, 0);
    Ok(StatusCode::NO_CONTENT)
}

/// To be saved, not shown, under the file's own name (RFC 6266, RFC 8187).
fn disposition(path: &str) -> HeaderValue {
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || " .-_".contains(c) { c } else { '_' };
    let fallback: String = name.chars().map(plain).collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => encoded.push(char::from(b)),
            b => encoded.push_str(&format!("%{b:02X}")),
        }
    }
    let text = format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::NotFound => Self::not_found("file"),
            unfit @ FilesError::InvalidPath(_) => Self::new(Code::PathTraversal, unfit.to_string()),
            large @ (FilesError::TooLarge | FilesError::Full(_)) => Self::new(Code::PayloadTooLarge, large.to_string()),
            FilesError::Interrupted(why) => Self::invalid("body", format!("it broke off: {why}")),
            FilesError::Acquire(error) => error.into(),
            later @ (FilesError::Room(_) | FilesError::Storage(_)) => Self::unavailable(later.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_whatever_it_is() {
        let told = disposition("a/b \"長\"\r\n.txt");
        assert_eq!(
            told.to_str().expect("text"),
            "attachment; filename=\"b _____.txt\"; filename*=UTF-8''b%20%22%E9%95%B7%22%0D%0A.txt"
        );
    }
}
