//! `/api/tenants/{tenant_id}/conversations/{conversation_id}/files`: files of a conversation's workspace.

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

/// Prefix of the files that the agent presents to the user.
pub const PRESENTED: &str = "outputs/";

/// Query parameter of the routes of one file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// Path of the file, relative to the workspace: components of at most 255 bytes separated by `/`, none of them `.` or `..`.
    #[param(min_length = 1, max_length = 4095)]
    path: String,
}

/// Filter and page of a list of files.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only files whose path starts with this text.
    prefix: Option<String>,
    /// Page size: 1 to 10,000, default 1,000.
    #[param(minimum = 1, maximum = 10_000, default = 1000)]
    limit: Option<usize>,
    /// Number of files to skip; default 0.
    #[param(minimum = 0, default = 0)]
    offset: Option<usize>,
}

/// A file of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct File {
    /// Path of the file, relative to the workspace.
    path: String,
    /// Size of the file in bytes.
    size: u64,
    /// When the file was last changed in the workspace, or stored in the bucket.
    #[schema(value_type = String, format = DateTime)]
    modified_at: jiff::Timestamp,
}

/// One page of a list of files.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilePage {
    /// The files of this page, ordered by path.
    items: Vec<File>,
    /// Number of files that match the filter, on all pages.
    total: usize,
    /// Page size that was applied.
    limit: usize,
    /// Number of files that were skipped.
    offset: usize,
    /// `false` if the workspace has files that are not listed: it has too many, or their names are not UTF-8.
    complete: bool,
}

/// What a request does with a conversation's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// List or download; allowed also while the conversation is archived.
    Read,
    /// Upload or delete.
    Write,
}

/// The conversation as the occupant of a workspace, if it has one and allows the access.
async fn occupant(app: &AppState, tenant: &str, id: &str, access: Access) -> Result<Occupant, ApiError> {
    let conversation = app.store.conversation(tenant, id).await?;
    if !conversation.workspace_enabled {
        return Err(ApiError::invalid("conversation_id", "the conversation was created without a workspace"));
    }
    if access == Access::Write && conversation.status == ConversationStatus::Archived {
        return Err(ApiError::invalid(
            "conversation_id",
            "the conversation is archived; set its status to active first",
        ));
    }
    Ok(Occupant { conversation: conversation.conversation_id, tenant: conversation.tenant_id })
}

fn audit(app: &AppState, occupant: &Occupant, way: Way, path: &str, bytes: u64) {
    let subject =
        Subject { workspace: None, conversation: Some(&occupant.conversation), tenant: Some(&occupant.tenant) };
    app.audit.record(&Event::File { subject, way, path, bytes, request_id: Some(&request_id::current()) });
}

async fn page(app: &AppState, occupant: &Occupant, query: ListQuery, prefix: &str) -> Result<FilePage, ApiError> {
    let (limit, offset) = (query.limit.unwrap_or(1000), query.offset.unwrap_or(0));
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::invalid("limit", "must be from 1 to 10000"));
    }
    let (files, complete) = app.cluster.files(occupant).await?.list().await?;
    let wanted = query.prefix.unwrap_or_default();
    let matches = |file: &FileInfo| file.path.starts_with(prefix) && file.path.starts_with(&wanted);
    let mut items: Vec<FileInfo> = files.into_iter().filter(matches).collect();
    let total = items.len();
    items.drain(..offset.min(total));
    items.truncate(limit);
    let items = items
        .into_iter()
        .map(|FileInfo { path, size, changed_at }| File { path, size, modified_at: changed_at })
        .collect();
    Ok(FilePage { items, total, limit, offset, complete })
}

