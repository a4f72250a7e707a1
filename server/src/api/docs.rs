//! `/openapi.json` and `/docs`: the OpenAPI document, and Swagger UI, which shows it. Its files are in the binary, and the page may
//! fetch from nowhere else.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;

/// What the page may load (Content Security Policy Level 3). Swagger UI has pictures in its style sheet; it sets styles of elements by
/// their attribute `style` when it shows an example.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of Swagger UI, compressed by gzip, as `build.rs` writes it.
macro_rules! gzip {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))
    };
}

/// The routes of the API's documentation, which need no key.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // Serialized once into shared bytes, because axum clones the handler and its captures for every request.
    let document = super::openapi().to_json().map(Bytes::from);
    let document = document.unwrap_or_else(|error| unreachable!("the OpenAPI document is plain data: {error}"));
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], document)))
        .route("/docs", get(page))
        .route("/docs/start.js", get(async || part("text/javascript", include_bytes!("docs/start.js"))))
        .route("/docs/page.css", get(async || part("text/css", include_bytes!("docs/page.css"))))
        .route("/docs/swagger-ui.js", get(async || packed("text/javascript", gzip!("swagger-ui-bundle.js"))))
        .route("/docs/swagger-ui.css", get(async || packed("text/css", gzip!("swagger-ui.css"))))
}

async fn page() -> impl IntoResponse {
    ([(CONTENT_SECURITY_POLICY, POLICY)], part("text/html; charset=utf-8", include_bytes!("docs/page.html")))
}

fn part(kind: &'static str, content: &'static [u8]) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (CACHE_CONTROL, "no-cache")], content)
}

/// Every browser takes gzip, and a client that names no coding takes any (RFC 9110, section 12.5.3).
fn packed(kind: &'static str, content: &'static [u8]) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_ENCODING, "gzip"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "max-age=3600"),
    ];
    (headers, content)
}
