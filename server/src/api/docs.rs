//! `/openapi.json` and `/docs`: the OpenAPI document, and a page that renders it.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use bytes::Bytes;

/// The routes of the API's documentation, which need no key.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // Serialized once into shared bytes, because axum clones the handler and its captures for every request.
    let document = super::openapi().to_json().map(Bytes::from);
    let document = document.unwrap_or_else(|error| unreachable!("the OpenAPI document is plain data: {error}"));
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], document)))
        .route("/docs", get(async || Html(include_str!("docs.html"))))
}
