//! Runs whose server has died, at another server of the deployment.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use crate::client::stream::{RunEvent, check_whole, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const NEEDS: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Redis,
    Capability::Postgres,
    Capability::Resume,
];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-016",
        "A run whose server was killed is taken over by another one: nothing is missing, and nothing is said twice",
        "the log is in PostgreSQL where configured, so that any server can answer",
        body!(taken_over),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(180),
    Scenario::new(
        "STATE-017",
        "What a killed server's run waits for is decided at another server at once, and the run ends there",
        "restarts and other servers keep them: an approval after a kill -9, answered on another server",
        body!(decided_elsewhere),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(180),
];

/// How long a run of a server that has died may stay without one.
const TAKEN_OVER: Duration = Duration::from_secs(60);

fn waits_for(file: &str, says: &str) -> String {
    let command = format!("while [ ! -e /workspace/{file} ]; do sleep 0.1; done; echo {says}");
    format!("@say Before.\n@tool Bash {}\n@say After.", json!({"command": command, "description": "Wait"}))
}

/// Starts a run that waits for a file, and returns its events until the tool is called.
async fn start(server: &Deployment, conversation: &Conversation, prompt: &str) -> Result<Vec<RunEvent>, Failure> {
    let mut stream = server.start(conversation, prompt).await?;
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await? {
        let called = event.name == "tool_call";
        seen.push(event);
        if called {
            return Ok(seen);
        }
    }
    check_eq("the last event before the run waits", names(&seen).as_str(), "tool_call")?;
    Ok(seen)
}

/// Reads the rest of a run from a server that may have to take it over.
async fn rest(server: &Deployment, conversation: &Conversation, seen: Vec<RunEvent>) -> Result<Vec<RunEvent>, Failure> {
    let all = Mutex::new(seen);
    let last = || all.lock().ok().and_then(|all| all.last().cloned());
    let (all, last) = (&all, &last);
    eventually(TAKEN_OVER, "the other server takes the run over and ends it", async || {
        let from = last().map(|event| event.id).unwrap_or_default();
        let events = server.follow(conversation, &from).await.map_err(|failure| failure.to_string())?;
        if let Ok(mut all) = all.lock() {
            all.extend(events);
        }
        match last() {
            Some(done) if done.name == "done" => Ok(()),
            other => Err(format!("the last event is {:?}", other.map(|event| event.id))),
        }
    })
    .await?;
    Ok(all.lock().map(|all| all.clone()).unwrap_or_default())
}

/// The events of one kind.
fn of<'e>(events: &'e [RunEvent], name: &str) -> Vec<&'e RunEvent> {
    events.iter().filter(|event| event.name == name).collect()
}

/// Two servers of a deployment with PostgreSQL.
async fn both(context: &Context) -> Result<(Deployment, Deployment), Failure> {
    let (redis, postgres) = (context.redis().await?, context.postgres().await?);
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("DATABASE_URL", postgres.url().await?);
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    Ok((first, second))
}

async fn decided_elsewhere(context: &Context) -> Result<(), Failure> {
    let (mut first, second) = both(context).await?;
    for (round, (decision, failed)) in [("allow", false), ("deny", true)].into_iter().enumerate() {
        if round > 0 {
            first.restart(context).await?;
        }
        let conversation = first.conversation(context).await?;
        let command = json!({"command": "echo once | tee -a times.txt", "description": "Do it"});
        let body = json!({"user_input": format!("@tool Bash {command}\n@say The end."),
            "configuration": {"permissions": {"ask": ["Bash"]}}});
        let mut stream = first.api.open_stream(&conversation.path("/stream"), &body).await?;
        let asked = stream.until("approval_required").await?;
        drop(stream);
        first.kill().await?;
        let id = asked.text("request_id");
        let path = conversation.path(&format!("/approvals/{id}"));
        second.api.post(&path, &json!({"decision": decision})).await?.expect(200)?;
        let seen = rest(&second, &conversation, vec![asked.clone()]).await?;
        check_eq("status", seen.last().map(|done| done.text("status")), Some("success"))?;
        let resolved: Vec<&str> = of(&seen, "approval_resolved").iter().map(|event| event.text("decision")).collect();
        check_eq("decisions in approval_resolved", resolved, vec![decision])?;
        let results: Vec<bool> = of(&seen, "tool_result").iter().map(|event| event.data["is_error"] == true).collect();
        check_eq("whether the tool has failed, for each result", results, vec![failed])?;
        check_eq("questions", of(&seen, "approval_required").len(), 1)?;
        let times = second.only_room().await?.shell("cat times.txt 2>/dev/null || true").await?;
        check_eq("times that the tool ran", times.printed.lines().count(), usize::from(!failed))?;
        second.api.post(&path, &json!({"decision": decision})).await?.expect(200)?;
        second.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    Ok(())
}

async fn taken_over(context: &Context) -> Result<(), Failure> {
    let (mut first, second) = both(context).await?;
    let conversation = first.conversation(context).await?;
    let word = context.unique("word");
    let seen = start(&first, &conversation, &waits_for("go", &word)).await?;
    let room = first.only_room().await?;
    first.kill().await?;
    // What clients have seen the other server can tell at once.
    let run = seen.last().and_then(|event| event.id.rsplit_once(':')).map_or("", |(run, _)| run).to_owned();
    let mut told = second.api.follow_stream(&conversation.path("/stream"), &format!("{run}:0")).await?;
    for expected in &seen {
        check_eq("an event that a client has seen, at the other server", told.next().await?.as_ref(), Some(expected))?;
    }
    drop(told);
    let busy = second.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
    busy.expect_error(409, "RESOURCE_LOCKED")?;
    room.shell("touch /workspace/go").await?;
    let seen = rest(&second, &conversation, seen).await?;
    check_eq("status", seen.last().map(|done| done.text("status")), Some("success"))?;
    check_whole(&seen)?;
    check_eq("workspaces", second.rooms().await?.len(), 1)?;

    // And back, without anybody who asks, with a message that waits.
    first.restart(context).await?;
    let mut seen = start(&second, &conversation, &waits_for("on", "on")).await?;
    let waits = json!({"user_input": format!("@recall {word}")});
    let sent = second.api.post(&conversation.path("/messages"), &waits).await?.expect(202)?.json()?;
    second.kill().await?;
    room.shell("touch /workspace/on").await?;
    let next = sent["run_id"].as_str().unwrap_or_default();
    let events = eventually(TAKEN_OVER, "the message that waited begins its run at the other server", async || {
        let events = first.follow(&conversation, &format!("{next}:0")).await.map_err(|failure| failure.to_string())?;
        match events.last() {
            Some(done) if done.name == "done" && done.id.starts_with(next) => Ok(events),
            other => Err(format!("the last event is {:?}", other.map(|event| event.id.clone()))),
        }
    })
    .await?;
    check_eq(
        "what the model was sent",
        events.last().map(|done| done.text("result")),
        Some(format!("{word}: remembered").as_str()),
    )?;
    let log = first.api.get(&conversation.path("/log?limit=1000")).await?.expect(200)?.json()?;
    let run = seen.pop().map(|event| event.id).unwrap_or_default();
    let run = run.rsplit_once(':').map_or("", |(run, _)| run);
    let mut entries = log["entries"].as_array().into_iter().flatten().filter(|entry| entry["run_id"] == run);
    let last = entries.next_back().map(|entry| (entry["type"].clone(), entry["data"]["status"].clone()));
    check_eq("the end of the run before, in the log", last, Some((json!("done"), json!("success"))))
}
