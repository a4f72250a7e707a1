//! Parsing of the request that starts a run: a JSON object, or a multipart form with files (RFC 7578).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{FromRequest, Request};
use multer::{Field, Multipart};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use utoipa::ToSchema;

use super::AppState;
use super::client_tools::{self, ClientTool};
use super::error::{ApiError, Code};
use super::extract::{ApiJson, MAX_BODY_BYTES, check_length, parse_json};
use super::file_path::check_path;
use super::form::{FORM, FormDigest, FormError, content_type, in_time, media_type, no_space, open_form};
use super::idempotency::Work;
use crate::conversation::content::{self, Part};
use crate::conversation::skills::SKILLS;
use crate::conversation::uploads::{Batch, MOST_UPLOADS, Uploaded, UploadedFile};
use crate::tenancy::Document;
use nagaya_workspace::objects::MAX_FILE_BYTES;

/// Accepted length of the user input, in characters.
const USER_INPUT: std::ops::RangeInclusive<usize> = 1..=200_000;
/// Length of a command with its arguments, in bytes.
const LONGEST_COMMAND: usize = 10_000;
/// Bytes that are written between two checks of the disk's free space.
const SPACE_CHECK_INTERVAL: usize = 1 << 20;

/// A run to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_input": "Add up the invoices", "executor": {"user_id": "ada"}}))]
pub(super) struct RunRequest {
    /// The user's message to the agent, 1 to 200,000 characters, not white space alone. It is plain text: `/compact` and `@file` have
    /// no special meaning.
    /// Required, unless `command` is given.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200_000, pattern = r"^[^\u0000]*$")]
    pub(super) user_input: String,
    /// What the message has beside its text, and before it: up to 20 texts, images and documents, in the request (within the limit of its
    /// body) or in the workspace (10 MiB in all).
    #[serde(default)]
    #[schema(max_items = 20)]
    pub(super) content: Vec<Part>,
    /// A command of the driver's own in the place of `user_input`, such as `/compact`, perhaps followed by a space and arguments on the same
    /// line. The event `init` lists the commands.
    #[schema(max_length = 10_000, pattern = r"^/[a-z][a-z0-9_:-]*( [^\u0000\n]*)?$")]
    pub(super) command: Option<String>,
    /// The person on whose behalf the run starts.
    pub(super) executor: Option<Executor>,
    /// What narrows the conversation's configuration for this run: models, tools, permissions, integrations and limits.
    pub(super) configuration: Option<Document>,
    /// Tools that the caller itself carries out during this run, up to 64.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub(super) client_tools: Vec<ClientTool>,
    /// For a message, `POST …/messages`: whether the turn in progress is interrupted first; default false. No other request takes it.
    pub(super) interrupt: Option<bool>,
}

/// The person on whose behalf a run starts. Only the user id is used, in the server's log and in the audit trail.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Executor {
    /// The tenant's own id of the user, up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    pub(super) user_id: Option<String>,
    /// Name of the user, up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// Email address of the user, up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    email: Option<String>,
}

/// A form that starts a run with files, which are in the workspace before the run begins. The whole form has at most 1 GiB.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "it only documents the form, which is read part by part")]
#[serde(deny_unknown_fields)]
pub(super) struct RunForm {
    /// A `RunRequest` encoded as JSON.
    #[schema(content_media_type = "application/json", example = r#"{"user_input": "Add up the invoices"}"#)]
    request_data: String,
    /// Up to 100 files. The `filename` of a part is the file's path, relative to the workspace.
    #[schema(content_media_type = "application/octet-stream", max_items = 100)]
    files: Option<Vec<String>>,
    /// Paths that replace the parts' `filename`s, as JSON: an array with one `{"path": "…"}` for each file, in the files' order.
    #[schema(content_media_type = "application/json", example = r#"[{"path": "invoices/2026.csv"}]"#)]
    file_metadata: Option<String>,
}

/// One entry of `file_metadata`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMetadata {
    path: String,
}

/// A valid request to start a run.
pub(super) struct Submission {
    pub(super) request: RunRequest,
    /// The uploaded files on disk, which are removed unless [`Batch::keep`] is called, and their list for the run.
    pub(super) files: Option<(Batch, Uploaded)>,
}

/// Reads and validates a request to start a run.
///
/// # Errors
/// The request is invalid, too large or incomplete, or the disk is full. Files that were already written are removed.
pub(super) async fn read(app: &AppState, request: Request) -> Result<Submission, ApiError> {
    let kind = content_type(request.headers()).to_owned();
    let submission = match media_type(&kind).as_str() {
        FORM => form(app, request, &kind).await?,
        "application/json" => {
            let ApiJson(request) = ApiJson::from_request(request, app).await?;
            Submission { request, files: None }
        }
        _ => return Err(ApiError::invalid("Content-Type", "must be application/json or multipart/form-data")),
    };
    check(app, &submission.request)?;
    if submission.request.interrupt.is_some() {
        return Err(ApiError::invalid(
            "interrupt",
            "only POST …/messages takes it: use that to interrupt a run that is in progress",
        ));
    }
    if submission.request.command.is_some() && submission.files.is_some() {
        return Err(ApiError::invalid("command", "takes no files"));
    }
    Ok(submission)
}

