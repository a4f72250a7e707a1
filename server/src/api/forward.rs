//! Requests about a run that another server of the deployment carries out: they are forwarded to it.
//!
//! Each server answers the same API a second time, on a Unix socket that only servers can reach ([`peer_router`]). What arrives
//! there is marked by that listener, not by anything in the request, and is never forwarded again.

use axum::body::Body;
use axum::extract::{MatchedPath, Path as Captured, RawPathParams, Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures::StreamExt;

use super::AppState;
use super::error::ApiError;
use super::request_id;
use crate::cluster::{LastRun, PeerApi};

/// Marks a request that arrived on the socket for other servers.
#[derive(Debug, Clone, Copy)]
struct FromPeer;

/// The API as other servers reach it.
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

/// Which run a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The latest one.
    Latest,
    /// One that is going on.
    Going,
}

fn about(request: &Request) -> Option<About> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    let rest = route.strip_prefix("/api/tenants/{tenant_id}/conversations/{conversation_id}")?;
    match (request.method(), rest) {
        (&Method::GET, "/stream") => Some(About::Latest),
        (&Method::POST, "/cancel") | (&Method::DELETE, "") => Some(About::Going),
        _ => None,
    }
}

/// Forwards a request to the server that has the run it is about.
pub(super) async fn layer(
    State(app): State<AppState>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let conversation = params.iter().find(|(name, _)| *name == "conversation_id").map(|(_, id)| id.to_owned());
    let stays = !app.cluster.is_shared() || request.extensions().get::<FromPeer>().is_some();
    let (false, Some(about), Some(conversation)) = (stays, about(&request), conversation) else {
        return Ok(next.run(request).await);
    };
    let own = own(&app, &conversation);
    if about == About::Going && own.as_ref().is_some_and(|run| run.going) {
        return Ok(next.run(request).await);
    }
    let peers = app.cluster.peer_apis().map_err(|error| ApiError::internal(&error))?;
    let asked = peers.into_iter().map(|peer| {
        let conversation = &conversation;
        async move { Some((ask(&peer, conversation).await?, peer)) }
    });
    let theirs = futures::future::join_all(asked).await.into_iter().flatten();
    let latest =
        theirs.filter(|(run, _)| about == About::Latest || run.going).max_by(|(a, _), (b, _)| a.run_id.cmp(&b.run_id));
    match latest {
        Some((run, peer)) if own.is_none_or(|own| own.run_id < run.run_id) => forward(&peer, request).await,
        _ => Ok(next.run(request).await),
    }
}

/// What another server knows; `None` where it is gone, or knows nothing.
async fn ask(peer: &PeerApi, conversation: &str) -> Option<LastRun> {
    peer.last_run(conversation).await.unwrap_or_else(|error| {
        tracing::debug!(socket = ?peer.socket(), %error, "another server does not say which run it has");
        None
    })
}

/// The other server's answer, passed on as it arrives.
async fn forward(peer: &PeerApi, request: Request) -> Result<Response, ApiError> {
    let (mut head, _) = request.into_parts();
    if let Ok(id) = HeaderValue::from_str(&request_id::current()) {
        head.headers.insert("x-request-id", id);
    }
    let (response, connection) = peer.forward(head).await.map_err(|error| {
        tracing::warn!(socket = ?peer.socket(), %error, "a request was not forwarded");
        ApiError::unavailable("the server that has this run does not answer; try again")
    })?;
    let (head, body) = response.into_parts();
    // The connection must live for as long as its answer is read.
    let pieces = http_body_util::BodyDataStream::new(body).inspect(move |_| {
        let _ = &connection;
    });
    Ok(Response::from_parts(head, Body::from_stream(pieces)).into_response())
}
