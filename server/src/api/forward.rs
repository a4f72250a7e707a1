//! Forwards requests about a run to the server of the deployment that executes it.
//!
//! Each server also serves the API on a Unix socket that only servers can reach ([`peer_router`]). The listener, not the request,
//! marks requests that arrive there, and they are not forwarded again.

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Path as Captured, RawPathParams, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures::StreamExt;

use super::AppState;
use super::error::ApiError;
use super::extract::read_body;
use super::stream::LAST_EVENT_ID;
use super::{attempts, idempotency, request_id};
use crate::cluster::{LastRun, PeerApi};

/// Marks a request that arrived on the socket for other servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromPeer;

/// The API for other servers: all routes of the public one, and [`PeerApi::LAST_RUN`].
pub fn peer_router(app: AppState) -> Router {
    let own = Router::new().route(PeerApi::LAST_RUN, get(last_run)).with_state(app.clone());
    super::router(app).merge(own).layer(Extension(FromPeer))
}

async fn last_run(State(app): State<AppState>, Captured(conversation): Captured<String>) -> Json<Option<LastRun>> {
    Json(own(&app, &conversation))
}

fn own(app: &AppState, conversation: &str) -> Option<LastRun> {
    app.runs.last(conversation).map(|(run_id, going)| LastRun { run_id, going })
}

/// The run that a request refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The conversation's latest run, also after its end.
    Latest,
    /// A run in progress.
    InProgress,
}

/// The run that a request refers to; `None` if it does not refer to a run, so that any server can answer it.
fn target(request: &Request) -> Option<Target> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    let rest = route.strip_prefix("/api/tenants/{tenant_id}/conversations/{conversation_id}")?;
    match (request.method(), rest) {
        (&Method::GET, "/stream" | "/log") => Some(Target::Latest),
        (&Method::POST, "/cancel" | "/interrupt" | "/messages")
        | (&Method::GET, "/approvals")
        | (&Method::POST, "/approvals/{approval_id}" | "/tool-results/{request_id}")
        | (&Method::DELETE, "") => Some(Target::InProgress),
        _ => None,
    }
}

/// Forwards a request to the server that has the run it refers to, or lets this server answer it.
pub(super) async fn layer(
    State(app): State<AppState>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let conversation = params.iter().find(|(name, _)| *name == "conversation_id").map(|(_, id)| id.to_owned());
    let stays_here = !app.cluster.is_shared() || request.extensions().get::<FromPeer>().is_some();
    let (false, Some(target), Some(conversation)) = (stays_here, target(&request), conversation) else {
        return Ok(next.run(request).await);
    };
    let own = own(&app, &conversation);
    if target == Target::InProgress && own.as_ref().is_some_and(|run| run.going) {
        return Ok(next.run(request).await);
    }
    let peers = app.cluster.peer_apis().map_err(|error| ApiError::internal(&error))?;
    let queries = peers.into_iter().map(|peer| {
        let conversation = &conversation;
        async move { Some((last_run_of(&peer, conversation).await?, peer)) }
    });
    let theirs = futures::future::join_all(queries).await.into_iter().flatten();
    let latest = theirs
        .filter(|(run, _)| target == Target::Latest || run.going)
        .max_by(|(a, _), (b, _)| a.run_id.cmp(&b.run_id));
    match latest {
        Some((run, peer)) if own.is_none_or(|own| own.run_id < run.run_id) => forward(&peer, request).await,
        _ => {
            if target == Target::InProgress
                && let Err(error) = app.runs.take_over_of(&conversation).await
            {
                tracing::debug!(conversation, %error, "cannot look for a run whose server has died");
            }
            Ok(next.run(request).await)
        }
    }
}

/// Whether a run of the conversation is in progress, on whichever server.
pub(super) async fn is_running(app: &AppState, conversation: &str) -> Result<bool, ApiError> {
    if app.runs.is_running(conversation) || !app.cluster.is_shared() {
        return Ok(app.runs.is_running(conversation));
    }
    let peers = app.cluster.peer_apis().map_err(|error| ApiError::internal(&error))?;
    let queries = peers.iter().map(|peer| last_run_of(peer, conversation));
    Ok(futures::future::join_all(queries).await.into_iter().flatten().any(|run| run.going))
}

/// The events of a conversation's last run from its beginning, from the server that has it; `None` if no other server has this run.
/// `asked` are address and headers of the request that is answered so.
pub(super) async fn events_of(
    app: &AppState,
    conversation: &str,
    run: &str,
    (uri, headers): (Uri, HeaderMap),
) -> Result<Option<Response>, ApiError> {
    let peers = app.cluster.peer_apis().map_err(|error| ApiError::internal(&error))?;
    let queries = peers.into_iter().map(async |peer| Some((last_run_of(&peer, conversation).await?, peer)));
    let theirs = futures::future::join_all(queries).await.into_iter().flatten();
    let Some((_, peer)) = theirs.into_iter().find(|(last, _)| last.run_id == run) else { return Ok(None) };
    let mut asked = Request::new(Body::empty());
    *asked.uri_mut() = uri;
    *asked.headers_mut() = headers;
    for name in [LAST_EVENT_ID, idempotency::HEADER, CONTENT_TYPE] {
        asked.headers_mut().remove(name);
    }
    forward(&peer, asked).await.map(Some)
}

/// The conversation's last run on another server; `None` if that server has none or does not answer.
async fn last_run_of(peer: &PeerApi, conversation: &str) -> Option<LastRun> {
    peer.last_run(conversation).await.unwrap_or_else(|error| {
        tracing::debug!(socket = ?peer.socket(), %error, "another server did not answer which run it has");
        None
    })
}

/// Streams the other server's response to the client.
async fn forward(peer: &PeerApi, mut request: Request) -> Result<Response, ApiError> {
    attempts::tell(&mut request).await?;
    let (mut head, body) = request.into_parts();
    let body = Bytes::from(read_body(body).await?);
    if let Ok(id) = HeaderValue::from_str(&request_id::current()) {
        head.headers.insert("x-request-id", id);
    }
    let (response, connection) = peer.forward(head, body).await.map_err(|error| {
        tracing::warn!(socket = ?peer.socket(), %error, "a request could not be forwarded");
        ApiError::unavailable("the server that has this run does not answer; try again")
    })?;
    let (head, body) = response.into_parts();
    // Dropping the connection would end the body, so the stream owns it.
    let pieces = http_body_util::BodyDataStream::new(body).inspect(move |_| {
        let _ = &connection;
    });
    Ok(Response::from_parts(head, Body::from_stream(pieces)).into_response())
}