/// Checks what the type of a request does not.
pub(super) fn check(app: &AppState, request: &RunRequest) -> Result<(), ApiError> {
    match &request.command {
        Some(command) => check_command(app, command, request)?,
        None => {
            check_length("user_input", &request.user_input, USER_INPUT)?;
            if request.user_input.trim().is_empty() {
                return Err(ApiError::invalid("user_input", "must not be white space alone"));
            }
        }
    }
    content::check(&request.content, |path| check_path(path).map_err(|error| error.message().to_owned()))
        .map_err(|bad| ApiError::invalid(bad.place, bad.why))?;
    for (field, text) in request.executor.iter().flat_map(|executor| {
        [
            ("executor.user_id", &executor.user_id),
            ("executor.name", &executor.name),
            ("executor.email", &executor.email),
        ]
    }) {
        text.as_ref().map_or(Ok(()), |text| check_length(field, text, 0..=256))?;
    }
    client_tools::check(&request.client_tools)
}

/// A command stands alone, and is one of those that a run may ask for.
fn check_command(app: &AppState, command: &str, request: &RunRequest) -> Result<(), ApiError> {
    let alone = request.user_input.is_empty() && request.content.is_empty();
    if !alone {
        return Err(ApiError::invalid("command", "takes the place of user_input and content"));
    }
    if command.len() > LONGEST_COMMAND || command.chars().any(char::is_control) {
        let why = format!("must have at most {LONGEST_COMMAND} bytes, none of them a control character");
        return Err(ApiError::invalid("command", why));
    }
    let known = app.runs.driver().commands();
    let name = command.split(' ').next().unwrap_or_default();
    let is_known = |name: &str| known.contains(&name) || name.starts_with(SKILLS);
    if !name.strip_prefix('/').is_some_and(is_known) {
        let known: Vec<String> = known.iter().map(|name| format!("/{name}")).collect();
        return Err(ApiError::invalid(
            "command",
            format!("must begin with one of {}, or /{SKILLS} and the name of a skill", known.join(", ")),
        ));
    }
    Ok(())
}

async fn form(app: &AppState, request: Request, kind: &str) -> Result<Submission, ApiError> {
    let work = request.extensions().get::<Work>().cloned();
    let (parts, buffered, errors) = open_form(kind, request.into_body())?;
    let digest = work.is_some().then(FormDigest::default);
    let mut form = Form { app, parts, buffered, digest };
    let submission = in_time(errors, form.read()).await?;
    if let (Some(work), Some(digest)) = (&work, form.digest) {
        work.body_was_read(&digest.finish());
    }
    Ok(submission)
}

/// A form that is being read.
struct Form<'a> {
    app: &'a AppState,
    parts: Multipart<'static>,
    /// Bytes that the parser has read since it last yielded something.
    buffered: Arc<AtomicUsize>,
    /// Hash of what was read, if anybody wants it.
    digest: Option<FormDigest>,
}

