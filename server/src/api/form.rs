//! Forms with files (RFC 7578): limits of what is read, and a hash of it.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use multer::{Field, Multipart};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, Code};
use nagaya_workspace::files::{FilesError, UPLOAD_DEADLINE, capture_error, limit_upload};

/// Bytes that the multipart parser may buffer before it yields the next part: the part's headers and whatever precedes them.
const MAX_PART_HEAD_BYTES: usize = 64 * 1024;

/// The media type of a form.
pub(super) const FORM: &str = "multipart/form-data";

pub(super) fn media_type(kind: &str) -> String {
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default()
}

/// Whether a request's body is a form, which is read part by part.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    media_type(content_type(headers)) == FORM
}

/// Hash of a form's parts: of their names, file names and contents, but not of the boundary between them, which is another one
/// whenever a client sends the same form.
pub(super) async fn digest(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let kind = content_type(headers);
    let (parts, buffered, errors) = open_form(kind, body)?;
    in_time(errors, digest_parts(parts, &buffered)).await
}

async fn digest_parts(mut parts: Multipart<'static>, buffered: &AtomicUsize) -> Result<Vec<u8>, FormError> {
    let mut digest = FormDigest::default();
    while let Some(mut part) = parts.next_field().await? {
        buffered.store(0, Ordering::Relaxed);
        digest.part(&part);
        while let Some(piece) = part.chunk().await? {
            buffered.store(0, Ordering::Relaxed);
            digest.piece(&piece);
        }
    }
    Ok(digest.finish())
}

/// The parts of a form, a count of what their parser buffers, and the errors of the body.
pub(super) type OpenForm = (Multipart<'static>, Arc<AtomicUsize>, Receiver<FilesError>);

/// Opens a form, with limits of its size and of what the parser buffers.
pub(super) fn open_form(kind: &str, body: Body) -> Result<OpenForm, ApiError> {
    let boundary =
        multer::parse_boundary(kind).map_err(|error| ApiError::invalid("Content-Type", error.to_string()))?;
    let pieces = body.into_data_stream().map_err(|error| FilesError::Interrupted(error.to_string()));
    // The limits of time and size end the stream with an error, which the multipart parser would replace by one of its own.
    let (pieces, errors) = capture_error(limit_upload(pieces.boxed()));
    let buffered = Arc::new(AtomicUsize::new(0));
    let parts = Multipart::new(limit_buffering(pieces, buffered.clone()), boundary);
    Ok((parts, buffered, errors))
}

/// Waits until a form is read, up to a limit.
pub(super) async fn in_time<T>(
    errors: Receiver<FilesError>,
    read: impl Future<Output = Result<T, FormError>>,
) -> Result<T, ApiError> {
    match timeout_at(Instant::now() + UPLOAD_DEADLINE, read).await {
        Err(_) => Err(ApiError::invalid("body", format!("must be received within {UPLOAD_DEADLINE:?}"))),
        Ok(Err(FormError::Multipart(error))) => {
            // The parser wraps errors of the stream in a message that does not say more than "failed to read stream".
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Err(errors.try_recv().map_or_else(|_| ApiError::invalid("body", cause), Into::into))
        }
        Ok(Err(FormError::Api(error))) => Err(error),
        Ok(Ok(form)) => Ok(form),
    }
}

/// Limits what the multipart parser buffers. multer reads its stream until it is pending and has no limit for a part's headers, so the
/// stream is pending after each piece, and fails once [`MAX_PART_HEAD_BYTES`] were read since `buffered` was last reset to zero.
fn limit_buffering(
    pieces: BoxStream<'static, std::io::Result<Bytes>>,
    buffered: Arc<AtomicUsize>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::unfold((pieces, false), move |(mut pieces, paused)| {
        let buffered = buffered.clone();
        async move {
            if paused {
                tokio::task::yield_now().await;
            }
            let piece = pieces.next().await?;
            let length = piece.as_ref().map_or(0, Bytes::len);
            let piece = if buffered.fetch_add(length, Ordering::Relaxed) > MAX_PART_HEAD_BYTES {
                Err(std::io::Error::other(format!("the headers of a part exceed {MAX_PART_HEAD_BYTES} bytes")))
            } else {
                piece
            };
            Some((piece, (pieces, true)))
        }
    })
}

/// Why a form could not be read.
pub(super) enum FormError {
    Multipart(multer::Error),
    Api(ApiError),
}

impl From<multer::Error> for FormError {
    fn from(error: multer::Error) -> Self {
        Self::Multipart(error)
    }
}

impl From<ApiError> for FormError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// An upload could not be written to disk.
impl From<std::io::Error> for FormError {
    fn from(error: std::io::Error) -> Self {
        Self::Api(match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => no_space(),
            _ => ApiError::internal(&format!("an uploaded file could not be written: {error}")),
        })
    }
}

pub(super) fn no_space() -> ApiError {
    ApiError::new(Code::InsufficientStorage, "the server has no disk space for the files; send the run without them")
}

/// Hash of a form.
#[derive(Default)]
pub(super) struct FormDigest {
    hash: Sha256,
    /// Length of the current part, in bytes.
    length: u64,
}

impl FormDigest {
    pub(super) fn part(&mut self, part: &Field<'_>) {
        self.end_part();
        for text in [part.name(), part.file_name()] {
            let text = text.unwrap_or_default();
            self.hash.update((text.len() as u64).to_be_bytes());
            self.hash.update(text);
        }
    }

    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        self.hash.update(piece);
    }

    fn end_part(&mut self) {
        self.hash.update(std::mem::take(&mut self.length).to_be_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_part();
        self.hash.finalize().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hash(boundary: &str, parts: &[(&str, &str, &str)]) -> Vec<u8> {
        let mut body = String::new();
        for (name, file, content) in parts {
            let head = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"");
            body.push_str(&format!("--{boundary}\r\n{head}\r\n\r\n{content}\r\n"));
        }
        body.push_str(&format!("--{boundary}--\r\n"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, format!("{FORM}; boundary={boundary}").parse().expect("a header"));
        assert!(is_form(&headers));
        digest(&headers, Body::from(body)).await.expect("a form")
    }

    #[tokio::test]
    async fn the_hash_of_a_form_is_that_of_its_parts_whatever_lies_between_them() {
        let form = [("request_data", "", "{}"), ("files", "a.txt", "one\r\ntwo")];
        let first = hash("XX", &form).await;
        assert_eq!(hash("other", &form).await, first);
        for other in [
            &[("request_data", "", "{ }"), ("files", "a.txt", "one\r\ntwo")][..],
            &[("request_data", "", "{}"), ("files", "b.txt", "one\r\ntwo")],
            &[("request_data", "", "{}"), ("files", "a.txt", "one\r\ntw")],
            &[("files", "a.txt", "one\r\ntwo"), ("request_data", "", "{}")],
            &[("request_data", "", "{}")],
        ] {
            assert_ne!(hash("XX", other).await, first, "{other:?}");
        }
    }

    #[tokio::test]
    async fn the_parser_buffers_no_more_than_the_headers_of_one_part() {
        let pieces = futures::stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 16 * 1024]))).take(1000).boxed();
        let buffered = Arc::new(AtomicUsize::new(0));
        let mut parts = Multipart::new(limit_buffering(pieces, buffered.clone()), "b");
        assert!(parts.next_field().await.is_err());
        assert!(buffered.load(Ordering::Relaxed) < 2 * MAX_PART_HEAD_BYTES);
    }
}
