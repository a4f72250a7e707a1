//! What the agent answers on every route, and in every state of an execution.

use super::*;

/// The status of an answer, and a header of it.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn post(agent: &Agent, path: &str, body: serde_json::Value) -> String {
    agent.call("POST", path, &body.to_string())
}

#[test]
fn each_route_says_which_methods_it_has() {
    let agent = Agent::start("echo done");
    for (path, allowed) in [
        ("/health", "GET"),
        ("/execute", "POST"),
        ("/files", "DELETE, GET, PUT"),
        ("/executions/x", "DELETE"),
        ("/executions/x/events", "GET"),
        ("/executions/x/input", "DELETE, POST"),
        ("/executions/x/park", "POST"),
    ] {
        let answer = agent.call("PATCH", path, "");
        assert_eq!((status(&answer), header(&answer, "allow")), ("405", Some(allowed)), "{path}: {answer}");
        assert_eq!(header(&answer, "content-type"), Some("application/json"), "{path}");
    }
    for path in ["/", "/healthy", "/health/", "/executions", "/executions/x/events/y", "/files/x"] {
        assert_eq!(status(&agent.call("GET", path, "")), "404", "{path}");
    }
    for (method, path, body) in [
        ("DELETE", "/executions/x", ""),
        ("GET", "/executions/x/events", ""),
        ("POST", "/executions/x/input", r#"{"id": "1", "lines": []}"#),
        ("DELETE", "/executions/x/input", ""),
        ("POST", "/executions/x/park", r#"{"seconds": 1}"#),
    ] {
        assert_eq!(status(&agent.call(method, path, body)), "404", "no such execution: {method} {path}");
    }
}

#[test]
fn health_names_the_program_and_what_it_does() {
    let agent = Agent::start("while read -r line; do echo \"$line\"; done");
    let health = || -> serde_json::Value {
        serde_json::from_str(super::body(&agent.call("GET", "/health", ""))).expect("is JSON")
    };
    let idle = serde_json::json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"), "driver": "claude-code-cli",
        "cli_version": null, "protocol": nagaya_protocol::PROTOCOL});
    assert_eq!(health(), idle);
    let mut events = agent.execute();
    let execution = started(&mut events);
    let with = |field: &str| {
        let mut expected = idle.clone();
        expected[field] = execution.clone().into();
        expected
    };
    assert_eq!(health(), with("execution"));
    assert_eq!(
        status(&post(&agent, &format!("/executions/{execution}/park"), serde_json::json!({"seconds": 600}))),
        "204"
    );
    assert_eq!(health(), with("parked"));
    // Input begins the next turn.
    let input = serde_json::json!({"id": "2", "lines": ["again"]});
    assert_eq!(status(&post(&agent, &format!("/executions/{execution}/input"), input)), "204");
    assert_eq!(health(), with("execution"));
    assert_eq!(status(&agent.call("DELETE", &format!("/executions/{execution}"), "")), "204");
    assert_eq!(health(), idle);
}

#[test]
fn an_execution_that_has_ended_takes_nothing_more_and_is_told_again_until_the_next_begins() {
    let agent = Agent::start("echo one; echo two");
    let mut first = agent.execute();
    let execution = started(&mut first);
    let rest = first.rest();
    assert_eq!((frames(&rest), end(&rest).how), (vec!["one", "two"], How::Exited));
    let path = |what: &str| format!("/executions/{execution}{what}");
    for (what, body) in
        [("/input", serde_json::json!({"id": "late", "lines": ["x"]})), ("/park", serde_json::json!({"seconds": 1}))]
    {
        let answer = post(&agent, &path(what), body);
        assert_eq!(status(&answer), "410", "{what}: {answer}");
    }
    // Both are over already.
    assert_eq!(status(&agent.call("DELETE", &path("/input"), "")), "204");
    assert_eq!(status(&agent.call("DELETE", &path(""), "")), "204");
    let follow = |query: &str| {
        numbers(&Events::new(agent.send("GET", &path(&format!("/events{query}")), "").expect("connects")).rest())
    };
    assert_eq!(follow(""), [1, 2, 3, 4]);
    assert_eq!(follow("?after=0"), [1, 2, 3, 4]);
    assert_eq!(follow("?after=3"), [4]);
    assert_eq!(follow("?after=4"), [0_u64; 0]);
    for bad in ["?after=-1", "?after=", "?after=1.5"] {
        assert_eq!(status(&agent.call("GET", &path(&format!("/events{bad}")), "")), "400", "{bad}");
    }
    let mut second = agent.execute();
    assert_ne!(started(&mut second), execution);
    assert_eq!(status(&agent.call("GET", &path("/events"), "")), "404", "only the last one is kept");
    second.rest();
}

