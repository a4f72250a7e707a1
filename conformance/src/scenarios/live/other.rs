//! Drivers that are not the usual one: one of another kind, which calls no model, one of another version, and one that is slow to end.

use std::time::Duration;

use serde_json::json;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIVE-030",
        "A driver of another kind goes the same way: turns, consent, interruption, one process, a restart",
        "whatever is special to one driver is behind a small interface; a second, trivial driver proves it",
        body!(another_kind),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-031",
        "A CLI of a version that was not tested serves turns; the log warns of it once, and each turn is counted",
        "the CLI range that is supported is stated; another version is told",
        body!(untested_version),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-032",
        "A driver that is given up has its input closed, and time to write what it has to before it is killed",
        "ended cleanly: one that has waited too long, or beyond the most that may; its last writes are whole",
        body!(ended_cleanly),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(150),
];

/// A version of the CLI that there will never be.
const FAR: &str = "999.1.0";
/// Counts turns of a version that was not tested.
const UNTESTED: &str = "driver_untested_turns_total";

/// Processes that the agent, the container's first process, has started.
async fn drivers(room: &Room) -> Result<Vec<String>, Failure> {
    let found = room.shell("pgrep -P 1 || true").await?;
    Ok(found.printed.lines().map(str::trim).filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect())
}

fn said(events: &[RunEvent]) -> Vec<String> {
    let texts = events.iter().filter(|event| event.name == "assistant");
    texts.filter_map(|event| event.data["content_blocks"][0]["text"].as_str().map(ToOwned::to_owned)).collect()
}

async fn another_kind(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new().set("DRIVER", "script")).await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let first = deployment.run_well(&conversation, &format!("{word}\n@pieces 3 0.01\nThe end.")).await?;
    check_eq("what was said", said(&first), vec![word, "The end.".to_owned()])?;
    let init = first.iter().find(|event| event.name == "init");
    let session = init.map(|init| init.text("session_id").to_owned()).unwrap_or_default();
    check(!session.is_empty(), format!("init without a session: {init:?}"))?;
    let pieces = first.iter().filter(|event| event.name == "text_delta").count();
    check_eq("fragments of text", pieces, 5)?;
    let room = deployment.only_room().await?;
    let driver = drivers(&room).await?;
    check_eq("drivers after the first turn", driver.len(), 1)?;

    // What it asks is asked of people, and their answer reaches it.
    let mut stream = deployment.start(&conversation, "@ask May I?").await?;
    let asked = stream.until("approval_required").await?;
    let path = conversation.path(&format!("/approvals/{}", asked.text("request_id")));
    deployment.api.post(&path, &json!({"decision": "deny", "message": "Not now."})).await?.expect(200)?;
    check_eq("what was said after a refusal", said(&stream.finish().await?), vec!["Not now.".to_owned()])?;

    let mut stream = deployment.start(&conversation, "@wait\nnever said").await?;
    stream.until("init").await?;
    deployment.api.post(&conversation.path("/interrupt"), &json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    check_eq("status of an interrupted turn", events.last().map(|done| done.text("status")), Some("cancelled"))?;
    check_eq("what an interrupted turn has said", said(&events), Vec::<String>::new())?;
    check_eq("drivers after the interruption", drivers(&room).await?, driver.clone())?;

    // A server that is killed in the middle of a turn leaves it to the next one.
    let mut stream = deployment.start(&conversation, "@pieces 30 0.2\nThe end.").await?;
    let seen = stream.until("text_delta").await?;
    deployment.kill().await?;
    drop(stream);
    deployment.restart(context).await?;
    let rest = deployment.follow(&conversation, &seen.id).await?;
    check_eq("what was said after the restart", said(&rest), vec!["The end.".to_owned()])?;
    let pieces = rest.iter().filter(|event| event.name == "text_delta").count();
    check_eq("fragments of text after the first", pieces, 30)?;
    let last = deployment.run_well(&conversation, "Again.").await?;
    let init = last.iter().find(|event| event.name == "init");
    check_eq("the session of the last turn", init.map(|init| init.text("session_id")), Some(session.as_str()))?;
    check_eq("drivers after the restart", drivers(&room).await?, driver)
}

/// Makes the CLI report another version than it has when it begins a turn.
fn of_version(version: &str) -> String {
    format!(
        "cli=\"$(readlink -f \"$(command -v claude)\")\"; good=\"$(dirname \"$cli\")/good-$(basename \"$cli\")\"; mv \"$cli\" \"$good\"\n\
         printf '#!/bin/bash\\ngood=%s\\n' \"$good\" > \"$cli\"\n\
         cat >> \"$cli\" <<'END'\n\
         exec \"$good\" \"$@\" > >(exec sed -u 's/\"claude_code_version\":\"[^\"]*\"/\"claude_code_version\":\"{version}\"/')\n\
         END\n\
         chmod 755 \"$cli\""
    )
}

