//! The changes a relay can make to the bytes it forwards, to imitate a broken deployment.

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
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::far_side::{Duplex, To};
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

/// How a relay forwards bytes.
#[derive(Debug, Clone)]
pub enum Wire {
    /// Bytes are forwarded unchanged.
    Plain,
    /// HTTP/1.1 with a defect.
    Http(Tamper, Memory),
    /// Bytes are forwarded unchanged; after the far side's last byte, this is added.
    Trailing(&'static [u8]),
    /// Bytes are forwarded, except this many of the far side's first ones.
    Swallowing(usize),
    /// The far side's bytes are forwarded only once it has sent all of them.
    Holding,
    /// Bytes are forwarded unchanged; after the near side's last byte, zeros follow until the far side closes.
    Padding,
    /// Where the near side sends the first text in one piece, the far side receives the second.
    Replacing(&'static str, &'static str),
    /// Bytes are forwarded, except this many of the far side's last ones.
    Losing(usize),
    /// After the far side's last byte, the near side's connection stays open.
    Keeping,
    /// Requests of all near sides share the connections to the far side, as a careless pool does: each uses one that is free. Bodies
    /// are delimited by Content-Length.
    Sharing,
}

impl Wire {
    /// Forwards between one near side and the far side; `free` are connections to the far side that no near side uses.
    pub(super) async fn relay(self, client: Box<dyn Duplex>, to: &To, free: &Free) -> io::Result<()> {
        match self {
            Self::Sharing => sharing(client, to, free).await,
            other => other.join(client, to.connect().await?).await,
        }
    }

    async fn join(self, mut client: Box<dyn Duplex>, mut server: Box<dyn Duplex>) -> io::Result<()> {
        match self {
            Self::Plain | Self::Sharing => tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ()),
            Self::Http(tamper, memory) => http(client, server, tamper, memory).await,
            Self::Trailing(bytes) => one_way(client, server, 0, bytes).await,
            Self::Swallowing(count) => one_way(client, server, count, b"").await,
            Self::Holding => holding(client, server).await,
            Self::Losing(count) => losing(client, server, count).await,
            Self::Keeping => keeping(client, server).await,
            Self::Padding => padding(client, server).await,
            Self::Replacing(text, with) => replacing(client, server, text, with).await,
        }
    }
}

/// Copies both ways, without the far side's first `swallowed` bytes, and with `trailing` after its last.
async fn one_way(
    client: Box<dyn Duplex>,
    server: Box<dyn Duplex>,
    swallowed: usize,
    trailing: &[u8],
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut left = swallowed;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            let skipped = left.min(read);
            left -= skipped;
            to_client.write_all(&buffer[skipped..read]).await?;
        }
        to_client.write_all(trailing).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies both ways, the far side's bytes all at once.
async fn holding(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut all = Vec::new();
        from_server.read_to_end(&mut all).await?;
        to_client.write_all(&all).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies both ways, without the far side's last `count` bytes.
async fn losing(client: Box<dyn Duplex>, server: Box<dyn Duplex>, count: usize) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let (mut held, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            held.extend_from_slice(&buffer[..read]);
            let passed: Vec<u8> = held.drain(..held.len().saturating_sub(count)).collect();
            to_client.write_all(&passed).await?;
        }
    };
    // The near side may keep its direction open.
    tokio::select! {
        ended = down => ended,
        Err(error) = up => Err(error),
    }
}

/// Copies both ways; of the far side's end, the near side learns nothing.
async fn keeping(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        // A far side that reads no more is no end for the near side.
        if tokio::io::copy(&mut from_client, &mut to_server).await.is_err() {
            tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await?;
        }
        to_server.shutdown().await
    };
    let down = async {
        // The far side may end by a reset.
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = up => ended,
        () = down => Ok(()),
    }
}

/// Connections to a relay's far side that no near side uses.
pub(super) type Free = parking_lot::Mutex<Vec<Box<dyn Duplex>>>;

/// Sends each request on a connection that is free, and keeps the connection for any other.
async fn sharing(mut client: Box<dyn Duplex>, to: &To, free: &Free) -> io::Result<()> {
    while let Some(request) = message(&mut client).await? {
        let kept = free.lock().pop();
        let mut far = match kept {
            Some(far) => far,
            None => to.connect().await?,
        };
        far.write_all(&request).await?;
        let Some(answer) = message(&mut far).await? else { break };
        client.write_all(&answer).await?;
        free.lock().push(far);
    }
    client.shutdown().await
}

