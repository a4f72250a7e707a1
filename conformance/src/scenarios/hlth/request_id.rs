//! A request's id in the log.

use std::time::Duration;

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "HLTH-005",
    "The request id of a response finds one run's log lines, which name its workspace",
    "logs: structured, one line per event, request id and workspace id throughout",
    body!(one_request),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

async fn one_request(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = deployment.start(&conversation, "@say hello").await?;
    let id = stream.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    check(!id.is_empty(), "the answer has no X-Request-ID")?;
    stream.finish().await?;
    let room = deployment.only_room().await?.workspace.unwrap_or_default();

    let log = eventually(Duration::from_secs(10), "the run's end in the log", async || {
        let log = deployment.server()?.log();
        check(log.lines().any(|line| line.contains("run ended")), "no such line").map(|()| log)
    })
    .await?;
    let mut of_run = Vec::new();
    for line in log.lines() {
        let line: Value =
            serde_json::from_str(line).map_err(|_| Failure::assertion(format!("not a JSON line: {line}")))?;
        for field in ["timestamp", "level", "message"] {
            check(line[field].is_string(), format!("{field} of {line}"))?;
        }
        if line["span"]["request_id"] == *id || line["request_id"] == *id {
            of_run.push(line);
        }
    }
    let about = |message: &str| {
        let mut found = of_run.iter().filter(|line| line["message"] == message);
        found.next().ok_or_else(|| {
            Failure::mismatch(format!("\"{message}\" under request {id}"), "a line", format!("{of_run:?}"))
        })
    };
    about("run started")?;
    about("answered")?;
    about("workspace ready")?;
    for message in ["the run has a workspace", "run ended"] {
        let line = about(message)?;
        check_eq(format!("workspace in {line}"), line["span"]["workspace"].as_str(), Some(&*room))?;
    }
    let others = deployment.api.get("/api/models").await?.expect(200)?;
    check(others.header("x-request-id").is_some_and(|other| other != id), "another request has the same id")?;
    // The log lines of its model calls name the workspace, from which further lines are found.
    let is_call = |line: &&str| line.contains("\"egress\"") && line.contains(&room) && line.contains(&conversation.id);
    check(log.lines().any(|line| is_call(&line)), format!("no log line of a model call names workspace {room}"))
}
