//! Tests of the driver as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::{ClientTool, Place};

fn ended(how: How, stderr: &str) -> Ended {
    Ended { how, message: "exit status: 3".into(), stderr: stderr.into(), out_of_memory: None }
}

fn access() -> Access {
    let place = Place::Messages { url: "http://gw.example".into(), is_anthropics: false };
    Access { place, idle: Duration::from_secs(10) }
}

#[test]
fn every_option_is_one_argument() {
    let options = Options {
        model: "m".into(),
        session: Some("s".into()),
        system_prompt: "Be kind.".repeat(100_000),
        max_turns: Some(3),
        fallback_models: vec!["n".into(), "o".into()],
        effort: Some("low".into()),
        plugins: vec!["/p".into()],
        access: Some(access()),
        environment: BTreeMap::from([
            ("ANTHROPIC_BASE_URL".into(), "http://elsewhere.example".into()),
            ("LEVEL".into(), "3".into()),
        ]),
        output_schema: Some(json!({"type": "object"})),
        directory: Some("/workspace/a".into()),
        tools: Some(vec!["Bash".into(), "Read".into()]),
        permissions: Permissions {
            ask: vec!["Bash(git push:*)".into()],
            deny: vec!["mcp__a__b".into()],
            questions: false,
        },
        mcp_servers: BTreeMap::from([("a".into(), "http://a.example/mcp".into())]),
        client_tools: vec![ClientTool {
            name: "price".into(),
            description: "Its price".into(),
            input_schema: json!({}),
        }],
    };
    assert_eq!(ClaudeCode.start(&options).cwd.as_deref(), Some("/workspace/a"));
    let started = ClaudeCode.start(&options);
    let set = |name: &str| started.environment[name].as_deref();
    assert_eq!((set("LEVEL"), set("ANTHROPIC_BASE_URL")), (Some("3"), Some("http://gw.example")));
    let given = started.arguments;
    for expected in [
        "--model=m",
        "--resume=s",
        "--max-turns=3",
        "--fallback-model=n,o",
        "--effort=low",
        "--plugin-dir=/p",
        r#"--json-schema={"type":"object"}"#,
        "--tools=Bash,Read,Skill",
        r#"--settings={"permissions":{"ask":["Bash(git push:*)"],"deny":["mcp__a__b"]}}"#,
        r#"--mcp-config={"mcpServers":{"a":{"type":"http","url":"http://a.example/mcp"},"client":{"name":"client","type":"sdk"}}}"#,
    ] {
        assert!(given.iter().any(|argument| argument == expected), "{expected} in {given:?}");
    }
    assert!(
        given
            .iter()
            .any(|argument| argument.starts_with("--disallowedTools=Cron") && argument.ends_with("AskUserQuestion"))
    );
    // The kernel takes 128 KiB.
    assert!(given.iter().all(|argument| argument.len() < 4_096), "an argument is as long as the system prompt");
    let without = ClaudeCode.start(&Options { model: "m".into(), ..Options::default() }).arguments;
    assert!(!without.iter().any(|argument| argument.starts_with("--settings")));
}

#[test]
fn tools_that_are_asked_about_and_tools_that_are_denied_are_told_each_alone() {
    for (ask, deny) in [(vec!["Bash"], vec![]), (vec![], vec!["Bash"])] {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let permissions = Permissions { ask: texts(&ask), deny: texts(&deny), questions: true };
        let given = ClaudeCode.start(&Options { model: "m".into(), permissions, ..Options::default() }).arguments;
        let expected = format!("--settings={}", json!({"permissions": {"ask": ask, "deny": deny}}));
        assert!(given.contains(&expected), "{expected} in {given:?}");
    }
}

#[test]
fn a_prompt_is_one_line_of_plain_text() {
    let line = |prompt: &Prompt| -> serde_json::Value {
        let lines = ClaudeCode.prompt("id", prompt);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(!line.contains('\n'));
        serde_json::from_str(line).expect("JSON")
    };
    let message = line(&Prompt { text: "/clear\n@file".into(), ..Prompt::default() });
    assert_eq!(message["message"]["content"], json!([{"type": "text", "text": "/clear\n@file"}]));
    assert_eq!((&message["client_composed"], &message["uuid"]), (&json!(true), &json!("id")));
    let command = line(&Prompt { text: "/compact".into(), command: true, ..Prompt::default() });
    assert_eq!(command.get("client_composed"), None);
    let blocks = vec![
        Block::Image { media_type: "image/png".into(), data: "AA==".into() },
        Block::TextDocument { text: "words".into(), title: Some("T".into()) },
    ];
    let message = line(&Prompt { text: "what is this?".into(), blocks, command: false });
    assert_eq!(
        message["message"]["content"],
        json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            {"type": "text", "text": "what is this?"}])
    );
}