#[test]
fn input_that_waits_is_bounded_and_bad_bodies_are_refused() {
    let agent = Agent::start("until [ -e go ]; do sleep 0.02; done; wc -c");
    let mut events = agent.execute();
    let execution = started(&mut events);
    let input = format!("/executions/{execution}/input");
    // The first batch leaves the queue at once, into the pipe and what waits for it; two more fit behind it.
    let large = "x".repeat(15 << 20);
    let answers: Vec<String> = ["1", "2", "3", "4", "4"]
        .map(|id| status(&post(&agent, &input, serde_json::json!({"id": id, "lines": [large]}))).to_owned())
        .into();
    assert_eq!(answers, ["204", "204", "204", "429", "429"], "what was refused is not taken for a repetition");
    for body in ["", "{}", r#"{"id": "5"}"#, r#"{"id": "5", "lines": "x"}"#, r#"{"id": "5", "lines": [], "more": 1}"#] {
        assert_eq!(status(&agent.call("POST", &input, body)), "400", "{body}");
        assert_eq!(status(&agent.call("POST", &format!("/executions/{execution}/park"), body)), "400", "{body}");
    }
    assert_eq!(status(&agent.call("DELETE", &input, "")), "204");
    fs::write(agent.path("go"), "").expect("writes");
    // All that was taken arrives before the end: the first line, and three batches, each with its line feed.
    let rest = events.rest();
    assert_eq!(frames(&rest), [(6 + 3 * ((15 << 20) + 1)).to_string()]);
    assert_eq!(end(&rest).how, How::Exited);
}

#[test]
fn a_body_of_the_longest_length_is_read_and_one_byte_more_is_not() {
    let agent = Agent::start("wc -c");
    const LONGEST: usize = 16 << 20;
    let mut request = serde_json::json!({"input": ["x"], "cwd": agent.dir.path()}).to_string();
    request.push_str(&" ".repeat(LONGEST - request.len()));
    let mut events = Events::new(agent.send("POST", "/execute", &request).expect("connects"));
    let execution = started(&mut events);
    assert_eq!(status(&agent.call("DELETE", &format!("/executions/{execution}/input"), "")), "204");
    assert_eq!(frames(&events.rest()), ["2"]);
    request.push(' ');
    let mut stream = UnixStream::connect(agent.path("agent.sock")).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("sets");
    write!(stream, "POST /execute HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", request.len()).expect("writes");
    // It may be refused before all of it is read.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn how_a_driver_has_ended_is_told_in_whole() {
    for (script, how, message, stderr) in [
        ("exit 0", How::Exited, "exit status: 0", ""),
        ("echo why >&2; exit 0", How::Exited, "exit status: 0", "why\n"),
        ("echo why >&2; exit 7", How::Failed, "exit status: 7", "why\n"),
        ("kill -9 $$", How::Failed, "signal: 9 (SIGKILL)", ""),
    ] {
        let agent = Agent::start(script);
        let events = agent.execute().rest();
        let expected = Ended { how, message: message.into(), stderr: stderr.into(), out_of_memory: None };
        assert_eq!(end(&events), &expected, "{script}");
    }
    let agent = Agent::start("echo never");
    let refused = |request: serde_json::Value| {
        let events = Events::new(agent.send("POST", "/execute", &request.to_string()).expect("connects")).rest();
        let ended = end(&events).clone();
        assert_eq!((ended.stderr.as_str(), ended.out_of_memory.as_ref()), ("", None));
        (ended.how, ended.message)
    };
    let dir = agent.dir.path();
    fs::write(dir.join("plain"), "no program").expect("writes");
    let plain = dir.join("plain").display().to_string();
    for (request, how, message) in [
        (
            serde_json::json!({"cwd": "/nowhere"}),
            How::Refused,
            "the working directory /nowhere does not exist".to_owned(),
        ),
        (serde_json::json!({"cwd": plain}), How::Refused, format!("the working directory {plain} does not exist")),
        (
            serde_json::json!({"cwd": dir, "program": "sh"}),
            How::Refused,
            "sh is not the whole path of a program".to_owned(),
        ),
        (
            serde_json::json!({"cwd": dir, "program": "/nowhere"}),
            How::Missing,
            "/nowhere is not in the image".to_owned(),
        ),
        (
            serde_json::json!({"cwd": dir, "program": plain}),
            How::Failed,
            format!("{plain} cannot be started: Permission denied (os error 13)"),
        ),
    ] {
        assert_eq!(refused(request), (how, message));
    }
}
