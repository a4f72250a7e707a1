//! What starts a run: a JSON object, or a form that has files beside it (RFC 7578).

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use multer::{Field, Multipart};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::AppState;
use super::error::{ApiError, Code};
use super::extract::{ApiJson, LARGEST_BODY, check_length, parse_json};
use super::file_path::check_path;
use crate::conversation::uploads::{Batch, MOST_UPLOADS, Uploaded, UploadedFile};
use nagaya_workspace::files::{FilesError, UPLOAD_DEADLINE, capture_error, limit_upload};
use nagaya_workspace::objects::MAX_FILE_BYTES;

/// Longest user input, in characters.
const USER_INPUT: std::ops::RangeInclusive<usize> = 1..=200_000;
/// Bytes that may come in front of a form's next part, its head included.
const LONGEST_HEAD: usize = 64 * 1024;
/// Between two looks at how much the disk has left, in bytes.
const LOOK_EVERY: usize = 1 << 20;

/// What starts a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_input": "Add up the invoices", "executor": {"user_id": "ada"}}))]
pub(super) struct RunRequest {
    /// What the user asks for; 1 to 200,000 characters.
    #[schema(min_length = 1, max_length = 200_000, pattern = r"^[^\u0000]*$")]
    pub(super) user_input: String,
    /// Who asks, for the log.
    pub(super) executor: Option<Executor>,
}

/// Who asks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Executor {
    /// Up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    pub(super) user_id: Option<String>,
    /// Up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// Up to 256 characters.
    #[schema(max_length = 256, pattern = r"^[^\u0000]*$")]
    email: Option<String>,
}

/// A form that starts a run, with files that are in the workspace before it begins. In all it has at most 1 GiB.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "it describes what is read part by part")]
#[serde(deny_unknown_fields)]
pub(super) struct RunForm {
    /// A `RunRequest`, as JSON.
    #[schema(content_media_type = "application/json", example = r#"{"user_input": "Add up the invoices"}"#)]
    request_data: String,
    /// Up to 100 files. Each goes where its part's `filename` says, below the workspace.
    #[schema(content_media_type = "application/octet-stream", max_items = 100)]
    files: Option<Vec<String>>,
    /// Where the files go instead, as JSON: an array of as many `{"path": "…"}` as there are files, in their order.
    #[schema(content_media_type = "application/json", example = r#"[{"path": "invoices/2026.csv"}]"#)]
    file_metadata: Option<String>,
}

/// Where a file of a form goes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMetadata {
    path: String,
}

/// A request that was read and is valid.
pub(super) struct Submission {
    pub(super) request: RunRequest,
    /// Files, and what the run is told of them. They are removed unless it keeps them.
    pub(super) files: Option<(Batch, Uploaded)>,
}

/// Reads what starts a run.
///
/// # Errors
/// Something in it is not accepted, breaks off, or does not fit; then nothing of it is left.
pub(super) async fn read(app: &AppState, request: Request) -> Result<Submission, ApiError> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let submission = match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "multipart/form-data" => form(app, request, &kind).await?,
        "application/json" => {
            let ApiJson(request) = ApiJson::from_request(request, app).await?;
            Submission { request, files: None }
        }
        _ => return Err(ApiError::invalid("Content-Type", "application/json and multipart/form-data are accepted")),
    };
    check(&submission.request)?;
    Ok(submission)
}

fn check(request: &RunRequest) -> Result<(), ApiError> {
    check_length("user_input", &request.user_input, USER_INPUT)?;
    for (field, text) in request.executor.iter().flat_map(|executor| {
        [
            ("executor.user_id", &executor.user_id),
            ("executor.name", &executor.name),
            ("executor.email", &executor.email),
        ]
    }) {
        text.as_ref().map_or(Ok(()), |text| check_length(field, text, 0..=256))?;
    }
    Ok(())
}