#[test]
fn the_end_of_the_process_says_what_failed() {
    let kind = |how, stderr: &str| ClaudeCode.failure(&ended(how, stderr)).kind;
    assert_eq!(kind(How::Missing, ""), ErrorKind::SdkNotInstalled);
    assert_eq!(kind(How::Refused, ""), ErrorKind::OptionsError);
    assert_eq!(kind(How::Failed, "error: unknown option '--nope'"), ErrorKind::OptionsError);
    assert_eq!(kind(How::Failed, "Error: --json-schema is not valid"), ErrorKind::OptionsError);
    assert_eq!(kind(How::Exited, ""), ErrorKind::ExecutionError);
    let failure = ClaudeCode.failure(&ended(How::Failed, "noise\nthe reason\n"));
    assert!(failure.message.contains("exit status: 3") && failure.message.ends_with("the reason"), "{failure:?}");
    let used_up = Ended { out_of_memory: Some("no memory".into()), ..ended(How::Failed, "") };
    assert_eq!(ClaudeCode.failure(&used_up).kind, ErrorKind::OutOfMemory);
    assert_eq!(ClaudeCode.failure(&Ended { how: How::Cancelled, ..used_up }).kind, ErrorKind::Cancelled);
}

fn retry(status: u16) -> String {
    json!({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 4, "retry_delay_ms": 500,
        "error_status": status, "error": "some_error"})
    .to_string()
}

#[test]
fn a_call_with_refused_credentials_is_repeated_once_only() {
    let mut turn = ClaudeCode.dialogue(&Options::default(), None);
    let mut read = |status| turn.read(&retry(status)).expect("within bounds").remove(0);
    assert!(matches!(read(403), Event::Retry { status: Some(403), .. }));
    for _ in 0..3 {
        assert!(matches!(read(529), Event::Retry { status: Some(529), .. }));
    }
    assert!(matches!(read(401), Event::Failed(Failure { kind: ErrorKind::ModelCredentials, .. })));
}

#[test]
fn a_session_that_the_cli_does_not_find_is_lost() {
    let line = json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "num_turns": 0, "session_id": "s",
        "errors": ["No conversation found with session ID: s"]});
    let events = ClaudeCode.dialogue(&Options::default(), None).read(&line.to_string()).expect("within bounds");
    assert!(matches!(&events[..], [Event::Failed(Failure { kind: ErrorKind::SessionLost, .. })]), "{events:?}");
}

#[test]
fn what_is_left_over_from_earlier_turns_does_not_end_this_one() {
    let mut turn = ClaudeCode.dialogue(&Options::default(), Some("this"));
    assert!(!turn.has_begun() && ClaudeCode.dialogue(&Options::default(), None).has_begun());
    let mut read = |line: serde_json::Value| turn.read(&line.to_string()).expect("within bounds");
    let result = |text: &str| json!({"type": "result", "subtype": "success", "result": text, "session_id": "s"});
    let begins = |id: &str| json!({"type": "command_lifecycle", "command_uuid": id, "state": "started"});
    assert_eq!(read(result("of an earlier turn")), vec![]);
    assert_eq!(read(begins("earlier")), vec![]);
    let ask = json!({"type": "control_request", "request_id": "r", "request": {"subtype": "hook_callback"}});
    assert!(matches!(&read(ask)[..], [Event::Reply { .. }]), "whoever asks is answered");
    assert_eq!(read(result("of an earlier turn")), vec![]);
    assert_eq!(read(begins("this")), vec![]);
    assert!(matches!(&read(result("ours"))[..], [Event::Result(turn)] if turn.result == "ours"));
    assert!(turn.has_begun());
}

#[test]
fn a_report_is_what_follows_the_mark() {
    let content =
        "  <tools>Bash</tools>\n  \n[Subagent hand-back] The report follows:\n  Seven.\n  And more.\nagentId: a1";
    assert!(ClaudeCode.report(content).trim_start().starts_with("Seven."));
    assert_eq!(ClaudeCode.report("Plain.\nMore."), "Plain.\nMore.");
    assert_eq!(ClaudeCode.report("[Subagent hand-back] and nothing"), "[Subagent hand-back] and nothing");
    assert_eq!(ClaudeCode.subagent("Bash", &json!({})), None);
    let agent = ClaudeCode.subagent("Task", &json!({"subagent_type": "t", "model": "m"})).expect("a sub-agent");
    assert_eq!((agent.kind.as_str(), agent.model.as_deref()), ("t", Some("m")));
}

#[test]
fn versions_are_compared_by_their_numbers() {
    let driver: &dyn Driver = &ClaudeCode;
    for (version, tested) in [
        (OLDEST, true),
        (NEWEST, true),
        ("2.1.320", true),
        ("2.1.99", false),
        ("2.1.1000", false),
        ("3.0.0", false),
        ("2.1.320-beta", false),
        ("", false),
    ] {
        assert_eq!(driver.is_tested_with(version), tested, "{version}");
    }
}

#[test]
fn a_driver_is_told_its_system_prompt_before_its_first_turn() {
    let options = Options { model: "m".into(), system_prompt: "Be \"kind\"".into(), ..Options::default() };
    let fixed = ClaudeCode.fixed(&options);
    assert_eq!(fixed, ClaudeCode.fixed(&Options { system_prompt: "other".into(), ..options.clone() }));
    assert_ne!(fixed, ClaudeCode.fixed(&Options { model: "n".into(), ..options.clone() }));
    assert_eq!(ClaudeCode.start(&fixed).arguments, ClaudeCode.start(&options).arguments);
    let told = ClaudeCode.introduce(&options);
    let told: serde_json::Value = serde_json::from_str(&told[0]).expect("JSON");
    assert_eq!(told["request"], json!({"subtype": "initialize", "appendSystemPrompt": "Be \"kind\""}));
    assert!(ClaudeCode.introduce(&fixed).is_empty());
}
