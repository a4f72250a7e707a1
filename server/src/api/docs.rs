//! The description of the service, for programs and for people.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use bytes::Bytes;

/// Open without a key.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // As text, and shared: a handler is cloned again and again, with all it holds.
    let description = super::openapi().to_json().map(Bytes::from);
    let description = description.unwrap_or_else(|error| unreachable!("a description is plain data: {error}"));
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], description)))
        .route("/docs", get(async || Html(include_str!("docs.html"))))
}