async fn form(app: &AppState, request: Request, kind: &str) -> Result<Submission, ApiError> {
    let boundary =
        multer::parse_boundary(kind).map_err(|error| ApiError::invalid("Content-Type", error.to_string()))?;
    let pieces = request.into_body().into_data_stream();
    let pieces = pieces.map_err(|error| FilesError::Interrupted(error.to_string()));
    // Silence and size are judged here; the parser only sees that the body broke off.
    let (pieces, wrong) = capture_error(limit_upload(pieces.boxed()));
    let ahead = Arc::new(AtomicUsize::new(0));
    let mut form = Form { app, parts: Multipart::new(in_steps(pieces, ahead.clone()), boundary), ahead };
    match timeout_at(Instant::now() + UPLOAD_DEADLINE, form.read()).await {
        Err(_) => Err(ApiError::invalid("body", format!("it has not ended within {UPLOAD_DEADLINE:?}"))),
        Ok(Err(Fault::Form(error))) => {
            // The parser's own words for what it could not read on are no help.
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Err(wrong.try_recv().map_or_else(|_| ApiError::invalid("body", cause), Into::into))
        }
        Ok(Err(Fault::Api(error))) => Err(error),
        Ok(Ok(submission)) => Ok(submission),
    }
}

/// The parser takes all that is there at once, and in front of a part it waits for a head of any length: so it gets one piece at a
/// time, and no more than `LONGEST_HEAD` before something has come of it.
fn in_steps(
    pieces: BoxStream<'static, std::io::Result<Bytes>>,
    ahead: Arc<AtomicUsize>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::unfold((pieces, false), move |(mut pieces, paused)| {
        let ahead = ahead.clone();
        async move {
            if paused {
                tokio::task::yield_now().await;
            }
            let piece = pieces.next().await?;
            let length = piece.as_ref().map_or(0, Bytes::len);
            let piece = if ahead.fetch_add(length, Ordering::Relaxed) > LONGEST_HEAD {
                Err(std::io::Error::other(format!("more than {LONGEST_HEAD} bytes in front of a part")))
            } else {
                piece
            };
            Some((piece, (pieces, true)))
        }
    })
}

enum Fault {
    Form(multer::Error),
    Api(ApiError),
}

impl From<multer::Error> for Fault {
    fn from(error: multer::Error) -> Self {
        Self::Form(error)
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// What the disk did not take.
impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Api(match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                ApiError::unavailable("the server has no room for the files; try again later")
            }
            _ => ApiError::internal(&format!("an upload cannot be written: {error}")),
        })
    }
}

/// A form that is being read.
struct Form<'a> {
    app: &'a AppState,
    parts: Multipart<'static>,
    /// Bytes that the parser has had since something came of them.
    ahead: Arc<AtomicUsize>,
}

impl Form<'_> {
    async fn read(&mut self) -> Result<Submission, Fault> {
        let mut batch = self.app.uploads.begin()?;
        let (mut data, mut metadata, mut files) = (None, None, Vec::new());
        while let Some(mut part) = self.parts.next_field().await? {
            self.ahead.store(0, Ordering::Relaxed);
            match part.name() {
                Some("request_data") if data.is_none() => data = Some(self.text(&mut part).await?),
                Some("file_metadata") if metadata.is_none() => metadata = Some(self.text(&mut part).await?),
                Some("files") if files.len() == MOST_UPLOADS => {
                    return Err(ApiError::invalid("files", format!("at most {MOST_UPLOADS} are accepted")).into());
                }
                Some("files") => {
                    let path = part.file_name().unwrap_or_default().to_owned();
                    let bytes = self.file(&mut part, &mut batch).await?;
                    files.push(UploadedFile { path, bytes });
                }
                _ => {
                    let accepted = "request_data, file_metadata, once each, and files are accepted";
                    return Err(ApiError::invalid("body", accepted).into());
                }
            }
        }
        let data = data.ok_or_else(|| ApiError::invalid("request_data", "it is missing"))?;
        let request = parse_json(&data)?;
        if let Some(metadata) = metadata {
            place(&mut files, &metadata)?;
        }
        check_paths(&files)?;
        let told = batch.told(files);
        Ok(Submission { request, files: Some((batch, told)) })
    }

    async fn text(&self, part: &mut Field<'_>) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        while let Some(piece) = part.chunk().await? {
            self.ahead.store(0, Ordering::Relaxed);
            text.extend_from_slice(&piece);
            if text.len() > LARGEST_BODY {
                let why = format!("a part that is no file has at most {LARGEST_BODY} bytes");
                return Err(ApiError::new(Code::PayloadTooLarge, why).into());
            }
        }
        Ok(text)
    }

    /// Takes a file in, and leaves the disk what runs need.
    async fn file(&self, part: &mut Field<'_>, batch: &mut Batch) -> Result<u64, Fault> {
        let mut file = batch.file().await?;
        let (mut bytes, mut unlooked) = (0, LOOK_EVERY);
        while let Some(piece) = part.chunk().await? {
            self.ahead.store(0, Ordering::Relaxed);
            unlooked += piece.len();
            if unlooked >= LOOK_EVERY {
                unlooked = 0;
                self.app.state_dir.check_free_space().map_err(|error| {
                    tracing::error!(%error, "an upload is refused");
                    ApiError::unavailable("the server has no room for the files; try again later")
                })?;
            }
            bytes += piece.len() as u64;
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        debug_assert!(bytes <= MAX_FILE_BYTES, "the body as a whole has no more");
        Ok(bytes)
    }
}

