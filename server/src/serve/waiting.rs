//! Waits for a database that does not answer at the start, as for Docker and Redis.

use std::time::Duration;

use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::api::error::ApiError;
use crate::api::request_id;
use crate::conversation::store::{Database, OpenError, Store};

/// Pause between two attempts, and between two lines of the log.
const PAUSE: Duration = Duration::from_secs(2);

/// Opens the database. While PostgreSQL does not answer, requests on `listener` are answered 503, and the log says why every few seconds.
///
/// # Errors
/// The database cannot be used for another reason than that it does not answer, which waiting does not change.
pub(super) async fn open(database: &Database, listener: &std::net::TcpListener) -> Result<Store, OpenError> {
    let mut answering = None;
    loop {
        let error = match Store::open(database).await {
            Err(error @ OpenError::Away(_)) if matches!(database, Database::Postgres(_)) => error,
            other => return other,
        };
        tracing::warn!(%database, %error, "waiting for the database");
        if answering.is_none() {
            answering = answer(listener, format!("the database {database}: {error}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Answers requests on a listener until the returned value is dropped.
fn answer(listener: &std::net::TcpListener, why: String) -> Option<AbortOnDropHandle<()>> {
    let listener = listener.try_clone().and_then(TcpListener::from_std);
    let listener = listener.inspect_err(|error| tracing::error!(%error, "requests are not answered meanwhile")).ok()?;
    let unavailable = move || {
        let why = why.clone();
        async move { ApiError::unavailable(why).into_response() }
    };
    let router = Router::new()
        .route("/health/live", get(async || Json(serde_json::json!({"status": "alive"}))))
        .fallback(unavailable)
        .layer(middleware::from_fn(request_id::layer));
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "requests are not answered meanwhile");
        }
    })))
}
