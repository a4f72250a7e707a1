//! Runs that another server of the deployment has: whoever follows, cancels or deletes one may ask any server.
//!
//! Servers of a deployment share a host. Each has a second door there, a Unix socket that only servers can reach, behind which is the same
//! API; what is asked of the wrong server goes through it to the right one, as it is, with the caller's own key.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Path as Captured, RawPathParams, Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::AppState;
use super::error::ApiError;
use super::request_id;

/// Where a server says, to other servers alone, which run of a conversation it knows.
const RUN_ROUTE: &str = "/.servers/runs/{conversation_id}";
/// Marks what has come from another server: it goes no further.
const FORWARDED: HeaderName = HeaderName::from_static("x-nagaya-forwarded");
/// How long another server may take to say what it has.
const ANSWER: Duration = Duration::from_secs(3);
/// How long it may take to do what it was asked: a deletion waits for the end of a run.
const WORK: Duration = Duration::from_secs(90);

/// The last run of a conversation that a server knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LastRun {
    /// Its id; ids ascend with time.
    pub(super) run_id: String,
    /// Whether it goes on.
    pub(super) going: bool,
}

/// The API as other servers reach it.
pub fn door(app: AppState) -> Router {
    let own = Router::new().route(RUN_ROUTE, get(last_run)).with_state(app.clone());
    super::router(app).merge(own)
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
    /// The latest there is.
    Latest,
    /// One that goes on.
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

/// Hands a request to the server that has the run it is about.
pub(super) async fn layer(
    State(app): State<AppState>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let conversation = params.iter().find(|(name, _)| *name == "conversation_id").map(|(_, id)| id.to_owned());
    let is_ours = !app.workspaces.is_shared() || request.headers().contains_key(FORWARDED);
    let (false, Some(about), Some(conversation)) = (is_ours, about(&request), conversation) else {
        return Ok(next.run(request).await);
    };
    let own = own(&app, &conversation);
    if about == About::Going && own.as_ref().is_some_and(|run| run.going) {
        return Ok(next.run(request).await);
    }
    let doors = app.workspaces.doors_of_others().map_err(|error| ApiError::internal(&error))?;
    let asked = doors.into_iter().map(|door| {
        let path = RUN_ROUTE.replace("{conversation_id}", &conversation);
        async move { Some((ask(&door, &path).await?, door)) }
    });
    let theirs = futures::future::join_all(asked).await.into_iter().flatten();
    let latest =
        theirs.filter(|(run, _)| about == About::Latest || run.going).max_by(|(a, _), (b, _)| a.run_id.cmp(&b.run_id));
    match latest {
        Some((run, door)) if own.is_none_or(|own| own.run_id < run.run_id) => forward(&door, request).await,
        _ => Ok(next.run(request).await),
    }
}

/// What a server knows; `None` where it is gone, or knows nothing.
async fn ask(door: &Path, path: &str) -> Option<LastRun> {
    let answer = async {
        let request = Request::get(path).header("host", "server").body(Empty::new())?;
        let (response, _connection) = send(door, request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(serde_json::from_slice::<Option<LastRun>>(&body)?)
    };
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(run)) => run,
        Ok(Err(error)) => {
            tracing::debug!(?door, %error, "another server is gone");
            None
        }
        Err(_) => {
            tracing::warn!(?door, "another server does not say which runs it has");
            None
        }
    }
}

/// The answer of the server behind a door, passed on as it comes.
async fn forward(door: &Path, request: Request) -> Result<Response, ApiError> {
    let (mut head, _) = request.into_parts();
    // None of these requests says anything in a body.
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION] {
        head.headers.remove(name);
    }
    head.headers.insert(FORWARDED, HeaderValue::from_static("1"));
    if let Ok(id) = HeaderValue::from_str(&request_id::current()) {
        head.headers.insert("x-request-id", id);
    }
    let answered = tokio::time::timeout(WORK, send(door, Request::from_parts(head, Empty::new()))).await;
    let away = |why: String| {
        tracing::warn!(?door, why, "a request was not handed on");
        ApiError::unavailable("the server that has this run does not answer; try again")
    };
    let (response, connection) = match answered {
        Ok(sent) => sent.map_err(|error| away(error.to_string()))?,
        Err(_) => return Err(away(format!("no answer within {WORK:?}"))),
    };
    let (mut head, body) = response.into_parts();
    for name in [TRANSFER_ENCODING, CONNECTION] {
        head.headers.remove(name);
    }
    // The connection lives as long as its answer is read.
    let pieces = body.into_data_stream().inspect(move |_| {
        let _ = &connection;
    });
    Ok(Response::from_parts(head, Body::from_stream(pieces)).into_response())
}

type Sent = (hyper::Response<hyper::body::Incoming>, AbortOnDropHandle<()>);

async fn send(door: &Path, request: Request<Empty<Bytes>>) -> Result<Sent, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(door).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to another server ended");
        }
    }));
    Ok((sender.send_request(request).await?, connection))
}
