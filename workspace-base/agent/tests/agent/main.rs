//! Tests of the agent as a process, with a shell script instead of the CLI. (Scenario BUG-10 of the conformance suite uses the real CLI.)

mod answers;
mod conditions;
mod contents;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nagaya_protocol::{AgentEvent, Ended, FileEntry, How, sse};

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
        serde_json::json!({"input": ["do it"], "cwd": self.dir.path()}).to_string()
    }

    /// Tells it to stop.
    fn stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    fn execute(&self) -> Events {
        Events::new(self.send("POST", "/execute", &self.request()).expect("connects"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGTERM lets the agent kill the processes that its CLI left running.
        self.stop();
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
                let name = event.name.expect("a name");
                return Some((number, AgentEvent::decode(&name, event.data).expect("an event")));
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

fn end(events: &[(u64, AgentEvent)]) -> &Ended {
    match &events.last().expect("an event").1 {
        AgentEvent::Ended(ended) => ended,
        other => panic!("the last event is {other:?}"),
    }
}

fn frames(events: &[(u64, AgentEvent)]) -> Vec<&str> {
    let frame = |event| match event {
        &(_, AgentEvent::Frame(ref line)) => Some(line.as_str()),
        _ => None,
    };
    events.iter().filter_map(frame).collect()
}

/// The execution's id, from its first event.
fn started(events: &mut Events) -> String {
    match events.next() {
        Some((1, AgentEvent::Started { execution_id })) => execution_id,
        other => panic!("not started: {other:?}"),
    }
}

#[test]
fn lines_are_carried_as_they_are_in_both_directions() {
    let agent = Agent::start(r#"read -r line; echo "got $line"; echo 'no json'; echo; echo '{"type":"result"}'"#);
    let events = agent.execute().rest();
    assert_eq!(numbers(&events), [1, 2, 3, 4, 5]);
    assert_eq!(frames(&events), ["got do it", "no json", r#"{"type":"result"}"#], "an empty line is none");
    assert_eq!(end(&events).how, How::Exited);
}

#[test]
fn a_driver_lives_between_turns_and_gets_each_input_once() {
    let agent =
        Agent::start("while read -r line; do (exec -a left sleep 600) & echo \"turn $line $!\"; done; echo over");
    let mut events = agent.execute();
    let execution = started(&mut events);
    let Some((2, AgentEvent::Frame(first))) = events.next() else { panic!("no frame") };
    let left = first.rsplit(' ').next().expect("a process").to_owned();
    assert!(first.starts_with("turn do it") && alive(&left), "{first}");
    let post = |what: &str, body: serde_json::Value| {
        agent.call("POST", &format!("/executions/{execution}/{what}"), &body.to_string())
    };
    let parked = post("park", serde_json::json!({"seconds": 600}));
    assert!(parked.starts_with("HTTP/1.1 204"), "{parked}");
    assert!(!alive(&left), "what the turn has left running is gone, and the driver is not");
    let health = agent.call("GET", "/health", "");
    assert!(health.contains(&format!(r#""parked":"{execution}""#)) && !health.contains(r#""execution""#), "{health}");
    for _ in 0..2 {
        let written = post("input", serde_json::json!({"id": "2", "lines": ["again"]}));
        assert!(written.starts_with("HTTP/1.1 204"), "{written}");
    }
    let Some((3, AgentEvent::Frame(second))) = events.next() else { panic!("no frame") };
    assert!(second.starts_with("turn again"), "{second}");
    assert!(agent.call("DELETE", &format!("/executions/{execution}/input"), "").starts_with("HTTP/1.1 204"));
    let late = post("input", serde_json::json!({"id": "3", "lines": ["late"]}));
    assert!(late.starts_with("HTTP/1.1 410"), "{late}");
    let rest = events.rest();
    assert_eq!((frames(&rest), end(&rest).how), (vec!["over"], How::Exited));
}

#[test]
fn a_driver_that_is_parked_needs_no_reader_and_ends_when_its_time_is_up() {
    let agent = Agent::start_with("while read -r line; do echo \"$line\"; done", &["--abandoned-after", "1"]);
    let mut events = agent.execute();
    let execution = started(&mut events);
    assert!(matches!(events.next(), Some((2, AgentEvent::Frame(_)))));
    let park = |seconds: u64| {
        let body = serde_json::json!({"seconds": seconds}).to_string();
        agent.call("POST", &format!("/executions/{execution}/park"), &body)
    };
    assert!(park(600).starts_with("HTTP/1.1 204"));
    drop(events);
    let follow =
        || Events::new(agent.send("GET", &format!("/executions/{execution}/events?after=2"), "").expect("connects"));
    // It would be abandoned after a second.
    let since = Instant::now();
    eventually("two seconds pass", || since.elapsed() > Duration::from_secs(2));
    assert!(agent.call("GET", "/health", "").contains(r#""parked""#));
    assert!(park(0).starts_with("HTTP/1.1 204"));
    assert_eq!(end(&follow().rest()).how, How::Exited);
    assert!(park(600).starts_with("HTTP/1.1 410"));
}

#[test]
fn a_driver_that_does_not_exit_when_its_input_is_closed_is_ended() {
    let agent = Agent::start("cat > /dev/null; sleep 600");
    let mut events = agent.execute();
    let execution = started(&mut events);
    assert!(agent.call("DELETE", &format!("/executions/{execution}/input"), "").starts_with("HTTP/1.1 204"));
    assert_eq!(end(&events.rest()).how, How::Unfinished);
}

/// A driver that takes its time to write what it has to when its input has ended; then the file `last` has 20 lines.
const SLOW_TO_END: &str =
    "while read -r line; do echo \"$line\"; done; for n in {1..20}; do echo \"$n\"; sleep 0.02; done > \"$HOME/last\"";

/// An agent with such a driver, which waits for its next turn; its events and its execution.
fn slow_to_end() -> (Agent, Events, String) {
    let agent = Agent::start(SLOW_TO_END);
    let mut events = agent.execute();
    let execution = started(&mut events);
    assert!(matches!(events.next(), Some((2, AgentEvent::Frame(_)))));
    let parked = agent.call("POST", &format!("/executions/{execution}/park"), r#"{"seconds": 600}"#);
    assert!(parked.starts_with("HTTP/1.1 204"), "{parked}");
    (agent, events, execution)
}

fn has_written_all(agent: &Agent) -> bool {
    let written = fs::read_to_string(agent.path("last")).unwrap_or_default();
    written.lines().map(ToOwned::to_owned).eq((1..=20).map(|n: u32| n.to_string()))
}

#[test]
fn a_driver_that_is_given_up_has_its_input_closed_and_time_to_end() {
    let (agent, events, execution) = slow_to_end();
    assert!(agent.call("DELETE", &format!("/executions/{execution}/input"), "").starts_with("HTTP/1.1 204"));
    assert_eq!(end(&events.rest()).how, How::Exited);
    assert!(has_written_all(&agent), "input closed by the server");

    let (agent, events, execution) = slow_to_end();
    let parked = agent.call("POST", &format!("/executions/{execution}/park"), r#"{"seconds": 0}"#);
    assert!(parked.starts_with("HTTP/1.1 204"), "{parked}");
    assert_eq!(end(&events.rest()).how, How::Exited);
    assert!(has_written_all(&agent), "its time to wait is over");

    let (agent, events, _) = slow_to_end();
    agent.stop();
    assert_eq!(end(&events.rest()).how, How::Exited);
    assert!(has_written_all(&agent), "the container stops");

    let (agent, events, execution) = slow_to_end();
    assert!(agent.call("DELETE", &format!("/executions/{execution}"), "").starts_with("HTTP/1.1 204"));
    assert_eq!(end(&events.rest()).how, How::Exited);
    assert!(has_written_all(&agent), "another driver is to take its place");
}

#[test]
fn an_agent_stops_although_its_driver_does_not_exit() {
    let agent = Agent::start("trap '' TERM; read -r line; echo \"$line\"; exec sleep 600");
    let mut events = agent.execute();
    let execution = started(&mut events);
    assert!(matches!(events.next(), Some((2, AgentEvent::Frame(_)))));
    assert!(
        agent.call("POST", &format!("/executions/{execution}/park"), r#"{"seconds": 600}"#).starts_with("HTTP/1.1 204")
    );
    agent.stop();
    assert_eq!(end(&events.rest()).how, How::Cancelled);
}

#[test]
fn a_missing_cli_is_reported_as_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let agent = Agent::start_beside(dir, &missing, &[]);
    assert_eq!(end(&agent.execute().rest()).how, How::Missing);
}

#[test]
fn a_cli_failure_is_reported_with_its_last_output() {
    let agent = Agent::start("yes noise | head -n 20000 >&2; echo 'the reason' >&2; exit 3");
    let events = agent.execute().rest();
    let ended = end(&events);
    assert_eq!((ended.how, ended.message.as_str()), (How::Failed, "exit status: 3"));
    assert!(ended.stderr.trim_end().ends_with("the reason") && ended.stderr.len() < 10_000, "{}", ended.stderr.len());
}

#[test]
fn junk_in_the_clis_settings_and_a_closed_directory_are_repaired() {
    let agent = Agent::start("echo done");
    fs::write(agent.path(".claude.json"), "junk{{").expect("writes");
    fs::create_dir(agent.path(".claude")).expect("makes");
    fs::set_permissions(agent.path(".claude"), fs::Permissions::from_mode(0o0)).expect("closes");
    fs::set_permissions(agent.dir.path(), fs::Permissions::from_mode(0o0)).expect("closes");
    let events = agent.execute().rest();
    assert!(end(&events).how == How::Exited, "{events:?}");
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    assert_eq!((mode(agent.dir.path()), mode(&agent.path(".claude"))), (0o700, 0o700));
    assert!(!agent.path(".claude.json").exists());
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
    let execution_id = started(&mut events);
    eventually("the child runs", || agent.path("child").exists());
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    assert!(alive(&child), "the escaped process runs");

    let busy = agent.call("POST", "/execute", &agent.request());
    assert!(busy.starts_with("HTTP/1.1 409"), "{busy}");
    let answer = agent.call("DELETE", &format!("/executions/{execution_id}"), "");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(!alive(&child), "the escaped process is gone");
    assert_eq!(end(&events.rest()).how, How::Cancelled);
}

/// Processes that wait, others that start one anew as soon as it has ended, and some that are never long the same: each starts its
/// successor and ends.
const STUBBORN: &str = "hop() { sleep 0.002; hop & }; for n in $(seq 20); do hop & done; for n in $(seq 100); do setsid sleep 601 & done; \
    for n in $(seq 20); do (trap '' HUP TERM INT; while :; do sleep 602; done) & done; echo ready; wait";

/// Processes below this one that wait for as long as those of [`STUBBORN`] do.
fn stubborn(agent: &Agent) -> usize {
    let marked = |pid: &str| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = format!("STUBBORN={}", agent.path("").display());
        alive(pid) && environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("reads").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && marked(name)).count()
}

#[test]
fn a_tree_that_respawns_is_gone_when_cancel_answers() {
    let agent = Agent::start(&format!("export STUBBORN=$PWD/; {STUBBORN}"));
    let mut events = agent.execute();
    let execution_id = started(&mut events);
    eventually("all processes run", || stubborn(&agent) >= 120);
    let answer = agent.call("DELETE", &format!("/executions/{execution_id}"), "");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(stubborn(&agent), 0);
    assert_eq!(end(&events.rest()).how, How::Cancelled);
}

#[test]
fn processes_left_running_end_with_the_execution() {
    let agent = Agent::start(&format!("{ESCAPED}; echo done"));
    let events = agent.execute().rest();
    assert!(end(&events).how == How::Exited, "{events:?}");
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    assert!(!alive(&child));
}

#[test]
fn a_dropped_reader_ends_nothing_and_gets_the_rest_later() {
    let agent = Agent::start("echo x; until [ -e go ]; do sleep 0.02; done; for i in $(seq 100); do echo x; done");
    let mut events = agent.execute();
    let execution_id = started(&mut events);
    let Some((2, AgentEvent::Frame(_))) = events.next() else { panic!("no delta") };
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
    let execution_id = started(&mut events);
    eventually("the child runs", || agent.path("child").exists());
    drop(events);
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    eventually("the execution ends", || !alive(&child));
    let path = format!("/executions/{execution_id}/events?after=1");
    let rest = Events::new(agent.send("GET", &path, "").expect("connects")).rest();
    let ended = end(&rest);
    assert_eq!(ended.how, How::Cancelled);
    assert!(ended.message.starts_with("no reader was connected"), "{ended:?}");
}

#[test]
fn a_stopped_agent_reports_how_the_execution_ended() {
    let agent = Agent::start(&format!("{ESCAPED}; sleep 600"));
    let mut events = agent.execute();
    started(&mut events);
    eventually("the child runs", || agent.path("child").exists());
    let child = fs::read_to_string(agent.path("child")).expect("reads");
    agent.stop();
    assert_eq!(end(&events.rest()).how, How::Cancelled);
    assert!(!alive(&child));
}

#[test]
fn arguments_and_variables_reach_the_driver_as_they_are() {
    let agent = Agent::start(
        "same=no; [ -n \"$HTTP_PROXY\" ] && [ $HTTP_PROXY = $HTTPS_PROXY ] && [ $HTTP_PROXY = $http_proxy ] && [ $HTTP_PROXY = $https_proxy ] && same=yes
         printf '%s\\n' \"$@\" region=$AWS_REGION cli=${NAGAYA_CLI-removed} $PATH proxies=$same > words",
    );
    let request = serde_json::json!({
        "arguments": ["--append=--be kind", "-p"], "cwd": agent.dir.path(),
        "environment": {"AWS_REGION": "eu-west-1", "NAGAYA_CLI": null, "PATH": "/workspace",
            "HTTP_PROXY": "http://elsewhere.example"},
    });
    let events = Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest();
    assert_eq!(end(&events).how, How::Exited);
    let words = fs::read_to_string(agent.path("words")).expect("reads");
    let expected = [
        "--append=--be kind",
        "-p",
        "region=eu-west-1",
        "cli=removed",
        "/usr/local/bin:/usr/bin:/bin:/home/appuser/.local/bin",
        "proxies=yes",
    ];
    assert_eq!(words.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn another_program_is_started_by_its_whole_path() {
    let agent = Agent::start("echo of the image");
    let run = |program: &str| {
        let request = serde_json::json!({"program": program, "arguments": ["-c", "echo of the request"], "cwd": agent.dir.path()});
        Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest()
    };
    let events = run("/bin/sh");
    assert_eq!(frames(&events), ["of the request"]);
    assert_eq!(end(&events).how, How::Exited);
    for (program, how) in [("sh", How::Refused), ("/nowhere/sh", How::Missing)] {
        let events = run(program);
        assert_eq!((frames(&events), end(&events).how), (vec![], how), "{program}");
    }
}

#[test]
fn options_that_cannot_be_passed_are_reported() {
    let agent = Agent::start("echo done");
    let dir = agent.dir.path();
    for request in [
        serde_json::json!({"cwd": dir.join("missing")}),
        serde_json::json!({"cwd": dir, "arguments": ["x".repeat(200_000)]}),
        serde_json::json!({"cwd": dir, "arguments": ["a\u{0}b"]}),
    ] {
        let events = Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest();
        assert_eq!(end(&events).how, How::Refused);
    }
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let agent = Agent::start("echo done");
    let body = serde_json::json!({"input": ["x".repeat(17 * 1024 * 1024)]}).to_string();
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
    let agent = Agent::start("echo done");
    for (method, path, body, status) in [
        ("POST", "/execute", "", 400),
        ("POST", "/execute", "{", 400),
        ("POST", "/execute", r#"{"input": 3}"#, 400),
        ("POST", "/execute", r#"{"input": ["x"], "colour": "red"}"#, 400),
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
    assert!(end(&events).how == How::Exited, "{events:?}");
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
fn no_other_process_can_open_the_output() {
    let agent = Agent::start("(echo forged > /proc/$$/fd/1) 2> refused; echo done");
    let events = agent.execute().rest();
    assert_eq!(end(&events).how, How::Exited);
    let refused = fs::read_to_string(agent.path("refused")).expect("reads");
    assert!(refused.contains("No such device or address"), "{refused}");
}