async fn untested_version(context: &Context) -> Result<(), Failure> {
    let image = context.derived_image(&of_version(FAR)).await?;
    for (image, version) in [(None, None), (Some(image), Some(FAR))] {
        // A process that waits would lose what rewrites its output.
        let mut launch = Launch::new().set("DRIVER_KEEP_ALIVE", "0");
        if let Some(image) = image {
            launch = launch.set("CONTAINER_IMAGE", image);
        }
        let deployment = context.launch(launch).await?;
        let conversation = deployment.conversation(context).await?;
        for turn in 1..=2_u32 {
            deployment.run_well(&conversation, "@say hello").await?;
            let counted = deployment.api.metrics().await?.sum(UNTESTED);
            let expected = version.map_or(0.0, |_| f64::from(turn));
            check_eq(format!("{UNTESTED} after turn {turn} of {version:?}"), counted, Some(expected))?;
        }
        let log = deployment.server()?.log();
        let told = log.lines().filter(|line| line.contains("not tested with") && line.contains("\"version\""));
        let told: Vec<&str> = told.collect();
        check_eq(format!("warnings of {version:?} in the log: {told:?}"), told.len(), usize::from(version.is_some()))?;
        check(version.is_none_or(|version| told[0].contains(version)), format!("the version is not in {told:?}"))?;
    }
    Ok(())
}

/// Lines that a driver writes when its input has ended, one after the other.
const LAST_LINES: usize = 5;

/// Makes bash write its last lines into a file of its home directory where it is the driver, which takes it half of the second that it has.
fn slow_to_end() -> String {
    format!(
        "mv /bin/bash /bin/bash.real\n\
         cat > /bin/bash <<'END'\n\
         #!/bin/bash.real\n\
         [ \"$3\" != driver ] || export BASH_ENV=/usr/local/share/last-lines\n\
         exec /bin/bash.real \"$@\"\n\
         END\n\
         chmod 755 /bin/bash\n\
         cat > /usr/local/share/last-lines <<'END'\n\
         trap 'for line in {{1..{LAST_LINES}}}; do echo \"$line\"; sleep 0.1; done > ~/last' EXIT\n\
         END"
    )
}

/// Waits until the driver of a workspace is gone, and checks that it has written all of its last lines.
async fn has_ended_cleanly(room: &Room, why: &str) -> Result<(), Failure> {
    eventually(Duration::from_secs(30), format!("the end of a driver {why}"), async || {
        let left = drivers(room).await.map_err(|failure| failure.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await?;
    has_written_all(room, why).await
}

/// Checks that a driver has written all of its last lines.
async fn has_written_all(room: &Room, why: &str) -> Result<(), Failure> {
    let written = room.shell("cat ~/last").await?.printed;
    let expected: Vec<String> = (1..=LAST_LINES).map(|line| line.to_string()).collect();
    check_eq(format!("the last lines of a driver {why}"), written.lines().collect::<Vec<_>>(), expected)
}

async fn ended_cleanly(context: &Context) -> Result<(), Failure> {
    let image = context.derived_image(&slow_to_end()).await?;
    let launch = || Launch::new().set("DRIVER", "script").set("CONTAINER_IMAGE", &image);
    let deployment = context.launch(launch().set("DRIVER_KEEP_ALIVE", "3s")).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "One.").await?;
    let room = deployment.only_room().await?;
    check_eq("drivers that wait", drivers(&room).await?.len(), 1)?;
    has_ended_cleanly(&room, "that has waited too long").await?;

    let deployment = context.launch(launch().set("DRIVER_KEEP_ALIVE_MAX", 1)).await?;
    let first = deployment.conversation(context).await?;
    deployment.run_well(&first, "One.").await?;
    let room = deployment.only_room().await?;
    check_eq("drivers that wait", drivers(&room).await?.len(), 1)?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    deployment.run_well(&second, "Two.").await?;
    has_ended_cleanly(&room, "in whose place another one waits").await?;

    // Another driver takes its place in the same workspace.
    let deployment = context.launch(launch()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "One.").await?;
    let room = deployment.only_room().await?;
    check_eq("drivers that wait", drivers(&room).await?.len(), 1)?;
    let body = json!({"user_input": "Two.", "configuration": {"tools": {"allowed": ["Read"]}}});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await?;
    has_written_all(&room, "in whose place another one works").await?;

    let deployment = context.launch(launch().set("DRIVER_KEEP_ALIVE", "0")).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "One.").await?;
    let room = deployment.only_room().await?;
    check_eq("drivers after a run whose driver may not wait", drivers(&room).await?.len(), 0)?;
    has_ended_cleanly(&room, "that may not wait").await
}