impl Form<'_> {
    async fn read(&mut self) -> Result<Submission, FormError> {
        let mut batch = self.app.uploads.begin()?;
        let (mut data, mut metadata, mut files) = (None, None, Vec::new());
        while let Some(mut part) = self.parts.next_field().await? {
            self.buffered.store(0, Ordering::Relaxed);
            self.digest.iter_mut().for_each(|digest| digest.part(&part));
            match part.name() {
                Some("request_data") if data.is_none() => data = Some(self.text(&mut part).await?),
                Some("file_metadata") if metadata.is_none() => metadata = Some(self.text(&mut part).await?),
                Some("files") if files.len() == MOST_UPLOADS => {
                    return Err(ApiError::invalid("files", format!("must be at most {MOST_UPLOADS} files")).into());
                }
                Some("files") => {
                    let path = part.file_name().unwrap_or_default().to_owned();
                    let bytes = self.file(&mut part, &mut batch).await?;
                    files.push(UploadedFile { path, bytes });
                }
                _ => {
                    let accepted = "must have the parts request_data, file_metadata (each at most once) and files only";
                    return Err(ApiError::invalid("body", accepted).into());
                }
            }
        }
        let data = data.ok_or_else(|| ApiError::invalid("request_data", "required"))?;
        let request = parse_json(&data)?;
        if let Some(metadata) = metadata {
            apply_metadata(&mut files, &metadata)?;
        }
        check_paths(&files)?;
        let uploaded = batch.describe(files);
        Ok(Submission { request, files: Some((batch, uploaded)) })
    }

    async fn text(&mut self, part: &mut Field<'_>) -> Result<Vec<u8>, FormError> {
        let mut text = Vec::new();
        while let Some(piece) = part.chunk().await? {
            self.buffered.store(0, Ordering::Relaxed);
            self.digest.iter_mut().for_each(|digest| digest.piece(&piece));
            text.extend_from_slice(&piece);
            if text.len() > MAX_BODY_BYTES {
                let message = format!("request_data or file_metadata exceeds {MAX_BODY_BYTES} bytes");
                return Err(ApiError::new(Code::PayloadTooLarge, message).into());
            }
        }
        Ok(text)
    }

    /// Writes a file to disk and returns its length in bytes. Stops while the disk still has much space for the journals and the
    /// database of runs.
    async fn file(&mut self, part: &mut Field<'_>, batch: &mut Batch) -> Result<u64, FormError> {
        let mut file = batch.file().await?;
        let (mut bytes, mut unchecked) = (0, SPACE_CHECK_INTERVAL);
        while let Some(piece) = part.chunk().await? {
            self.buffered.store(0, Ordering::Relaxed);
            self.digest.iter_mut().for_each(|digest| digest.piece(&piece));
            unchecked += piece.len();
            if unchecked >= SPACE_CHECK_INTERVAL {
                unchecked = 0;
                self.app.state_dir.check_space_for_uploads().map_err(|error| {
                    tracing::error!(%error, "an upload was rejected");
                    no_space()
                })?;
            }
            bytes += piece.len() as u64;
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        debug_assert!(bytes <= MAX_FILE_BYTES, "limit_upload limits the whole body");
        Ok(bytes)
    }
}

/// Replaces the files' paths by those in the metadata.
fn apply_metadata(files: &mut [UploadedFile], metadata: &[u8]) -> Result<(), ApiError> {
    let invalid =
        |why: String| ApiError::invalid("file_metadata", format!("{why}; must be an array of {{\"path\": …}}"));
    let entries: Vec<FileMetadata> = serde_json::from_slice(metadata).map_err(|error| invalid(error.to_string()))?;
    if entries.len() != files.len() {
        return Err(invalid(format!("{} entries for {} files", entries.len(), files.len())));
    }
    for (file, entry) in files.iter_mut().zip(entries) {
        file.path = entry.path;
    }
    Ok(())
}

/// Checks that the paths are valid and distinct, and that none is a folder of another.
fn check_paths(files: &[UploadedFile]) -> Result<(), ApiError> {
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.iter().try_for_each(|path| check_path(path))?;
    paths.sort_unstable();
    let known: std::collections::HashSet<&str> = paths.iter().copied().collect();
    let is_below_file = |path: &str| path.match_indices('/').any(|(at, _)| known.contains(&path[..at]));
    if let Some(path) = paths.windows(2).find_map(|two| (two[0] == two[1]).then_some(two[0])) {
        return Err(ApiError::invalid("files", format!("two files have the path {path:?}")));
    }
    if let Some(path) = paths.iter().find(|path| is_below_file(path)) {
        return Err(ApiError::invalid("files", format!("a folder of {path:?} is another file")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_paths_and_files_below_files_are_rejected() {
        let files = |paths: &[&str]| -> Vec<UploadedFile> {
            paths.iter().map(|path| UploadedFile { path: (*path).into(), bytes: 0 }).collect()
        };
        for valid in [&["a", "b"][..], &["a/b", "a/c"], &["a", "ab/c"], &["a-b", "a/b"], &[]] {
            assert!(check_paths(&files(valid)).is_ok(), "{valid:?}");
        }
        for invalid in [&["a", "a"][..], &["a", "a/b"], &["a/b/c", "a"], &["a", "a-b", "a/b"], &["../a"], &[""]] {
            assert!(check_paths(&files(invalid)).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn metadata_must_have_one_entry_for_each_file() {
        let mut files = vec![UploadedFile { path: "a".into(), bytes: 1 }, UploadedFile { path: "b".into(), bytes: 2 }];
        apply_metadata(&mut files, br#"[{"path": "x/a"}, {"path": "x/b"}]"#).expect("valid");
        assert_eq!((files[0].path.as_str(), files[1].path.as_str()), ("x/a", "x/b"));
        for invalid in ["[]", "{}", r#"[{"path": "a"}]"#, r#"[{"path": "a"}, {"name": "b"}]"#, "junk"] {
            assert!(apply_metadata(&mut files, invalid.as_bytes()).is_err(), "{invalid}");
        }
    }
}
