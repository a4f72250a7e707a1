//! Runs that wait while something happens to them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::asked::{decide, resolution, script, start, status, tool_result, waiting};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

/// How long the run may take, people not counted.
const LONGEST_RUN: Duration = Duration::from_secs(15);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "APPR-010",
        "What a run waits for survives the death of its server, and so does a decision",
        "restarts keep open approvals, and their answers are written before they are delivered",
        body!(server_killed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "APPR-011",
        "A run that is cancelled or loses its workspace withdraws what it waited for, and says so",
        "cancel withdraws; a room that is lost withdraws them and says so",
        body!(withdrawn),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "APPR-012",
        "A decision that was answered 200, and did not reach the driver before the server died, is delivered once",
        "open approvals and their answers are in the log before they are delivered",
        body!(undelivered),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "APPR-013",
        "A workspace whose run waits for people is neither reclaimed nor paused, however long it has been idle",
        "a waiting room is not reclaimed or paused away",
        body!(not_reclaimed),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

/// Length of arguments that do not fit into what the kernel and the protocol hold for a workspace that reads nothing.
const TOO_LONG_TO_WAIT: usize = 2 << 20;

async fn server_killed(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    // The tool goes on until it is told to end, so that the run is still in progress when the server is killed again.
    let command = "until [ -e go ]; do sleep 0.1; done; echo it ran";
    let configuration = json!({"permissions": {"ask": ["Bash"]}, "limits": {"run_seconds": LONGEST_RUN.as_secs()}});
    let body = json!({"user_input": script(command), "configuration": configuration});
    let mut stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
    let asked = stream.until("approval_required").await?;
    let id = asked.text("request_id").to_owned();
    drop(stream);
    let began = Instant::now();
    eventually(LONGEST_RUN * 2, "people have been waited for longer than the run may take", async || {
        let waited = began.elapsed();
        if waited > LONGEST_RUN { Ok(()) } else { Err(format!("{waited:?}")) }
    })
    .await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    eventually(Duration::from_secs(20), "the restarted server lists what the run waits for", async || {
        let waiting = waiting(&deployment, &conversation).await.map_err(|failure| failure.to_string())?;
        if waiting == [id.clone()] { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await?;
    decide(&deployment, &conversation, &id, &json!({"decision": "allow"})).await?.expect(200)?;
    let mut stream = deployment.api.follow_stream(&conversation.path("/stream"), &asked.id).await?;
    stream.until("approval_resolved").await?;
    drop(stream);
    deployment.kill().await?;
    deployment.restart(context).await?;
    decide(&deployment, &conversation, &id, &json!({"decision": "allow"})).await?.expect(200)?;
    decide(&deployment, &conversation, &id, &json!({"decision": "deny"})).await?.expect(409)?;
    deployment.only_room().await?.shell("touch /workspace/go").await?;
    let events = deployment.follow(&conversation, &asked.id).await?;
    check_eq("status of a run that did not work as long as it waited", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "allow".to_owned())?;
    check(tool_result(&events)?.text("content").contains("it ran"), "the tool did not run")?;
    check(!events.iter().any(|event| event.name == "approval_required"), "it is asked twice")?;

    // A decision that counts and has not been delivered: its workspace does not move.
    let mut stream = start(&deployment, &conversation, &script("echo it ran later")).await?;
    let asked = stream.until("approval_required").await?;
    drop(stream);
    let room = deployment.only_room().await?;
    room.pause().await?;
    decide(&deployment, &conversation, asked.text("request_id"), &json!({"decision": "allow"})).await?.expect(200)?;
    deployment.kill().await?;
    room.unpause().await?;
    deployment.restart(context).await?;
    let events = deployment.follow(&conversation, &asked.id).await?;
    check_eq(
        "decision in approval_resolved, made before the server was killed",
        resolution(&events)?,
        "allow".to_owned(),
    )?;
    check_eq("status", status(&events), "success")?;
    check(tool_result(&events)?.text("content").contains("it ran later"), "the tool did not run")
}

async fn withdrawn(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    for how in ["/cancel", "/interrupt", "lost"] {
        let lost = how == "lost";
        let conversation = deployment.conversation(context).await?;
        let mut stream = start(&deployment, &conversation, &script("echo never")).await?;
        let id = stream.until("approval_required").await?.text("request_id").to_owned();
        if lost {
            for room in deployment.rooms().await? {
                room.kill("SIGKILL").await?;
            }
        } else {
            deployment.api.post(&conversation.path(how), &json!({})).await?.expect(202)?;
        }
        let events = stream.finish().await.map_err(|failure| failure.during(how))?;
        check_eq("decision in approval_resolved", resolution(&events)?, "withdrawn".to_owned())?;
        check_eq("status", status(&events), if lost { "error" } else { "cancelled" })?;
        check_eq("what the run waits for", waiting(&deployment, &conversation).await?, Vec::<String>::new())?;
        decide(&deployment, &conversation, &id, &json!({"decision": "allow"})).await?.expect_error(409, "CONFLICT")?;
        deployment.run_well(&conversation, "@say and on we go").await?;
    }
    Ok(())
}

async fn undelivered(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script("echo never")).await?;
    let asked = stream.until("approval_required").await?;
    let id = asked.text("request_id").to_owned();
    drop(stream);
    let room = deployment.only_room().await?;
    // Not all of the decision has left the server when that dies, because the workspace's agent reads nothing.
    room.kill("SIGSTOP").await?;
    let input = json!({"command": "echo once | tee -a times.txt", "description": "x".repeat(TOO_LONG_TO_WAIT)});
    let decision = json!({"decision": "allow", "updated_input": input});
    let decided = decide(&deployment, &conversation, &id, &decision).await;
    let killed = deployment.kill().await;
    room.kill("SIGCONT").await?;
    decided?.expect(200)?;
    killed?;
    deployment.restart(context).await?;
    check_eq("what the restarted server waits for", waiting(&deployment, &conversation).await?, Vec::<String>::new())?;
    let events = deployment.follow(&conversation, &asked.id).await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "allow".to_owned())?;
    check_eq("what the tool printed", tool_result(&events)?.text("content").trim(), "once")?;
    let times = room.shell("cat times.txt").await?;
    check_eq("times that the tool ran", times.printed.trim(), "once")
}

/// Idle time after which a workspace is taken down, in seconds.
const TTL: u64 = 2;
/// Collections while a run waits. The first of them come before the time is up.
const COLLECTIONS: f64 = 8.0;

async fn not_reclaimed(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("CONTAINER_TTL", TTL).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script("echo it ran")).await?;
    let id = stream.until("approval_required").await?.text("request_id").to_owned();
    let room = deployment.only_room().await?;
    let began = deployment.metric("workspace_gc_cycles_total", |_| true, Duration::from_secs(10)).await?;
    let passed = |cycles: f64| cycles >= began + COLLECTIONS;
    deployment.metric("workspace_gc_cycles_total", passed, Duration::from_secs(30)).await?;
    check_eq("the workspace of a run that waits", &deployment.only_room().await?.id, &room.id)?;
    check(room.is_running().await?, "the workspace of a run that waits does not run")?;
    decide(&deployment, &conversation, &id, &json!({"decision": "allow"})).await?.expect(200)?;
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    check_eq("what the tool printed", tool_result(&events)?.text("content").trim(), "it ran")?;
    // The control: once nothing waits, it goes.
    eventually(Duration::from_secs(30), "the idle workspace is taken down", async || {
        let left = deployment.rooms().await.map_err(|failure| failure.to_string())?.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} workspaces")) }
    })
    .await
}
