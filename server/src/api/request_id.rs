//! `X-Request-ID`: taken from the request if valid, otherwise generated. It is on every response, in every error and in the log.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of a client's id, in characters.
const MAX_LENGTH: usize = 128;

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that the current task handles; empty outside a request.
#[must_use]
pub fn current() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// The same work with the id and the tracing span of the current request, for a task of its own.
pub(super) fn keep<F: Future>(work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(current(), work.instrument(tracing::Span::current()))
}

fn is_valid(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Sets the id for the request's task, its tracing span and its response.
pub async fn layer(request: Request, next: Next) -> Response {
    let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| is_valid(id));
    let id = given.map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
    let span = tracing::info_span!("request", request_id = %id);
    let mut response = CURRENT.scope(id.clone(), next.run(request).instrument(span)).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}
