//! In which conditions the driver runs, and what is left of a turn.

use super::*;

fn order_of(process: u32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).expect("reads");
    text.trim().parse().expect("a number")
}

#[test]
fn a_driver_is_killed_for_memory_before_its_agent_is() {
    let agent = Agent::start("cat /proc/self/oom_score_adj");
    let before = order_of(agent.process.id());
    let events = agent.execute().rest();
    assert_eq!(frames(&events), ["500"]);
    assert_eq!(order_of(agent.process.id()), before, "the agent has its own place again");
}

#[test]
fn a_turn_that_is_parked_and_goes_on_is_abandoned_again_without_a_reader() {
    let agent = Agent::start_with("while read -r line; do echo \"$line\"; done", &["--abandoned-after", "1"]);
    let mut events = agent.execute();
    let execution = started(&mut events);
    let park = serde_json::json!({"seconds": 600}).to_string();
    assert!(agent.call("POST", &format!("/executions/{execution}/park"), &park).starts_with("HTTP/1.1 204"));
    drop(events);
    let input = serde_json::json!({"id": "2", "lines": ["again"]}).to_string();
    assert!(agent.call("POST", &format!("/executions/{execution}/input"), &input).starts_with("HTTP/1.1 204"));
    // No longer parked, and nobody reads.
    eventually("the execution ends", || !agent.call("GET", "/health", "").contains(&execution));
    let events = Events::new(agent.send("GET", &format!("/executions/{execution}/events"), "").expect("connects"));
    let all = events.rest();
    assert_eq!((frames(&all), end(&all).how), (vec!["do it", "again"], How::Cancelled));
    assert_eq!(end(&all).message, "no reader was connected for 1s");
}

#[test]
fn an_execution_with_one_of_two_readers_left_goes_on() {
    let agent =
        Agent::start_with("echo on; until [ -e go ]; do sleep 0.02; done; echo over", &["--abandoned-after", "1"]);
    let mut first = agent.execute();
    let execution = started(&mut first);
    let second = Events::new(agent.send("GET", &format!("/executions/{execution}/events"), "").expect("connects"));
    assert!(matches!(first.next(), Some((2, AgentEvent::Frame(_)))));
    drop(second);
    let since = Instant::now();
    eventually("twice the time without a reader passes", || since.elapsed() > Duration::from_millis(2500));
    fs::write(agent.path("go"), "").expect("writes");
    let rest = first.rest();
    assert_eq!((frames(&rest), end(&rest).how), (vec!["over"], How::Exited));
}

/// A process that is killed with its test, should it not have ended.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_agent_ends_and_leaves_its_connection_though_its_server_keeps_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let dir = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::UnixListener::bind(dir.path().join("agent.sock")).expect("binds");
    let process = Command::new(env!("CARGO_BIN_EXE_nagaya-agent"))
        .arg("--socket-dir")
        .arg(dir.path())
        .args(["--bridge", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut process = Killed(process);
    let (mut sender, kept) = runtime.block_on(async {
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let (stream, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("dials").expect("accepts");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("greets");
        (sender, tokio::spawn(connection))
    });
    // The connection is in use, and stays open on this side.
    let answered = runtime.block_on(async {
        let request = http::Request::get("http://agent/health").body(http_body_util::Empty::<bytes::Bytes>::new());
        sender.send_request(request.expect("valid")).await.expect("an answer").status()
    });
    assert_eq!(answered.as_u16(), 200);
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
    let ended = runtime.block_on(async { tokio::time::timeout(DEADLINE, kept).await });
    assert!(ended.is_ok(), "the connection has an end");
    let mut status = None;
    eventually("the agent ends", || {
        status = process.0.try_wait().expect("waits");
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "it ends well");
}

#[test]
fn a_connection_allows_as_many_requests_as_the_protocol_says() {
    let agent = Agent::start("echo done");
    let mut stream = UnixStream::connect(agent.path("agent.sock")).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("sets");
    // The preface of HTTP/2 and empty settings (RFC 9113, sections 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("writes");
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a frame");
    assert_eq!(head[3], 4, "its settings come first");
    let mut settings = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut settings).expect("settings");
    let value = |id: u8| {
        let found = settings.chunks(6).find(|setting| setting[..2] == [0, id])?;
        Some(u32::from_be_bytes([found[2], found[3], found[4], found[5]]))
    };
    assert_eq!(value(3), Some(nagaya_protocol::STREAMS), "SETTINGS_MAX_CONCURRENT_STREAMS");
}

#[test]
fn a_client_that_does_not_complete_its_head_loses_its_connection() {
    let agent = Agent::start("echo done");
    let mut stream = UnixStream::connect(agent.path("agent.sock")).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("sets");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n").expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the agent closes it");
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
}