/// Lists the files of a conversation's workspace or, while the conversation has no workspace, its stored files.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(ConversationPath, ListQuery),
    responses((status = 200, body = FilePage, description = "The requested page of files"), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<FilePage>, ApiError> {
    let occupant = occupant(&app, &tenant, &path.conversation_id, Access::Read).await?;
    Ok(Json(page(&app, &occupant, query, "").await?))
}

/// Lists the files that the agent presents to the user: those in the workspace's folder `outputs`.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files/presented", tag = "files",
    params(ConversationPath, ListQuery),
    responses((status = 200, body = FilePage, description = "The requested page of files"), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn presented(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<FilePage>, ApiError> {
    let occupant = occupant(&app, &tenant, &path.conversation_id, Access::Read).await?;
    Ok(Json(page(&app, &occupant, query, PRESENTED).await?))
}

/// Downloads a file of the workspace. Symbolic links are not followed.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files/download", tag = "files",
    params(ConversationPath, FileQuery),
    responses((status = 403, body = ErrorEnvelope,
            description = "PATH_TRAVERSAL: the path leads out of the workspace or through a symbolic link"),
        (status = 200, content_type = "application/octet-stream", body = String, description = "The content of the file"),
        (status = 409, body = ErrorEnvelope)))]
pub(super) async fn download(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(FileQuery { path: file }): ApiQuery<FileQuery>,
) -> Result<Response, ApiError> {
    check_path(&file)?;
    let occupant = occupant(&app, &tenant, &path.conversation_id, Access::Read).await?;
    let (size, pieces) = app.cluster.files(&occupant).await?.read(&file).await?;
    audit(&app, &occupant, Way::Out, &file, size);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_LENGTH, HeaderValue::from(size)),
        (CONTENT_DISPOSITION, disposition(&file)),
    ];
    let conversation = occupant.conversation;
    let pieces = pieces.inspect_err(move |error| tracing::warn!(conversation, %error, "a download was interrupted"));
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Creates or replaces a file with the body as its content. The change is atomic: after a failure the previous file is unchanged.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(ConversationPath, FileQuery),
    request_body(content = String, content_type = "application/octet-stream", description = "The content of the file, up to 1 GiB"),
    responses((status = 403, body = ErrorEnvelope,
            description = "PATH_TRAVERSAL: the path leads out of the workspace or through a symbolic link"),
        (status = 204, description = "The file is stored"), (status = 409, body = ErrorEnvelope)))]
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
    let occupant = occupant(&app, &tenant, &path.conversation_id, Access::Write).await?;
    let received = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = received.clone();
    let pieces = body.into_data_stream().map_err(|error| FilesError::Interrupted(error.to_string()));
    let pieces = pieces.inspect_ok(move |piece| {
        counter.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
    });
    app.cluster.write_file(&occupant, &file, pieces.boxed()).await?;
    // The conversation may have been deleted or archived during the upload.
    if let Err(error) = self::occupant(&app, &tenant, &path.conversation_id, Access::Write).await {
        app.cluster.take_back(&occupant, &file).await;
        return Err(error);
    }
    audit(&app, &occupant, Way::In, &file, received.load(std::sync::atomic::Ordering::Relaxed));
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a file of the workspace.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/files", tag = "files",
    params(ConversationPath, FileQuery),
    responses((status = 403, body = ErrorEnvelope,
            description = "PATH_TRAVERSAL: the path leads out of the workspace or through a symbolic link"),
        (status = 204, description = "The file is deleted"), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
    ApiQuery(FileQuery { path: file }): ApiQuery<FileQuery>,
) -> Result<StatusCode, ApiError> {
    check_path(&file)?;
    let occupant = occupant(&app, &tenant, &path.conversation_id, Access::Write).await?;
    app.cluster.files(&occupant).await?.delete(&file).await?;
    audit(&app, &occupant, Way::Delete, &file, 0);
    Ok(StatusCode::NO_CONTENT)
}

/// Content-Disposition that makes a browser save the file under its own name instead of showing it (RFC 6266). The name is sent
/// twice: as ASCII, and percent-encoded as UTF-8 (RFC 8187).
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
            error @ FilesError::InvalidPath(_) => Self::new(Code::PathTraversal, error.to_string()),
            error @ (FilesError::TooLarge | FilesError::Full(_)) => Self::new(Code::PayloadTooLarge, error.to_string()),
            FilesError::Interrupted(why) => Self::invalid("body", format!("interrupted: {why}")),
            FilesError::Acquire(error) => error.into(),
            error @ (FilesError::Room(_) | FilesError::Storage(_)) => Self::unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_quotes_and_line_breaks_is_encoded() {
        let header = disposition("a/b \"長\"\r\n.txt");
        assert_eq!(
            header.to_str().expect("text"),
            "attachment; filename=\"b _____.txt\"; filename*=UTF-8''b%20%22%E9%95%B7%22%0D%0A.txt"
        );
    }
}
