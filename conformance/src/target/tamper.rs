//! The changes a relay can make to the HTTP that it forwards, to imitate a broken deployment.

use std::convert::Infallible;
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::far_side::Duplex;
use super::memory::Memory;
use crate::client::sse::{SseEvent, SseReader};

/// A request that passes a relay.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Asked {
    /// The path without its query.
    #[must_use]
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// Whether it has this method and a path, without the query, that ends with this text.
    #[must_use]
    pub fn is(&self, method: Method, end: &str) -> bool {
        self.method == method && self.route().ends_with(end)
    }
}

/// A whole response that passes a relay.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers; Content-Length is recomputed.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// A response of the relay itself.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let mut answer = Self { status, headers: HeaderMap::new(), body: Bytes::new() };
        answer.headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        answer.headers.insert("x-request-id", http::HeaderValue::from_static("relayed"));
        answer.set(body);
        answer
    }

    /// The body as JSON; `null` if it is not JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Replaces the body.
    pub fn set(&mut self, body: &Value) {
        self.body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    }

    /// Changes the body as JSON.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value = self.value();
        change(&mut value);
        self.set(&value);
    }
}

/// Changes a request, or answers it in place of the server.
pub type AskFn = fn(&mut Asked, &Memory) -> Option<Answer>;
/// Changes a whole response.
pub type AnswerFn = fn(&Asked, &mut Answer, &Memory);
/// Replaces an event by text of the stream; `None` ends the stream.
pub type EventFn = fn(SseEvent, &Memory) -> Option<String>;

/// A defect in relayed HTTP.
#[derive(Clone, Copy, Default)]
pub struct Tamper {
    /// Changes requests.
    pub ask: Option<AskFn>,
    /// Changes responses that are not event streams.
    pub answer: Option<AnswerFn>,
    /// Changes events of event streams.
    pub event: Option<EventFn>,
}

impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ask, answer, event) = (self.ask.is_some(), self.answer.is_some(), self.event.is_some());
        write!(f, "Tamper {{ ask: {ask}, answer: {answer}, event: {event} }}")
    }
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Speaks HTTP with both sides, until the near side closes or the far side no longer responds.
pub(super) async fn http(
    client: Box<dyn Duplex>,
    server: Box<dyn Duplex>,
    tamper: Tamper,
    memory: Memory,
) -> io::Result<()> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(server)).await.map_err(io::Error::other)?;
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request| {
        let (sender, memory) = (sender.clone(), memory.clone());
        async move { exchange(request, &sender, tamper, &memory).await }
    });
    let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service);
    // The far side may close first; what it has sent is still forwarded.
    let far = async {
        let ended = connection.await;
        std::future::pending::<()>().await;
        ended
    };
    tokio::select! {
        ended = serve => ended.map_err(io::Error::other),
        ended = far => ended.map_err(io::Error::other),
    }
}

async fn exchange(
    request: Request<Incoming>,
    sender: &tokio::sync::Mutex<SendRequest<Full<Bytes>>>,
    tamper: Tamper,
    memory: &Memory,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let mut asked = Asked { method: head.method, path, headers: head.headers, body: body.collect().await?.to_bytes() };
    if let Some(answer) = tamper.ask.and_then(|ask| ask(&mut asked, memory)) {
        return Ok(respond(answer));
    }
    asked.headers.remove(TRANSFER_ENCODING);
    asked.headers.remove(CONTENT_LENGTH);
    let mut onward = Request::new(Full::new(asked.body.clone()));
    *onward.method_mut() = asked.method.clone();
    *onward.uri_mut() = asked.path.parse().unwrap_or_default();
    *onward.headers_mut() = asked.headers.clone();
    let mut sender = sender.lock().await;
    sender.ready().await?;
    let (head, body) = sender.send_request(onward).await?.into_parts();
    drop(sender);
    let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("text/event-stream") {
        let body = body.boxed_unsync();
        let body = match tamper.event {
            Some(event) => events(body, event, memory.clone()),
            None => body,
        };
        return Ok(Response::from_parts(head, body));
    }
    let Some(change) = tamper.answer.filter(|_| asked.method != Method::HEAD) else {
        return Ok(Response::from_parts(head, body.boxed_unsync()));
    };
    let mut answer =
        Answer { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() };
    change(&asked, &mut answer, memory);
    Ok(respond(answer))
}

fn respond(mut answer: Answer) -> Response<Body> {
    answer.headers.remove(TRANSFER_ENCODING);
    answer.headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(whole(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = answer.headers;
    response
}

/// A stream with each event put through `change`.
fn events(body: Body, change: EventFn, memory: Memory) -> Body {
    let initial = (BodyStream::new(body), SseReader::default(), memory, false);
    let changed = stream::unfold(initial, move |(mut body, mut reader, memory, ended)| async move {
        if ended {
            return None;
        }
        let mut text = String::new();
        let mut ended = false;
        match body.frame().await {
            None => return None,
            Some(Err(error)) => return Some((Err(error), (body, reader, memory, true))),
            Some(Ok(frame)) => {
                for event in frame.data_ref().map(|data| reader.push(data)).unwrap_or_default() {
                    match change(event, &memory) {
                        Some(changed) => text.push_str(&changed),
                        None => ended = true,
                    }
                    if ended {
                        break;
                    }
                }
            }
        }
        Some((Ok(Frame::data(Bytes::from(text))), (body, reader, memory, ended)))
    });
    StreamBody::new(changed).boxed_unsync()
}

/// An event as text of a stream.
#[must_use]
pub fn event_text(event: &SseEvent) -> String {
    format!("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.name, event.data)
}
