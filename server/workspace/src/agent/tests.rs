//! What is asked of an agent, byte for byte, and what becomes of each kind of answer. The agent is a task that says what a test tells it.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use nagaya_protocol::{AGENT_SOCKET, Ended, How};
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::files::{self as room_files, AgentFiles, put};
use crate::directory::SocketBase;
use crate::id::RoomId;
use crate::objects::{RoomFile, RoomFiles, RoomFilesError, StorageError};

/// Headers: their names and values.
type Headers<'h> = &'h [(&'h str, &'h str)];
/// A request as the agent has received it: method and target, headers beside the usual ones, body.
type Seen = (String, Vec<(String, String)>, String);
type Answered = Response<UnsyncBoxBody<Bytes, io::Error>>;

struct Stage {
    agent: Agent,
    seen: Arc<Mutex<Vec<Seen>>>,
    _dir: tempfile::TempDir,
    _task: AbortOnDropHandle<()>,
}

/// An agent that answers every request with what `script` makes of it.
async fn stage(script: impl Fn(&str) -> Answered + Send + Sync + 'static) -> Stage {
    let dir = tempfile::tempdir().expect("a directory");
    let base = SocketBase::prepare(dir.path().join("b"), dir.path().join("b")).expect("prepares");
    let id = RoomId::generate("d");
    // Of this process's own user, the socket's client is the room.
    let room = base.create(&id, rustix::process::geteuid().as_raw()).expect("creates");
    let agent = Agent::open(room, || {}).expect("listens");
    let (seen, script) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(script));
    let (kept, socket) = (seen.clone(), base.host_path(&id).join(AGENT_SOCKET));
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let stream = UnixStream::connect(&socket).await.expect("connects");
        let service = service_fn(move |request: Request<Incoming>| {
            let (kept, script) = (kept.clone(), script.clone());
            async move {
                let (head, body) = request.into_parts();
                let line = format!("{} {}", head.method, head.uri.path_and_query().map_or("", |path| path.as_str()));
                let usual = |name: &str| ["host", "content-type"].contains(&name);
                let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                };
                let headers = head.headers.iter().filter(|(name, _)| !usual(name.as_str())).map(pair).collect();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                kept.lock().push((line.clone(), headers, String::from_utf8_lossy(&body).into_owned()));
                Ok::<_, io::Error>(script(&line))
            }
        });
        let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::trace!(%error, "the connection ended");
        }
    }));
    agent.connected().await;
    Stage { agent, seen, _dir: dir, _task: task }
}

fn text(status: u16, text: impl Into<String>) -> Answered {
    let body = Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).expect("valid")
}

