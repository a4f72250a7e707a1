//! A stand-in for a deployment: it keeps only the promises of HLTH-001, and breaks them on demand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How it answers `/health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As the contract says.
    Good,
    /// Never, while the connection stays open.
    Hangs,
    /// With half a response, after which it closes the connection.
    ClosesEarly,
    /// With something that is not JSON.
    WrongJson,
    /// With 500.
    Fails,
    /// Only with a key, as everything except `/health/live`.
    Locked,
    /// Streams end inside an event.
    HalfAnEvent,
    /// With 500 the third time.
    FailsTheThirdTime,
    /// As the contract says; from then on its version is another.
    IsUpgraded,
    /// As the contract says; from then on its metrics begin anew.
    IsRestarted,
    /// As the contract says, but only an operator may create models, and the key is not an operator's.
    OfTenant,
}

/// A running stand-in; it ends when it is dropped.
pub struct Fixture {
    pub url: String,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fixture {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            // Connections that hang are kept open until the end.
            let (mut open, mut asked) = (Vec::new(), 0);
            for client in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                open.extend(answer(client, manner, &mut asked));
            }
        });
        Self { url: format!("http://{address}"), ended, thread: Some(thread) }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread up; it may have ended already.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns the connection if it must stay open. `asked` counts the requests to `/health`.
fn answer(mut client: TcpStream, manner: Manner, asked: &mut u32) -> Option<TcpStream> {
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if manner == Manner::Locked && path != "/health/live" {
        send(&mut client, 401, &json!({"error": {"code": "UNAUTHORIZED"}}).to_string());
        return None;
    }
    if manner == Manner::OfTenant && head.starts_with("POST /api/models ") {
        send(&mut client, 403, &json!({"error": {"code": "FORBIDDEN"}}).to_string());
        return None;
    }
    *asked += u32::from(path == "/health");
    let is_another = *asked > 0;
    if path.ends_with("/stream") {
        // A client may disconnect at any time.
        let _ = client.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
              id: r:1\nevent: init\ndata: {\"seq\": 1, \"timestamp\": \"2026-01-01T00:00:00Z\"}\n\nid: r:2\nevent: do",
        );
        return None;
    }
    match (path.as_str(), manner) {
        ("/health", Manner::Hangs) => return Some(client),
        ("/health", Manner::ClosesEarly) => {
            let _ = client
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{\"st");
        }
        ("/health", Manner::WrongJson) => send(&mut client, 200, "{\"status\": healthy"),
        ("/health", Manner::Fails) => send(&mut client, 500, "{}"),
        ("/health", Manner::FailsTheThirdTime) if *asked == 3 => send(&mut client, 500, "{}"),
        ("/", Manner::IsUpgraded) if is_another => {
            send(&mut client, 200, &json!({"name": "fixture", "version": "1", "docs_url": "/docs"}).to_string());
        }
        ("/metrics", Manner::IsRestarted) => {
            let count = if is_another { 1 } else { 100 };
            send(&mut client, 200, &format!("# TYPE requests_total counter\nrequests_total {count}\n"));
        }
        _ => match good(&path) {
            Some(body) => send(&mut client, 200, &body.to_string()),
            None => send(&mut client, 404, "{}"),
        },
    }
    None
}

fn good(path: &str) -> Option<Value> {
    let component = json!({"status": "healthy", "message": "", "latency_ms": 0.1});
    Some(match path {
        "/" => json!({"name": "fixture", "version": "0", "docs_url": "/docs"}),
        "/health" => json!({
            "status": "healthy", "version": "0", "environment": "development", "timestamp": "2026-01-01T00:00:00Z",
            "checks": {"database": component, "redis": component, "docker": component, "s3": component},
            "container_system": {"active_containers": 0, "warm_pool_size": 0},
        }),
        "/health/live" => json!({"status": "alive"}),
        "/health/ready" => json!({"status": "ready"}),
        "/openapi.json" => json!({"openapi": "3.1.0", "paths": {"/health": {}}}),
        "/docs" | "/api/tenants" => json!([]),
        _ => return None,
    })
}

fn send(client: &mut TcpStream, status: u16, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    // A client may disconnect at any time.
    let _ = client.write_all(format!("{head}\r\n{body}").as_bytes());
}

/// How long a condition may take: a workspace that appears, an interrupted run that ends, an engine that answers.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !until() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        #[expect(clippy::disallowed_methods, reason = "the pause between two checks of a condition with a deadline")]
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The suite's command, as a shell would start it.
pub fn suite<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nagaya-conformance"));
    command.args(args).env_remove("NAGAYA_CONFORMANCE_API_KEY").env("RUST_BACKTRACE", "0");
    command
}

/// Sends it a signal.
pub fn kill(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("signalled");
}

/// Runs it to its end, and returns its exit status and output.
pub fn ends<'a>(args: impl IntoIterator<Item = &'a str>) -> (i32, String) {
    status_and_output(&suite(args).output().expect("started"))
}

pub fn status_and_output(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Runs HLTH-001 against a stand-in of this kind with further arguments, and returns status, output and the JSON report.
pub fn judged(manner: Manner, more: &[&str]) -> (i32, String, Value) {
    let (fixture, dir) = (Fixture::start(manner), tempfile::tempdir().expect("a directory"));
    let report: PathBuf = dir.path().join("report");
    let report_dir = report.display().to_string();
    let filter = if more.contains(&"--filter") { vec![] } else { vec!["--filter", "id(=HLTH-001)"] };
    let fixed = ["run", "--target", &fixture.url, "--report", &report_dir];
    let (status, text) = ends(fixed.into_iter().chain(filter).chain(more.iter().copied()));
    let json = std::fs::read_to_string(report.join("report.json")).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status, text, serde_json::from_str(&json).expect("JSON"))
}
