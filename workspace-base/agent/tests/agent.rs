//! Tests of the agent as a process, with a shell script instead of the CLI. (Scenario BUG-10 of the conformance suite uses the real CLI.)

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nagaya_protocol::{AgentEvent, ErrorKind, FileEntry, sse};

const DEADLINE: Duration = Duration::from_secs(20);

/// An agent in a temporary directory; it is ended with its test.
struct Agent {
    dir: tempfile::TempDir,
    process: Child,
}

impl Agent {
    /// `script` is what the CLI does.
    fn start(script: &str) -> Self {
        Self::start_with(script, &[])
    }

    fn start_with(script: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cli = dir.path().join("cli");
        fs::write(&cli, format!("#!/bin/bash\n{script}\n")).expect("writes");
        fs::set_permissions(&cli, fs::Permissions::from_mode(0o755)).expect("makes it a program");
        Self::start_beside(dir, &cli, options)
    }

    fn start_beside(dir: tempfile::TempDir, cli: &Path, options: &[&str]) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_nagaya-agent"))
            .arg("--socket-dir")
            .arg(dir.path())
            .args(["--bridge", "127.0.0.1:0"])
            .args(options)
            .env("NAGAYA_CLI", cli)
            // The agent repairs its home directory.
            .env("HOME", dir.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let agent = Self { dir, process };
        eventually("agent.sock answers", || agent.call("GET", "/health", "").starts_with("HTTP/1.1 200"));
        agent
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sends a request and leaves the answer to be read.
    fn send(&self, method: &str, path: &str, body: &str) -> Option<UnixStream> {
        self.send_with(method, path, "", body)
    }

    /// As [`Agent::send`], with a header line more, which ends with a line break.
    fn send_with(&self, method: &str, path: &str, header: &str, body: &str) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(self.path("agent.sock")).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).expect("sets");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n{body}"
        )
        .expect("writes");
        Some(stream)
    }

    /// The whole response including its head; empty if there is none.
    fn call(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = Vec::new();
        if let Some(mut stream) = self.send(method, path, body) {
            stream.read_to_end(&mut answer).expect("reads");
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(&self) -> String {
        serde_json::json!({"user_input": "do it", "cwd": self.dir.path()}).to_string()
    }

    fn execute(&self) -> Events {
        Events::new(self.send("POST", "/execute", &self.request()).expect("connects"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGTERM lets the agent kill the processes that its CLI left running.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let ended = self.process.wait();
        if !std::thread::panicking() {
            assert!(ended.expect("ends").success(), "the agent ends well");
        }
    }
}

/// The events of an answer, read as they come. The chunks' frames are skipped by the decoder as unknown fields.
struct Events {
    stream: UnixStream,
    decoder: sse::Decoder,
}

impl Events {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: sse::Decoder::new() }
    }

    fn next(&mut self) -> Option<(u64, AgentEvent)> {
        loop {
            if let Some(event) = self.decoder.next_event().expect("decodes") {
                let number = event.id.expect("a number").parse().expect("a number");
                return Some((number, serde_json::from_str(&event.data).expect("an event")));
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk).expect("reads in time") {
                0 => return None,
                count => self.decoder.push(&chunk[..count]),
            }
        }
    }

    fn rest(mut self) -> Vec<(u64, AgentEvent)> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn numbers(events: &[(u64, AgentEvent)]) -> Vec<u64> {
    events.iter().map(|(number, _)| *number).collect()
}

fn error(events: &[(u64, AgentEvent)]) -> (ErrorKind, &str) {
    match &events.last().expect("an event").1 {
        AgentEvent::Error { error_type, message } => (*error_type, message),
        other => panic!("the last event is {other:?}"),
    }
}

const RESULT: &str =
    r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s","num_turns":1}'"#;

#[test]
fn junk_and_unknown_messages_are_skipped_and_the_prompt_arrives() {
    let agent = Agent::start(&format!(
        r#"cat > prompt; echo 'no json'; echo '{{"type":"telemetry"}}'; echo
        printf '{{"type":"assistant","message":{{"content":[{{"type":"text","text":"%s"}}]}}}}\n' "$*"
        {RESULT}"#
    ));
    let events = agent.execute().rest();
    assert_eq!(numbers(&events), [1, 2, 3]);
    assert!(matches!(events[0].1, AgentEvent::Started { .. }));
    let AgentEvent::Assistant { content_blocks, .. } = &events[1].1 else { panic!("{events:?}") };
    let said = format!("{content_blocks:?}");
    assert!(said.contains("-p --input-format stream-json --output-format stream-json --verbose"), "{said}");
    let prompt = fs::read_to_string(agent.path("prompt")).expect("reads");
    let prompt: serde_json::Value = serde_json::from_str(&prompt).expect("one line of JSON");
    assert_eq!(prompt["message"]["content"], serde_json::json!([{"type": "text", "text": "do it"}]));
    assert_eq!(prompt["client_composed"], true, "without it a slash command or @path would not be text: {prompt}");
    assert!(matches!(&events[2].1, AgentEvent::Result { is_error: false, result, .. } if result == "ok"));
}

#[test]
fn a_missing_cli_is_reported_as_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let agent = Agent::start_beside(dir, &missing, &[]);
    assert_eq!(error(&agent.execute().rest()).0, ErrorKind::SdkNotInstalled);
}

#[test]
fn a_cli_failure_is_reported_with_its_last_output() {
    let agent = Agent::start("yes noise | head -n 20000 >&2; echo 'the reason' >&2; exit 3");
    let events = agent.execute().rest();
    let (kind, message) = error(&events);
    assert_eq!(kind, ErrorKind::ExecutionError);
    assert!(message.contains("exit status: 3") && message.trim_end().ends_with("the reason"), "{message}");
    assert!(message.len() < 10_000, "{}", message.len());
}

#[test]
fn options_the_cli_refuses_are_reported() {
    let agent = Agent::start("echo \"error: unknown option '--nope'\" >&2; exit 1");
    assert_eq!(error(&agent.execute().rest()).0, ErrorKind::OptionsError);
}

/// A line that announces a repetition of a model call.
fn retry(status: u16) -> String {
    let line = serde_json::json!({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 4,
        "retry_delay_ms": 500, "error_status": status, "error": "some_error"});
    format!("echo '{line}'")
}

#[test]
fn a_call_with_refused_credentials_is_repeated_once_only() {
    let again = retry(403);
    let agent = Agent::start(&format!("{again}; sleep 0.1; {again}; sleep 600"));
    let events = agent.execute().rest();
    assert_eq!(error(&events).0, ErrorKind::ModelCredentials);
    let told = events.iter().filter(|(_, event)| matches!(event, AgentEvent::Retry { status: Some(403), .. })).count();
    assert_eq!(told, 1, "{events:?}");
}

#[test]
fn other_repetitions_are_told_and_change_nothing() {
    let again = retry(529);
    let agent = Agent::start(&format!("{again}; {again}; {again}; {RESULT}"));
    let events = agent.execute().rest();
    assert_eq!(numbers(&events), [1, 2, 3, 4, 5]);
    assert!(matches!(events[4].1, AgentEvent::Result { is_error: false, .. }), "{events:?}");
}

#[test]
fn a_session_that_the_cli_does_not_find_is_lost() {
    let agent = Agent::start(
        r#"echo '{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":0,"session_id":"s",
        "errors":["No conversation found with session ID: s"]}' | tr -d '\n'; echo; exit 1"#,
    );
    assert_eq!(error(&agent.execute().rest()).0, ErrorKind::SessionLost);
}