/// An answer in pieces, of which one may be a failure: the answer breaks off there.
fn pieces(pieces: Vec<Option<Vec<u8>>>, length: Option<u64>) -> Answered {
    let frames = futures::stream::iter(pieces).then(async |piece| match piece {
        Some(bytes) => Ok(Frame::data(Bytes::from(bytes))),
        None => {
            // What came before has been read by then.
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            Err(io::Error::other("broken off"))
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn each_request_says_what_was_asked_and_nothing_else() {
    let stage = stage(|line| match line {
        "GET /health" => text(200, r#"{"status":"ok","version":"1","driver":"d","cli_version":null,"protocol":4}"#),
        _ if line.starts_with("GET /files?path") => text(200, "content"),
        _ if line.starts_with("GET /files") => text(200, "{\"kind\":\"end\",\"whole\":true}\n"),
        _ => text(204, ""),
    })
    .await;
    let agent = &stage.agent;
    let execute =
        ExecuteRequest { arguments: vec!["-p".into()], input: vec!["one".into()], ..ExecuteRequest::default() };
    agent.health().await.expect("an answer");
    agent.execute(&execute, Some("req-1")).await.expect("an answer");
    agent.execute(&execute, None).await.expect("an answer");
    agent.follow("e1", 7).await.expect("an answer");
    agent.write("e1", "batch", vec!["a".into(), "b".into()]).await.expect("an answer");
    agent.close_input("e1").await.expect("an answer");
    agent.park("e1", Duration::from_millis(61_900)).await.expect("an answer");
    agent.cancel("e1").await.expect("an answer");
    agent.write_home(".claude/a b", Bytes::from_static(b"home")).await.expect("an answer");
    let files = AgentFiles::new(agent, soon());
    files.list(10).await.expect("an answer");
    let file = RoomFile { path: "a&b".into(), size: 7, version: 1, mode: 0o644 };
    files.read(&file).await.expect("an answer").collect::<Vec<_>>().await;
    let content = || futures::stream::iter([Ok(Bytes::from_static(b"con")), Ok(Bytes::from_static(b"tent"))]).boxed();
    assert!(files.create("new", 7, 0o755, content()).await.expect("an answer"));
    let content = futures::stream::iter([Ok::<_, AgentError>(Bytes::from_static(b"put"))]).boxed();
    put(agent, "put", (0o640, None), content, Duration::from_secs(20)).await.expect("an answer");
    let body = r#"{"arguments":["-p"],"input":["one"]}"#;
    let none: &[(&str, &str)] = &[];
    let expected: Vec<(&str, Headers<'_>, &str)> = vec![
        ("GET /health", none, ""),
        ("POST /execute", &[("x-request-id", "req-1"), ("content-length", "36")], body),
        ("POST /execute", &[("content-length", "36")], body),
        ("GET /executions/e1/events?after=7", none, ""),
        ("POST /executions/e1/input", &[("content-length", "32")], r#"{"id":"batch","lines":["a","b"]}"#),
        ("DELETE /executions/e1/input", &[("content-length", "4")], "null"),
        ("POST /executions/e1/park", &[("content-length", "14")], r#"{"seconds":61}"#),
        ("DELETE /executions/e1", none, ""),
        ("PUT /files?path=.claude%2Fa+b&mode=600&in=home", &[("content-length", "4")], "home"),
        ("GET /files", none, ""),
        ("GET /files?path=a%26b", none, ""),
        ("PUT /files?path=new&mode=755", &[("content-length", "7"), ("if-none-match", "*")], "content"),
        ("PUT /files?path=put&mode=640", none, "put"),
    ];
    let seen = stage.seen.lock().clone();
    let told: Vec<_> = seen
        .iter()
        .map(|(line, headers, body)| {
            let mut headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            headers.sort_unstable();
            (line.as_str(), headers, body.as_str())
        })
        .collect();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, (line, headers, body)) in told.into_iter().zip(expected) {
        let mut headers = headers.to_vec();
        headers.sort_unstable();
        assert_eq!(told, (line, headers, body));
    }
}

/// An error in short: what kind it is, and its text.
fn short(error: &AgentError) -> (&'static str, String) {
    match error {
        AgentError::Refused { status, message } => ("refused", format!("{} {message}", status.as_u16())),
        AgentError::Broken(why) => ("broken", why.clone()),
        AgentError::Hostile(why) => ("hostile", why.clone()),
        AgentError::Gone => ("gone", String::new()),
        AgentError::Timeout(_) => ("timeout", String::new()),
        AgentError::Connect(why) => ("connect", why.to_string()),
    }
}

#[tokio::test]
async fn each_answer_is_taken_for_what_it_is() {
    let whole = |protocol: u32| {
        format!(r#"{{"status":"ok","version":"1","driver":"d","cli_version":"2","protocol":{protocol}}}"#)
    };
    for (status, body, expected, is_outdated) in [
        (200, whole(PROTOCOL), None, false),
        (200, whole(PROTOCOL - 1), None, true),
        (200, whole(PROTOCOL + 1), None, true),
        (200, r#"{"status":"ok","version":"1","driver":"d","cli_version":null}"#.into(), None, true),
        (503, r#"{"error":"not yet"}"#.into(), Some(("refused", "503 not yet")), false),
        (503, "plain".into(), Some(("refused", "503 plain")), false),
        (404, String::new(), Some(("refused", "404 ")), false),
    ] {
        let answer = body.clone();
        let stage = stage(move |_| text(status, answer.clone())).await;
        let health = stage.agent.health().await;
        let told = health.as_ref().err().map(short);
        assert_eq!(told, expected.map(|(kind, text)| (kind, text.to_owned())), "{status} {body}");
        assert_eq!(stage.agent.is_outdated(), is_outdated, "{body}");
    }
    let junk = stage(|_| text(200, "{")).await;
    assert_eq!(short(&junk.agent.health().await.expect_err("no health")).0, "broken");
    // The longest answer, and one that is a byte longer.
    for (length, kind) in [(LONGEST_ANSWER, "refused"), (LONGEST_ANSWER + 1, "broken")] {
        let long = stage(move |_| text(500, "x".repeat(length))).await;
        assert_eq!(short(&long.agent.park("e", Duration::ZERO).await.expect_err("an error")).0, kind, "{length}");
    }
    for (status, is_gone, is_busy) in
        [(404, true, false), (410, true, false), (409, false, true), (500, false, false), (429, false, false)]
    {
        let stage = stage(move |_| text(status, r#"{"error":"why"}"#)).await;
        let agent = &stage.agent;
        let errors = [
            agent.execute(&ExecuteRequest::default(), None).await.map(drop).expect_err("refused"),
            agent.follow("e", 0).await.map(drop).expect_err("refused"),
            agent.write("e", "i", Vec::new()).await.expect_err("refused"),
            agent.close_input("e").await.expect_err("refused"),
            agent.park("e", Duration::ZERO).await.expect_err("refused"),
            agent.write_home("x", Bytes::new()).await.expect_err("refused"),
        ];
        for error in errors {
            assert_eq!(short(&error), ("refused", format!("{status} why")));
            assert_eq!((error.is_gone(), error.is_busy(), error.is_hostile()), (is_gone, is_busy, false), "{status}");
        }
        // What does not exist need not be ended.
        assert_eq!(agent.cancel("e").await.is_ok(), status == 404, "{status}");
    }
}

fn event(number: &str, name: &str, data: &str) -> Vec<u8> {
    sse::encode(number, name, data).into_bytes()
}

#[tokio::test]
async fn events_are_read_one_by_one_and_what_cannot_be_one_is_told() {
    let ended = r#"{"how":"exited","message":"exit status: 0"}"#;
    let all = [
        event("1", "started", r#"{"execution_id":"abc123"}"#),
        event("2", "frame", "{\"type\":\"result\"}"),
        event("3", "hologram", "{}"),
        event("4", "frame", "two\nlines"),
        event("5", "ended", ended),
    ]
    .concat();
    let end = Ended { how: How::Exited, message: "exit status: 0".into(), stderr: String::new(), out_of_memory: None };
    let expected = [
        (1, AgentEvent::Started { execution_id: "abc123".into() }),
        (2, AgentEvent::Frame("{\"type\":\"result\"}".into())),
        (4, AgentEvent::Frame("two\nlines".into())),
        (5, AgentEvent::Ended(end)),
    ];
    for size in [1, 7, all.len()] {
        let parts: Vec<Vec<u8>> = all.chunks(size).map(<[u8]>::to_vec).collect();
        let stage = stage(move |_| pieces(parts.iter().cloned().map(Some).collect(), None)).await;
        let mut events = stage.agent.follow("e", 0).await.expect("an answer");
        let mut told = Vec::new();
        while let Some(event) = events.next().await.expect("reads") {
            told.push(event);
        }
        assert_eq!(told, expected, "in pieces of {size}");
        assert!(events.next().await.expect("ends again").is_none());
    }
    for (bytes, kind) in [
        (event("x", "frame", "f"), "broken"),
        (b"event: frame\ndata: f\n\n".to_vec(), "broken"),
        (b"id: 1\nevent: frame\ndata: \xff\n\n".to_vec(), "broken"),
        (event("1", "started", r#"{"execution_id":""}"#), "hostile"),
        (event("1", "started", r#"{"execution_id":"../x"}"#), "hostile"),
        (event("1", "started", &format!(r#"{{"execution_id":"{}"}}"#, "a".repeat(65))), "hostile"),
    ] {
        let stage = stage(move |_| pieces(vec![Some(bytes.clone())], None)).await;
        let mut events = stage.agent.follow("e", 0).await.expect("an answer");
        assert_eq!(short(&events.next().await.expect_err("no event")).0, kind);
    }
    let longest = event("1", "started", &format!(r#"{{"execution_id":"{}"}}"#, "a".repeat(64)));
    let broken = stage(move |_| pieces(vec![Some(longest.clone()), None], None)).await;
    let mut events = broken.agent.follow("e", 0).await.expect("an answer");
    assert!(matches!(events.next().await, Ok(Some((1, AgentEvent::Started { .. })))));
    assert_eq!(short(&events.next().await.expect_err("it breaks off")).0, "broken");
    assert!(events.arrived().expect("nothing more").is_none());
}

fn line(path: &str, size: u64, mode: u32) -> String {
    serde_json::json!({"kind": "file", "path": path, "size": size, "version": 5, "mode": mode}).to_string() + "\n"
}

#[tokio::test]
async fn a_list_is_bounded_and_says_whether_it_is_whole() {
    let file = |path: &str, size, mode| RoomFile { path: path.into(), size, version: 5, mode };
    let end = |whole: bool| format!("{{\"kind\":\"end\",\"whole\":{whole}}}\n");
    let both = || vec![file("a", 1, 0o644), file("b/c", 2, 0o755)];
    let (a, b) = (line("a", 1, 0o100_644), line("b/c", 2, 0o4755));
    for (sent, limit, expected, is_whole) in [
        (format!("{a}{b}{}", end(true)), 2, both(), true),
        (format!("{a}{b}{}", end(true)), 3, both(), true),
        (format!("{a}{b}{}", end(true)), 1, vec![file("a", 1, 0o644)], false),
        (format!("{a}{b}{}", end(true)), 0, Vec::new(), false),
        (format!("{a}{b}{}", end(false)), 2, both(), false),
        (format!("{a}{b}"), 2, both(), false),
        (end(true), 2, Vec::new(), true),
    ] {
        for size in [1, 11, sent.len()] {
            let parts: Vec<Vec<u8>> = sent.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            let stage = stage(move |_| pieces(parts.iter().cloned().map(Some).collect(), None)).await;
            let listed = AgentFiles::new(&stage.agent, soon()).list(limit).await.expect("a list");
            assert_eq!(listed, (expected.clone(), is_whole), "at most {limit}, in pieces of {size}: {sent}");
        }
    }
    let long = |length: usize| line(&"p".repeat(length), 1, 0o644);
    for (sent, is_read) in [
        (format!("{}{}", long(4096), end(true)), true),
        (format!("{}{}", long(4097), end(true)), false),
        (format!("{}{}", "x".repeat(26 * 1024 + 1), end(true)), false),
        ("no json\n".to_owned(), false),
    ] {
        let answer = sent.clone();
        let stage = stage(move |_| text(200, answer.clone())).await;
        let listed = AgentFiles::new(&stage.agent, soon()).list(10).await;
        assert_eq!(listed.is_ok(), is_read, "{sent:.60}: {listed:?}");
    }
    let refused = stage(|_| text(500, r#"{"error":"no"}"#)).await;
    assert!(AgentFiles::new(&refused.agent, soon()).list(10).await.is_err());
    let broken = stage(move |_| pieces(vec![Some(line("a", 1, 0o644).into_bytes()), None], None)).await;
    assert!(AgentFiles::new(&broken.agent, soon()).list(10).await.is_err(), "a list that breaks off is none");
}

#[tokio::test]
async fn a_file_is_read_whole_or_its_reader_is_told() {
    let file = |size| RoomFile { path: "f".into(), size, version: 1, mode: 0o644 };
    // The pieces that are sent and the length that is announced; the bytes that are read, and whether that is all.
    let sent =
        |parts: &[Option<&str>]| parts.iter().map(|part| part.map(|part| part.as_bytes().to_vec())).collect::<Vec<_>>();
    for (parts, length, bytes, is_whole) in [
        (sent(&[Some("con"), Some("tent")]), 7, "content", true),
        (sent(&[]), 0, "", true),
        (sent(&[Some("con"), None]), 7, "con", false),
        (sent(&[Some("con")]), 7, "con", false),
    ] {
        let given = parts.clone();
        let stage = stage(move |_| pieces(given.clone(), Some(length))).await;
        let (size, mut chunks) = room_files::open(&stage.agent, "f", Duration::from_secs(20)).await.expect("opens");
        assert_eq!(size, length);
        let (mut read, mut failures) = (Vec::new(), 0);
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => read.extend_from_slice(&chunk),
                Err(_) => failures += 1,
            }
        }
        assert!(bytes.starts_with(std::str::from_utf8(&read).expect("text")), "{parts:?}: {read:?}");
        assert_eq!(
            (read.len() == usize::try_from(length).expect("fits"), failures),
            (is_whole, usize::from(!is_whole)),
            "{parts:?}"
        );
    }
    let unknown = stage(|_| pieces(vec![Some(b"content".to_vec())], None)).await;
    let opened = room_files::open(&unknown.agent, "f", Duration::from_secs(20)).await;
    assert_eq!(opened.map(drop).map_err(|error| short(&error).0), Err("broken"));
    // One of another length than it was listed with has changed, and so has one that is gone.
    let stage = stage(|_| text(200, "content")).await;
    let read = async |size| AgentFiles::new(&stage.agent, soon()).read(&file(size)).await.map(drop);
    assert!(read(7).await.is_ok());
    for size in [6, 8, 0] {
        assert!(matches!(read(size).await, Err(RoomFilesError::Changed)), "{size}");
    }
    let gone = self::stage(|_| text(404, r#"{"error":"no such file"}"#)).await;
    assert!(matches!(AgentFiles::new(&gone.agent, soon()).read(&file(7)).await, Err(RoomFilesError::Changed)));
}

#[tokio::test]
async fn what_a_room_says_of_a_file_is_told_to_whoever_sends_it() {
    let content = || futures::stream::iter([Ok(Bytes::from_static(b"x"))]).boxed();
    for status in [204, 400, 404, 507, 500, 412] {
        let stage = stage(move |_| text(status, r#"{"error":"why"}"#)).await;
        let done: Result<(), AgentError> =
            put(&stage.agent, "f", (0o644, None), content(), Duration::from_secs(20)).await;
        let told = match done {
            Ok(()) => (204, String::new()),
            Err(AgentError::Refused { status, message }) => (status.as_u16(), message),
            Err(other) => (0, other.to_string()),
        };
        assert_eq!(told, (status, if status == 204 { "" } else { "why" }.to_owned()), "{status}");
        let content = futures::stream::iter([Ok::<_, StorageError>(Bytes::from_static(b"x"))]).boxed();
        let created = AgentFiles::new(&stage.agent, soon()).create("f", 1, 0o644, content).await;
        match status {
            204 => assert!(matches!(created, Ok(true))),
            // Another file has its place.
            412 => assert!(matches!(created, Ok(false))),
            _ => assert!(matches!(created, Err(StorageError::Room(RoomFilesError::Agent(_)))), "{status}: {created:?}"),
        }
    }
    // The cause of a failed upload is the content's own.
    let stage = stage(|_| text(204, "")).await;
    let own = || AgentError::Refused { status: StatusCode::IM_A_TEAPOT, message: "own".into() };
    let failing = futures::stream::iter([Ok(Bytes::from_static(b"x")), Err(own())]).boxed();
    let done = put(&stage.agent, "f", (0o644, None), failing, Duration::from_secs(20)).await;
    assert_eq!(done.map_err(|error| error.to_string()), Err(own().to_string()));
}