/// Reads a head, and a body as long as its Content-Length says, and no byte more. None at the end of the stream.
async fn message(from: &mut Box<dyn Duplex>) -> io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    while !message.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => message.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&message).to_ascii_lowercase();
    let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).await?;
    message.extend_from_slice(&body);
    Ok(Some(message))
}

/// Copies both ways, and continues for a near side that has ended.
async fn padding(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        // It may read no more; what it sends is still forwarded.
        let copied = tokio::io::copy(&mut from_client, &mut to_server).await;
        while copied.is_ok() && to_server.write_all(&[0; 1 << 12]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = down => ended,
        () = up => Ok(()),
    }
}

/// Copies both ways, replacing `text` by `with` in the near side's bytes.
async fn replacing(client: Box<dyn Duplex>, server: Box<dyn Duplex>, text: &str, with: &str) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            // Only text is changed; anything else is forwarded as it is.
            match std::str::from_utf8(&buffer[..read]) {
                Ok(said) => to_server.write_all(said.replace(text, with).as_bytes()).await?,
                Err(_) => to_server.write_all(&buffer[..read]).await?,
            }
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Speaks HTTP with both sides, until the near side closes or the far side no longer responds.
async fn http(client: Box<dyn Duplex>, server: Box<dyn Duplex>, tamper: Tamper, memory: Memory) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncWrite};

    use super::*;

    /// Sends the same response to every connection, and closes it.
    fn answering(answer: &'static str) -> Box<dyn Duplex> {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let mut head = vec![0; 1 << 16];
            let _ = read.read(&mut head).await;
            let _ = write.write_all(answer.replace('\n', "\r\n").replace('|', "\n").as_bytes()).await;
            let _ = write.shutdown().await;
        });
        Box::new(near)
    }

    async fn read_all(mut from: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let mut text = Vec::new();
        // These exchanges end when the far side closes.
        let _ = from.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn ask(answer: &'static str, wire: Wire) -> String {
        let (near, far) = tokio::io::duplex(1 << 16);
        let joined = tokio::spawn(wire.join(Box::new(far), answering(answer)));
        let (read, mut write) = tokio::io::split(near);
        write.write_all(b"GET /x?a=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.expect("asked");
        let text = read_all(tokio::io::join(read, write)).await;
        let _ = joined.await.expect("joined");
        text
    }

    #[tokio::test]
    async fn answers_are_changed_and_requests_answered() {
        let tamper = Tamper {
            answer: Some(|asked, answer, memory| {
                answer.status = 503;
                answer.edit(|value| value["path"] = asked.path.clone().into());
                memory.set("seen", "yes");
            }),
            ..Tamper::default()
        };
        let memory = Memory::default();
        let plain = "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 7\n\n{\"a\":1}";
        let text = ask(plain, Wire::Http(tamper, memory.clone())).await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains(r#""path":"/x?a=1""#), "{text}");
        assert_eq!(memory.get("seen").as_deref(), Some("yes"));

        let instead = Tamper { ask: Some(|_, _| Some(Answer::json(418, &Value::Null))), ..Tamper::default() };
        assert!(ask(plain, Wire::Http(instead, Memory::default())).await.starts_with("HTTP/1.1 418"));
        let untouched = ask(plain, Wire::Http(Tamper::default(), Memory::default())).await;
        assert!(untouched.starts_with("HTTP/1.1 200") && untouched.ends_with("{\"a\":1}"), "{untouched}");
    }

    #[tokio::test]
    async fn events_are_changed_one_by_one() {
        let head = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nid: 1|event: a|data: {}||id: 2|event: b|data: {}||id: 3|event: c|data: {}||";
        let tamper = Tamper {
            event: Some(|event, _| match event.name.as_str() {
                "a" => Some(event_text(&event).repeat(2)),
                "b" => Some(String::new()),
                _ => None,
            }),
            ..Tamper::default()
        };
        let text = ask(head, Wire::Http(tamper, Memory::default())).await;
        assert_eq!((text.matches("event: a").count(), text.matches("event: b").count()), (2, 0), "{text}");
        assert!(!text.contains("event: c"), "{text}");
    }

    #[tokio::test]
    async fn bytes_are_added_and_taken_away() {
        let text = ask("0123456789", Wire::Trailing(b"more")).await;
        assert_eq!(text, "0123456789more");
        assert_eq!(ask("0123456789", Wire::Swallowing(4)).await, "456789");
        assert_eq!(ask("0123456789", Wire::Plain).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Holding).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Padding).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Replacing("/x", "/y")).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Losing(3)).await, "0123456");
    }
}
