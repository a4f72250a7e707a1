//! The agent's HTTP interface on `agent.sock`.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nagaya_protocol::{AgentFault, ExecuteRequest, Health, REQUEST_ID};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::buffer::Reader;
use crate::execution::Executions;
use crate::files;

/// Largest request body, in bytes.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long responses in progress may continue after the agent has been stopped.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);
/// How long [`ask_health`] waits for an answer.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves connections until `stop` is cancelled.
pub(crate) async fn serve(
    listener: UnixListener,
    executions: Arc<Executions>,
    workspace: PathBuf,
    stop: CancellationToken,
) {
    let workspace: Arc<Path> = workspace.into();
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (executions, workspace, stop) = (executions.clone(), workspace.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (executions, workspace) = (executions.clone(), workspace.clone());
                async move { Ok::<_, Infallible>(answer(&executions, &workspace, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => Ok(ended),
                () = stop.cancelled() => {
                    // The stream of an execution still delivers its last event.
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(FAREWELL_DEADLINE, connection).await
                }
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
                Err(_) => tracing::debug!("a connection was cut off"),
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(executions: &Arc<Executions>, workspace: &Path, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), segments.as_slice()) {
        (&Method::GET, ["health"]) => json(StatusCode::OK, &health(executions)),
        (&Method::POST, ["execute"]) => execute(executions, request).await,
        (&Method::GET, ["executions", id, "events"]) => follow(executions, id, request.uri().query()),
        (&Method::DELETE, ["executions", id]) => cancel(executions, id).await,
        (&Method::GET, ["files"]) => read_files(workspace, request.uri().query().unwrap_or_default()),
        (&Method::PUT, ["files"]) => write_file(workspace, request).await,
        (&Method::DELETE, ["files"]) => delete_file(workspace, request.uri().query().unwrap_or_default()),
        (_, ["files"]) => not_allowed("DELETE, GET, PUT"),
        (_, ["health"]) => not_allowed("GET"),
        (_, ["execute"]) => not_allowed("POST"),
        (_, ["executions", _, "events"]) => not_allowed("GET"),
        (_, ["executions", _]) => not_allowed("DELETE"),
        _ => fault(StatusCode::NOT_FOUND, "no such route"),
    }
}

fn health(executions: &Executions) -> Health {
    Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        driver: "claude-code-cli".into(),
        cli_version: executions.cli().version.clone(),
        execution: executions.running(),
    }
}

async fn execute(executions: &Arc<Executions>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let asked_by = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    let body = match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return fault(StatusCode::PAYLOAD_TOO_LARGE, &format!("a body has at most {LARGEST_BODY} bytes"));
        }
        Ok(Err(error)) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => return fault(StatusCode::REQUEST_TIMEOUT, &format!("a body comes within {BODY_DEADLINE:?}")),
    };
    let request: ExecuteRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Some(execution) = executions.start(request, asked_by) else {
        return fault(StatusCode::CONFLICT, "an execution is going on; follow or cancel it");
    };
    match execution.events.reader(0) {
        Some(reader) => events(reader),
        None => fault(StatusCode::GONE, "the first events are gone"),
    }
}

fn follow(executions: &Executions, id: &str, query: Option<&str>) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return fault(StatusCode::NOT_FOUND, "no such execution") };
    let after = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("after="));
    let Ok(after) = after.map_or(Ok(0), str::parse) else {
        return fault(StatusCode::BAD_REQUEST, "after: an event's number is accepted");
    };
    match execution.events.reader(after) {
        Some(reader) => events(reader),
        None => fault(StatusCode::GONE, "the events after that one are no longer kept"),
    }
}

async fn cancel(executions: &Executions, id: &str) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return fault(StatusCode::NOT_FOUND, "no such execution") };
    if execution.end().await {
        response(StatusCode::NO_CONTENT, "application/json", Bytes::new())
    } else {
        fault(StatusCode::INTERNAL_SERVER_ERROR, "the execution does not end")
    }
}

/// Lists all files, or returns the one that `path` in the query names.
fn read_files(workspace: &Path, query: &str) -> Response<Body> {
    if query.is_empty() {
        let lines = files::list(workspace.to_owned()).map(|lines| Ok(Frame::data(lines)));
        return with_type(Response::new(StreamBody::new(lines).boxed_unsync()), "application/x-ndjson");
    }
    let Some(path) = files::query_value(query, "path") else {
        return fault(StatusCode::BAD_REQUEST, "path: a file's path below the workspace is accepted");
    };
    match files::read(workspace, &path) {
        Ok((size, chunks)) => {
            let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
            let mut response = with_type(Response::new(body.boxed_unsync()), "application/octet-stream");
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
            response
        }
        Err(error) => io_fault(&error),
    }
}

async fn write_file(workspace: &Path, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let mode = files::query_value(query, "mode").unwrap_or_else(|| "644".into());
    let (Some(path), Ok(mode)) = (files::query_value(query, "path"), u32::from_str_radix(&mode, 8)) else {
        return fault(
            StatusCode::BAD_REQUEST,
            "path: a file's path below the workspace; mode: octal digits are accepted",
        );
    };
    match files::write(workspace, &path, mode, request.into_body()).await {
        Ok(()) => response(StatusCode::NO_CONTENT, "application/json", Bytes::new()),
        Err(error) => io_fault(&error),
    }
}

fn delete_file(workspace: &Path, query: &str) -> Response<Body> {
    let Some(path) = files::query_value(query, "path") else {
        return fault(StatusCode::BAD_REQUEST, "path: a file's path below the workspace is accepted");
    };
    match files::delete(workspace, &path) {
        Ok(()) => response(StatusCode::NO_CONTENT, "application/json", Bytes::new()),
        Err(error) => io_fault(&error),
    }
}

fn io_fault(error: &io::Error) -> Response<Body> {
    // A symbolic link in the path fails with `ELOOP`, or with `ENOTDIR` where a directory is expected (openat(2), `O_NOFOLLOW`).
    let in_the_way = Errno::from_io_error(error).is_some_and(|errno| {
        matches!(errno, Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::NXIO)
    });
    let status = match error.kind() {
        _ if in_the_way => StatusCode::BAD_REQUEST,
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    fault(status, &error.to_string())
}

fn events(reader: Reader) -> Response<Body> {
    let frames = futures::stream::unfold(reader, async |mut reader| {
        let line = reader.next().await?;
        Some((Bytes::copy_from_slice(line.as_bytes()), reader))
    });
    let body = StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes))));
    with_type(Response::new(body.boxed_unsync()), "text/event-stream")
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(bytes) => response(status, "application/json", bytes.into()),
        Err(error) => unreachable!("answers are plain data: {error}"),
    }
}

fn fault(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &AgentFault { error: error.to_owned() })
}

fn not_allowed(method: &'static str) -> Response<Body> {
    let mut response = fault(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is accepted"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    with_type(response, kind)
}

fn with_type(mut response: Response<Body>, kind: &'static str) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Asks the agent on `socket` whether it is ready, and returns the body of its answer.
pub(crate) async fn ask_health(socket: &Path) -> io::Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.starts_with("HTTP/1.1 200 ") { Ok(body.to_owned()) } else { Err(io::Error::other(head.to_owned())) }
    };
    tokio::time::timeout(HEALTH_DEADLINE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