#[test]
fn junk_in_the_clis_settings_and_a_closed_directory_are_repaired() {
    let agent = Agent::start(RESULT);
    fs::write(agent.path(".claude.json"), "junk{{").expect("writes");
    fs::create_dir(agent.path(".claude")).expect("makes");
    fs::set_permissions(agent.path(".claude"), fs::Permissions::from_mode(0o0)).expect("closes");
    fs::set_permissions(agent.dir.path(), fs::Permissions::from_mode(0o0)).expect("closes");
    let events = agent.execute().rest();
    assert!(matches!(events.last(), Some((_, AgentEvent::Result { .. }))), "{events:?}");
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    assert_eq!((mode(agent.dir.path()), mode(&agent.path(".claude"))), (0o700, 0o700));
    assert!(!agent.path(".claude.json").exists());
}

#[test]
fn output_that_ends_without_a_result_is_an_error() {
    let agent = Agent::start("exit 0");
    assert_eq!(error(&agent.execute().rest()).0, ErrorKind::ExecutionError);
}

/// An orphaned process in its own session with an empty environment, as a hostile program would start it.
const ESCAPED: &str = "(setsid env -i /bin/sleep 600 & echo $! > child.tmp; mv child.tmp child) & wait $!";

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn cancel_answers_when_nothing_of_the_execution_runs() {
    let agent = Agent::start(&format!("{ESCAPED}; sleep 600"));
    let mut events = agent.execute();
    let Some((1, AgentEvent::Started { execution_id })) = events.next() else { panic!("not started") };
    eventually("the child runs", || agent.path("child").exists());
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    assert!(alive(&child), "the escaped process runs");

    let busy = agent.call("POST", "/execute", &agent.request());
    assert!(busy.starts_with("HTTP/1.1 409"), "{busy}");
    let answer = agent.call("DELETE", &format!("/executions/{execution_id}"), "");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(!alive(&child), "the escaped process is gone");
    assert_eq!(error(&events.rest()).0, ErrorKind::Cancelled);
}

