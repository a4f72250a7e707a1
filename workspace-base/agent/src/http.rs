//! The agent's HTTP interface.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use nagaya_protocol::{AgentFault, ExecuteRequest, InputRequest, ParkRequest, REQUEST_ID};
use rustix::io::Errno;

use crate::buffer::Reader;
use crate::claude_code::repair;
use crate::execution::Executions;
use crate::files::{self, Existing};
use crate::health::health;
use crate::input::Refusal;

/// Largest request body, in bytes.
const LARGEST_BODY: usize = 16 * 1024 * 1024;
/// How long a client may take to send a request's body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the agent serves.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    executions: Arc<Executions>,
    workspace: Arc<Path>,
}

impl Interface {
    /// `workspace` is the directory of the conversation's files.
    pub(crate) fn new(executions: Arc<Executions>, workspace: &Path) -> Self {
        Self { executions, workspace: workspace.into() }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        answer(&self.executions, &self.workspace, request).await
    }
}

async fn answer(executions: &Arc<Executions>, workspace: &Path, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/files" {
        repair::open(workspace);
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), segments.as_slice()) {
        (&Method::GET, ["health"]) => json(StatusCode::OK, &health(executions)),
        (&Method::POST, ["execute"]) => execute(executions, request).await,
        (&Method::GET, ["executions", id, "events"]) => follow(executions, id, request.uri().query()),
        (&Method::DELETE, ["executions", id]) => cancel(executions, id).await,
        (&Method::POST, ["executions", id, "input"]) => write(executions, id, request).await,
        (&Method::DELETE, ["executions", id, "input"]) => close(executions, id),
        (&Method::POST, ["executions", id, "park"]) => park(executions, id, request).await,
        (&Method::GET, ["files"]) => read_files(workspace, request.uri().query().unwrap_or_default()),
        (&Method::PUT, ["files"]) => write_file(workspace, request).await,
        (&Method::DELETE, ["files"]) => delete_file(workspace, request.uri().query().unwrap_or_default()),
        (_, ["files"]) => not_allowed("DELETE, GET, PUT"),
        (_, ["health"]) => not_allowed("GET"),
        (_, ["execute"]) => not_allowed("POST"),
        (_, ["executions", _, "events"]) => not_allowed("GET"),
        (_, ["executions", _, "input"]) => not_allowed("DELETE, POST"),
        (_, ["executions", _, "park"]) => not_allowed("POST"),
        (_, ["executions", _]) => not_allowed("DELETE"),
        _ => fault(StatusCode::NOT_FOUND, "no such route"),
    }
}

async fn execute(executions: &Arc<Executions>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let asked_by = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    let request: ExecuteRequest = match read(body).await {
        Ok(request) => request,
        Err(fault) => return *fault,
    };
    let Some(execution) = executions.start(request, asked_by) else {
        return fault(StatusCode::CONFLICT, "an execution is going on; follow or cancel it");
    };
    match execution.events.reader(0) {
        Some(reader) => events(reader),
        None => fault(StatusCode::GONE, "the first events are gone"),
    }
}

/// Reads a request's body as JSON.
async fn read<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Box<Response<Body>>> {
    let body = match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("a body has at most {LARGEST_BODY} bytes");
            return Err(Box::new(fault(StatusCode::PAYLOAD_TOO_LARGE, &why)));
        }
        Ok(Err(error)) => return Err(Box::new(fault(StatusCode::BAD_REQUEST, &error.to_string()))),
        Err(_) => {
            let why = format!("a body comes within {BODY_DEADLINE:?}");
            return Err(Box::new(fault(StatusCode::REQUEST_TIMEOUT, &why)));
        }
    };
    serde_json::from_slice(&body).map_err(|error| Box::new(fault(StatusCode::BAD_REQUEST, &error.to_string())))
}

async fn write(executions: &Executions, id: &str, request: Request<Incoming>) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return no_execution() };
    let InputRequest { id, lines } = match read(request.into_body()).await {
        Ok(request) => request,
        Err(fault) => return *fault,
    };
    match execution.write(&id, &lines) {
        Ok(()) => done(),
        Err(Refusal::Closed) => fault(StatusCode::GONE, "the execution has ended, or ends"),
        Err(Refusal::Full) => fault(StatusCode::TOO_MANY_REQUESTS, "the driver does not read its input"),
    }
}

fn close(executions: &Executions, id: &str) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return no_execution() };
    execution.input.close();
    done()
}

async fn park(executions: &Executions, id: &str, request: Request<Incoming>) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return no_execution() };
    let ParkRequest { seconds } = match read(request.into_body()).await {
        Ok(request) => request,
        Err(fault) => return *fault,
    };
    if execution.events.is_closed() {
        return fault(StatusCode::GONE, "the execution has ended");
    }
    match execution.park(Duration::from_secs(seconds)).await {
        Ok(()) => done(),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &format!("processes are still running: {error}")),
    }
}

fn follow(executions: &Executions, id: &str, query: Option<&str>) -> Response<Body> {
    let Some(execution) = executions.get(id) else { return no_execution() };
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
    let Some(execution) = executions.get(id) else { return no_execution() };
    if execution.end().await { done() } else { fault(StatusCode::INTERNAL_SERVER_ERROR, "the execution does not end") }
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
    // RFC 9110, section 13.1.2: only if there is no such file.
    let existing = match request.headers().get(IF_NONE_MATCH) {
        Some(_) => Existing::Keep,
        None => Existing::Replace,
    };
    let root = match files::query_value(query, "in").as_deref() {
        None => workspace.to_owned(),
        Some("home") => home(),
        Some(_) => return fault(StatusCode::BAD_REQUEST, "in: home, or nothing for the workspace, is accepted"),
    };
    match files::write(&root, &path, (mode, existing), request.into_body()).await {
        Ok(()) => done(),
        Err(error) if existing == Existing::Keep && error.kind() == io::ErrorKind::AlreadyExists => {
            fault(StatusCode::PRECONDITION_FAILED, "the file exists")
        }
        Err(error) => io_fault(&error),
    }
}

/// The driver's home directory, which is not part of the workspace's files.
fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn delete_file(workspace: &Path, query: &str) -> Response<Body> {
    let Some(path) = files::query_value(query, "path") else {
        return fault(StatusCode::BAD_REQUEST, "path: a file's path below the workspace is accepted");
    };
    match files::delete(workspace, &path) {
        Ok(()) => done(),
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

fn done() -> Response<Body> {
    response(StatusCode::NO_CONTENT, "application/json", Bytes::new())
}

fn no_execution() -> Response<Body> {
    fault(StatusCode::NOT_FOUND, "no such execution")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_files_say_whose_they_are() {
        for (errno, status) in [
            (Errno::LOOP, 400),
            (Errno::NOTDIR, 400),
            (Errno::ISDIR, 400),
            (Errno::NAMETOOLONG, 400),
            (Errno::NXIO, 400),
            (Errno::INVAL, 400),
            (Errno::NOENT, 404),
            (Errno::NOSPC, 507),
            (Errno::IO, 500),
            (Errno::ACCESS, 500),
        ] {
            assert_eq!(io_fault(&errno.into()).status().as_u16(), status, "{errno:?}");
        }
    }
}
