//! BUG-10: the agent and the real Claude Code CLI.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::client::stream::{RunEvent, names};
use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-10",
        "The real CLI completes a run: handshake, text, a tool call that writes a file, and the tool result",
        "agent SDK's shapes pinned, and verified against the real thing",
        body!(real_cli),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-10-JUNK",
        "Lines that are not JSON and messages of unknown type are skipped, and counted by their kind",
        "unknown message types and non-JSON lines are logged, counted and skipped",
        body!(unknown_lines),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-10-GONE",
        "A run in a workspace without the CLI ends with sdk_not_installed",
        "CLI missing: sdk_not_installed",
        body!(missing_cli),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-10-EXIT",
        "A CLI that exits with status 3 ends the run with execution_error and the last lines of stderr",
        "exit ≠ 0: execution_error with the tail of stderr",
        body!(failing_cli),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

async fn real_cli(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@say I will write a file.\n\
                  @tool Bash {\"command\": \"printf %s made-in-the-room > /workspace/made.txt && echo tool-was-here\", \"description\": \"Write\"}\n\
                  @say It is written.";
    let events = deployment.run_well(&conversation, prompt).await?;

    let first = |name: &str| events.iter().find(|event| event.name == name);
    let init = first("init").ok_or_else(|| Failure::assertion(format!("no init among: {}", names(&events))))?;
    check(!init.text("session_id").is_empty(), format!("init without a session: {}", init.data))?;
    let tools = init.data["tools"].as_array().cloned().unwrap_or_default();
    check(tools.iter().any(|tool| tool == "Bash"), format!("init does not list the tool Bash: {}", init.data))?;

    let texts = texts(&events);
    for said in ["I will write a file.", "It is written."] {
        check(texts.iter().any(|text| text.contains(said)), format!("{said:?} was not among the texts: {texts:?}"))?;
    }
    let call =
        first("tool_call").ok_or_else(|| Failure::assertion(format!("no tool_call among: {}", names(&events))))?;
    check_eq("tool_name", call.text("tool_name"), "Bash")?;
    let result =
        first("tool_result").ok_or_else(|| Failure::assertion(format!("no tool_result among: {}", names(&events))))?;
    check_eq("tool_use_id of the result", result.text("tool_use_id"), call.text("tool_use_id"))?;
    check_eq("status of the result", result.text("status"), "completed")?;
    let content = result.data["content"].to_string();
    check(content.contains("tool-was-here"), format!("the tool's output is not in its result: {content}"))?;

    let room = deployment.only_room().await?;
    let file = room.exec(["cat", "/workspace/made.txt"]).await?;
    check_eq("the file that the tool wrote", file.printed.as_str(), "made-in-the-room")?;

    let socket = room.socket_dir().await?.join("agent.sock");
    let version = eventually(Duration::from_secs(15), "the CLI's version in the agent's /health", async || {
        let (_, body) = unix::request(&socket, Method::GET, "/health", Bytes::new()).await?;
        let health: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        health["cli_version"].as_str().map(str::to_owned).ok_or(health.to_string())
    });
    let version = version.await?;
    let by_itself = room.exec(["claude", "--version"]).await?;
    check(
        by_itself.printed.contains(&version) || version.contains(by_itself.printed.trim()),
        format!("the agent reports CLI version {version:?}, the CLI itself {:?}", by_itself.printed),
    )
}

/// All texts of all assistant events.
fn texts(events: &[RunEvent]) -> Vec<String> {
    let blocks = events
        .iter()
        .filter(|event| event.name == "assistant")
        .filter_map(|event| event.data["content_blocks"].as_array());
    blocks.flatten().filter_map(|block| block["text"].as_str().map(str::to_owned)).collect()
}

/// A shell line that replaces the CLI, wherever it is on the search path, by `script`.
fn replace_cli(script: &str) -> String {
    format!(
        "cli=\"$(readlink -f \"$(command -v claude)\")\"; test -n \"$cli\"; rm \"$cli\"\n\
         cat > \"$cli\" <<'END-OF-STAND-IN'\n{script}END-OF-STAND-IN\nchmod 755 \"$cli\""
    )
}

/// Runs a prompt in a workspace whose image was changed by a shell line.
async fn run_in(context: &Context, change: &str) -> Result<Vec<RunEvent>, Failure> {
    Ok(run_at(context, change).await?.1)
}

/// As [`run_in`]; with the deployment.
async fn run_at(context: &Context, change: &str) -> Result<(Deployment, Vec<RunEvent>), Failure> {
    let image = context.derived_image(change).await?;
    let deployment = context.launch(Launch::new().set("CONTAINER_IMAGE", &image)).await?;
    let conversation = deployment.conversation(context).await?;
    let events = deployment.run(&conversation, "@say this is not asked of any model").await?;
    let asked = deployment.model()?.requests().await?.len();
    check_eq("model requests: only the real CLI makes any, so the stand-in did not run", asked, 0)?;
    Ok((deployment, events))
}

/// Checks that the run failed with an `error` event of this type whose message contains `holding`, before its `done` event.
fn ended_with(events: &[RunEvent], error_type: &str, holding: &str) -> Result<(), Failure> {
    let error = events.iter().find(|event| event.name == "error");
    let error = error.ok_or_else(|| Failure::assertion(format!("no error among: {}", names(events))))?;
    check_eq(format!("error_type in {}", error.data), error.text("error_type"), error_type)?;
    check(
        error.text("message").contains(holding),
        format!("the message does not contain {holding:?}: {}", error.data),
    )?;
    check(error.data["recoverable"].is_boolean(), format!("recoverable in {}", error.data))?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    check_eq(format!("is_error in done: {done}"), done["is_error"].as_bool(), Some(true))
}

async fn unknown_lines(context: &Context) -> Result<(), Failure> {
    const SCRIPT: &str = r#"#!/bin/sh
case "$*" in *--version*) echo '0.0.0 (stand-in)'; exit 0 ;; esac
echo 'this is not JSON'
echo '{"type": "system", "subtype": "init", "session_id": "5f0c3cd6-0000-4000-8000-000000000000", "model": "stand-in", "tools": ["Bash"], "cwd": "/workspace"}'
echo '{"type": "telemetry_of_a_future_version", "payload": [1, 2, {"deep": null}]}'
echo '{"type": "system", "subtype": "news_of_a_future_version", "payload": "x"}'
echo '{"type": "system", "subtype": "status", "status": null}'
echo '{"type": "assistant", "message": {"id": "m", "role": "assistant", "content": [{"type": "block_of_the_future"}, {"type": "text", "text": "said between junk"}]}, "session_id": "5f0c3cd6-0000-4000-8000-000000000000"}'
echo '{"unfinished": '
echo ''
echo '[]'
echo '42'
echo '{"no_type": true}'
echo '{"type": "result", "subtype": "success", "is_error": false, "duration_ms": 5, "duration_api_ms": 3, "num_turns": 1, "result": "ended between junk", "session_id": "5f0c3cd6-0000-4000-8000-000000000000", "total_cost_usd": 0, "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}}'
echo 'one more line that is not JSON'
"#;
    let (deployment, events) = run_at(context, &replace_cli(SCRIPT)).await?;
    check(
        texts(&events).iter().any(|text| text == "said between junk"),
        format!("the text was lost: {}", names(&events)),
    )?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
    check_eq("result in done", done["result"].as_str(), Some("ended between junk"))?;
    let page = deployment.api.metrics().await?;
    // Of the empty line and what is no message, the contract says nothing.
    for (kind, least, most) in
        [("malformed", 2.0, 3.0), ("other", 2.0, 5.0), ("system", 1.0, 1.0), ("request", 0.0, 0.0)]
    {
        let counted = page.get("driver_unknown_frames_total", &[("kind", kind)]);
        let counts = counted.is_some_and(|counted| (least..=most).contains(&counted));
        check(counts, format!("driver_unknown_frames_total of {kind}: {counted:?}, expected {least} to {most}"))?;
    }
    Ok(())
}

async fn missing_cli(context: &Context) -> Result<(), Failure> {
    const CHANGE: &str =
        "test -n \"$(command -v claude)\"; find / -xdev -name claude ! -type d -delete; ! command -v claude";
    ended_with(&run_in(context, CHANGE).await?, "sdk_not_installed", "")
}

async fn failing_cli(context: &Context) -> Result<(), Failure> {
    const SCRIPT: &str = "#!/bin/sh\ncase \"$*\" in *--version*) echo '0.0.0 (stand-in)'; exit 0 ;; esac\n\
         echo 'the last words of the stand-in' >&2\nexit 3\n";
    ended_with(&run_in(context, &replace_cli(SCRIPT)).await?, "execution_error", "the last words of the stand-in")
}
