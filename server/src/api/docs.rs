//! The description of the service, for programs and for people.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

/// Open without a key.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let description = super::openapi();
    Router::new()
        .route("/openapi.json", get(async move || axum::Json(description)))
        .route("/docs", get(async || Html(include_str!("docs.html"))))
}