#[test]
fn processes_left_running_end_with_the_execution() {
    let agent = Agent::start(&format!("{ESCAPED}; {RESULT}"));
    let events = agent.execute().rest();
    assert!(matches!(events.last(), Some((_, AgentEvent::Result { .. }))), "{events:?}");
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    assert!(!alive(&child));
}

#[test]
fn a_dropped_reader_ends_nothing_and_gets_the_rest_later() {
    let delta =
        r#"{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}}"#;
    let agent = Agent::start(&format!(
        "echo '{delta}'; until [ -e go ]; do sleep 0.02; done; for i in $(seq 100); do echo '{delta}'; done; {RESULT}"
    ));
    let mut events = agent.execute();
    let Some((1, AgentEvent::Started { execution_id })) = events.next() else { panic!("not started") };
    let Some((2, AgentEvent::TextDelta { .. })) = events.next() else { panic!("no delta") };
    drop(events);
    fs::write(agent.path("go"), "").expect("writes");
    let path = |after: &str| format!("/executions/{execution_id}/events?after={after}");
    let rest = Events::new(agent.send("GET", &path("2"), "").expect("connects")).rest();
    assert_eq!(numbers(&rest), (3..=103).collect::<Vec<_>>());
    assert!(agent.call("GET", &path("x"), "").starts_with("HTTP/1.1 400"));
    assert!(agent.call("GET", "/executions/none/events", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn an_execution_without_a_reader_is_cancelled() {
    let agent = Agent::start_with(&format!("{ESCAPED}; sleep 600"), &["--abandoned-after", "1"]);
    let mut events = agent.execute();
    let Some((1, AgentEvent::Started { execution_id })) = events.next() else { panic!("not started") };
    eventually("the child runs", || agent.path("child").exists());
    drop(events);
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    eventually("the execution ends", || !alive(&child));
    let path = format!("/executions/{execution_id}/events?after=1");
    let rest = Events::new(agent.send("GET", &path, "").expect("connects")).rest();
    let (kind, message) = error(&rest);
    assert_eq!(kind, ErrorKind::Cancelled);
    assert!(message.starts_with("no reader was connected"), "{message}");
}

#[test]
fn a_stopped_agent_reports_how_the_execution_ended() {
    let agent = Agent::start(&format!("{ESCAPED}; sleep 600"));
    let mut events = agent.execute();
    assert!(matches!(events.next(), Some((1, AgentEvent::Started { .. }))));
    eventually("the child runs", || agent.path("child").exists());
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent.process), rustix::process::Signal::TERM)
        .expect("signals");
    assert_eq!(error(&events.rest()).0, ErrorKind::Cancelled);
    assert!(!alive(&child));
}

#[test]
fn every_option_reaches_the_cli_as_one_word() {
    let agent = Agent::start(&format!(
        "printf '%s\\n' \"$@\" region=$AWS_REGION cli=${{NAGAYA_CLI-removed}} $PATH > words; {RESULT}"
    ));
    let request = serde_json::json!({
        "user_input": "-x", "cwd": agent.dir.path(), "system_prompt": "--be kind", "model": "m",
        "environment": {"AWS_REGION": "eu-west-1", "NAGAYA_CLI": null, "PATH": "/workspace"},
        "session_id": "s", "max_turns": 3, "allowed_tools": ["Bash", "Read"],
    });
    let events = Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest();
    assert!(matches!(events.last(), Some((_, AgentEvent::Result { .. }))), "{events:?}");
    let words = fs::read_to_string(agent.path("words")).expect("reads");
    for word in [
        "--model=m",
        "--resume=s",
        "--append-system-prompt=--be kind",
        "--max-turns=3",
        "--tools=Bash,Read",
        "--setting-sources=",
        "--strict-mcp-config",
        "--include-partial-messages",
        "--disallowedTools=CronCreate,CronDelete,CronList,Monitor,PushNotification,RemoteTrigger,ScheduleWakeup",
        "bypassPermissions",
        "region=eu-west-1",
        "cli=removed",
        "/usr/local/bin:/usr/bin:/bin:/home/appuser/.local/bin",
    ] {
        assert!(words.lines().any(|line| line == word), "{word} is not among {words}");
    }
}

#[test]
fn options_that_cannot_be_passed_are_reported() {
    let agent = Agent::start(RESULT);
    let dir = agent.dir.path();
    for request in [
        serde_json::json!({"user_input": "x", "cwd": dir.join("missing")}),
        serde_json::json!({"user_input": "x", "cwd": dir, "system_prompt": "x".repeat(200_000)}),
        serde_json::json!({"user_input": "x", "cwd": dir, "model": "a\u{0}b"}),
    ] {
        let events = Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest();
        assert_eq!(error(&events).0, ErrorKind::OptionsError, "{events:?}");
    }
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let agent = Agent::start(RESULT);
    let body = serde_json::json!({"user_input": "x".repeat(5 * 1024 * 1024)}).to_string();
    let mut stream = UnixStream::connect(agent.path("agent.sock")).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("sets");
    write!(stream, "POST /execute HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()).expect("writes");
    // The agent may refuse the body before it has read all of it.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn bad_requests_are_answered_and_harm_nothing() {
    let agent = Agent::start(RESULT);
    for (method, path, body, status) in [
        ("POST", "/execute", "", 400),
        ("POST", "/execute", "{", 400),
        ("POST", "/execute", r#"{"user_input": 3}"#, 400),
        ("POST", "/execute", r#"{"user_input": "x", "colour": "red"}"#, 400),
        ("GET", "/execute", "", 405),
        ("DELETE", "/health", "", 405),
        ("GET", "/nowhere", "", 404),
        ("DELETE", "/executions/none", "", 404),
    ] {
        let answer = agent.call(method, path, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {body}: {answer}");
        assert!(answer.contains(r#"{"error":"#), "{answer}");
    }
    let events = agent.execute().rest();
    assert!(matches!(events.last(), Some((_, AgentEvent::Result { .. }))), "{events:?}");
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The files of a list. Lines with chunk sizes are skipped, because they are not JSON.
fn listed(agent: &Agent) -> Vec<FileEntry> {
    let answer = agent.call("GET", "/files", "");
    body(&answer).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn files_are_written_listed_and_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let workspace = dir.path().to_str().expect("text").to_owned();
    let agent = Agent::start_with("exit 0", &["--workspace", &workspace]);
    let put = agent.call("PUT", "/files?path=src%2Fa+b&mode=755", "content");
    assert!(put.starts_with("HTTP/1.1 204"), "{put}");
    let made = dir.path().join("src/a b");
    assert_eq!(fs::read_to_string(&made).expect("is there"), "content");
    assert_eq!(fs::metadata(&made).expect("is there").permissions().mode() & 0o777, 0o755);
    let got = agent.call("GET", "/files?path=src%2Fa+b", "");
    assert_eq!(body(&got), "content", "{got}");
    // One that is only to be created leaves another in peace.
    for (path, answer, content) in [("src%2Fa+b", "412", "content"), ("src%2Fnew", "204", "other")] {
        let sent = agent.send_with("PUT", &format!("/files?path={path}"), "if-none-match: *\r\n", "other");
        let mut told = String::new();
        sent.expect("connects").read_to_string(&mut told).expect("reads");
        assert!(told.starts_with(&format!("HTTP/1.1 {answer}")), "{told}");
        assert_eq!(body(&agent.call("GET", &format!("/files?path={path}"), "")), content);
    }
    fs::remove_file(dir.path().join("src/new")).expect("removes");
    assert_eq!(fs::read_dir(dir.path().join("src")).expect("reads").count(), 1, "nothing unfinished is left");
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("links");
    let entries = listed(&agent);
    assert!(
        matches!(&entries[..], [FileEntry::File { path, size: 7, mode: 0o755, .. }, FileEntry::End { whole: true }] if path == "src/a b"),
        "{entries:?}"
    );
    for (method, path, status) in [
        ("GET", "/files?path=..%2Fetc", "400"),
        ("GET", "/files?path=%2Fetc%2Fpasswd", "400"),
        ("PUT", "/files?path=link%2Fpasswd", "500"),
        ("GET", "/files?path=link%2Fpasswd", "500"),
        ("GET", "/files?path=not-there", "404"),
        ("GET", "/files?path=src", "400"),
        ("DELETE", "/files", "405"),
    ] {
        let answer = agent.call(method, path, "");
        let refused = answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{method} {path}: {answer}");
    }
}

#[test]
fn an_upload_that_is_cut_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let workspace = dir.path().to_str().expect("text").to_owned();
    let agent = Agent::start_with("exit 0", &["--workspace", &workspace]);
    let mut stream = UnixStream::connect(agent.path("agent.sock")).expect("connects");
    write!(stream, "PUT /files?path=half HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").expect("writes");
    let count = || fs::read_dir(dir.path()).expect("reads").count();
    eventually("it has begun", || count() == 1);
    drop(stream);
    eventually("nothing is left", || count() == 0);
    assert!(matches!(listed(&agent)[..], [FileEntry::End { whole: true }]));
}

/// Asks, as the server does, for the health of the agent that has dialled this connection.
async fn health_over(stream: tokio::net::UnixStream) -> hyper::Result<Vec<u8>> {
    use http_body_util::BodyExt;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let request =
        http::Request::get("http://agent/health").body(http_body_util::Empty::<bytes::Bytes>::new()).expect("valid");
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes().to_vec();
    serving.abort();
    Ok(body)
}

#[test]
fn where_a_server_listens_the_agent_dials_and_follows_the_socket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
    let process = Command::new(env!("CARGO_BIN_EXE_nagaya-agent"))
        .arg("--socket-dir")
        .arg(dir.path())
        .args(["--bridge", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let agent = Agent { dir, process };
    let dialled = async |listener: &tokio::net::UnixListener| {
        let (stream, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("dials").expect("accepts");
        health_over(stream).await.expect("an answer")
    };
    runtime.block_on(async {
        let health = dialled(&listener).await;
        assert!(String::from_utf8_lossy(&health).contains(r#""status":"ok""#));
        // The connection was closed after the answer, so the agent dials again.
        let (kept, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("dials").expect("accepts");
        // Another server makes the socket anew; the first one does not close its connection.
        fs::remove_file(&socket).expect("removes");
        let second = tokio::net::UnixListener::bind(&socket).expect("binds");
        let health = dialled(&second).await;
        assert!(String::from_utf8_lossy(&health).contains(r#""status":"ok""#));
        drop(kept);
        // No server at all for a moment.
        drop(second);
        fs::remove_file(&socket).expect("removes");
        let third = tokio::net::UnixListener::bind(&socket).expect("binds");
        dialled(&third).await;
    });
    assert!(socket.exists(), "the socket is the server's, and the agent leaves it alone");
    let checked = Command::new(env!("CARGO_BIN_EXE_nagaya-agent"))
        .arg("--socket-dir")
        .arg(agent.dir.path())
        .arg("health")
        .output()
        .expect("starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_health_check_fails_without_an_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let checked = Command::new(env!("CARGO_BIN_EXE_nagaya-agent"))
        .arg("--socket-dir")
        .arg(dir.path())
        .arg("health")
        .output()
        .expect("starts");
    assert!(!checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stderr).contains("not healthy"));
}

#[test]
fn a_cli_that_reports_success_and_fails_has_failed() {
    for ending in ["exit 3", "kill -KILL $$"] {
        let agent = Agent::start(&format!("{RESULT}; {ending}"));
        let events = agent.execute().rest();
        let (kind, message) = error(&events);
        assert_eq!(kind, ErrorKind::ExecutionError);
        assert!(message.contains("reported success and then ended with an error"), "{message}");
    }
}

#[test]
fn no_other_process_can_open_the_output() {
    let agent = Agent::start(&format!("(echo forged > /proc/$$/fd/1) 2> refused; {RESULT}"));
    let events = agent.execute().rest();
    assert!(matches!(&events.last().expect("an end").1, AgentEvent::Result { is_error: false, .. }), "{events:?}");
    let refused = fs::read_to_string(agent.path("refused")).expect("reads");
    assert!(refused.contains("No such device or address"), "{refused}");
}