/// Gives files the paths that the metadata has for them.
fn place(files: &mut [UploadedFile], metadata: &[u8]) -> Result<(), ApiError> {
    let accepted =
        |why: String| ApiError::invalid("file_metadata", format!("{why}; an array of {{\"path\": …}} is accepted"));
    let entries: Vec<FileMetadata> = serde_json::from_slice(metadata).map_err(|error| accepted(error.to_string()))?;
    if entries.len() != files.len() {
        return Err(accepted(format!("{} entries for {} files", entries.len(), files.len())));
    }
    for (file, entry) in files.iter_mut().zip(entries) {
        file.path = entry.path;
    }
    Ok(())
}

/// Every file has a path of its own, and none is another's folder.
fn check_paths(files: &[UploadedFile]) -> Result<(), ApiError> {
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.iter().try_for_each(|path| check_path(path))?;
    paths.sort_unstable();
    let known: std::collections::HashSet<&str> = paths.iter().copied().collect();
    let parents = |path: &str| path.match_indices('/').any(|(at, _)| known.contains(&path[..at]));
    if let Some(path) = paths.windows(2).find_map(|two| (two[0] == two[1]).then_some(two[0])) {
        return Err(ApiError::invalid("files", format!("two of them are called {path:?}")));
    }
    if let Some(path) = paths.iter().find(|path| parents(path)) {
        return Err(ApiError::invalid("files", format!("another file is a folder of {path:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_form_do_not_clash() {
        let files = |paths: &[&str]| -> Vec<UploadedFile> {
            paths.iter().map(|path| UploadedFile { path: (*path).into(), bytes: 0 }).collect()
        };
        for good in [&["a", "b"][..], &["a/b", "a/c"], &["a", "ab/c"], &["a-b", "a/b"], &[]] {
            assert!(check_paths(&files(good)).is_ok(), "{good:?}");
        }
        for bad in [&["a", "a"][..], &["a", "a/b"], &["a/b/c", "a"], &["a", "a-b", "a/b"], &["../a"], &[""]] {
            assert!(check_paths(&files(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_is_for_every_file_or_for_none() {
        let mut files = vec![UploadedFile { path: "a".into(), bytes: 1 }, UploadedFile { path: "b".into(), bytes: 2 }];
        place(&mut files, br#"[{"path": "x/a"}, {"path": "x/b"}]"#).expect("placed");
        assert_eq!((files[0].path.as_str(), files[1].path.as_str()), ("x/a", "x/b"));
        for bad in ["[]", "{}", r#"[{"path": "a"}]"#, r#"[{"path": "a"}, {"name": "b"}]"#, "junk"] {
            assert!(place(&mut files, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn no_more_than_a_head_is_held_before_something_comes_of_it() {
        let pieces = futures::stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 16 * 1024]))).take(1000).boxed();
        let ahead = Arc::new(AtomicUsize::new(0));
        let mut parts = Multipart::new(in_steps(pieces, ahead.clone()), "b");
        assert!(parts.next_field().await.is_err());
        assert!(ahead.load(Ordering::Relaxed) < 2 * LONGEST_HEAD);
    }
}
