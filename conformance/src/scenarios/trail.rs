//! What is kept of what happened: the audit trail (SEC), and the log (HLTH).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::launch::Launch;

/// A tenant's key, and an operator's.
const OURS: &str = "ours-key-0123456789abcdef";
const OPERATOR: &str = "operators-key-0123456789";
const NEEDS: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Admin,
];

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "SEC-010",
    title: "the audit trail tells of rooms, runs, egress and operators' actions, each once, and is only appended to",
    severity: Severity::High,
    requirement: "audit trail: append-only JSON lines; room created, destroyed, crashed; egress; run started and ended; operator's action",
    requires: NEEDS,
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(whole_trail),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    SCENARIO,
    Scenario {
        id: "SEC-011",
        title: "an audit trail that cannot be written stops no run: what is lost is counted, and told once; at the start it is an error",
        requirement: "a full disk under the audit trail: decided, logged, documented",
        body: body!(unwritable),
        ..SCENARIO
    },
    Scenario {
        id: "HLTH-005",
        title: "one run's lines in the log are found by the request id of its answer, and tell its room",
        requirement: "logs: structured, one line per event, request id and workspace id throughout",
        body: body!(one_request),
        ..SCENARIO
    },
];

/// Every line of a trail, each an object with a time and an event.
fn lines(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = std::fs::read_to_string(path)?;
    let parsed = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).map_err(|error| Failure::assertion(format!("{error}: {line}")))?;
        let stamp = value["timestamp"].as_str().unwrap_or_default();
        check(stamp.ends_with('Z') && stamp.parse::<jiff::Timestamp>().is_ok(), format!("timestamp of {line}"))?;
        check(value["event"].is_string(), format!("event of {line}"))?;
        Ok(value)
    });
    parsed.collect()
}

async fn whole_trail(context: &Context) -> Result<(), Failure> {
    let (path, tenant) = (context.dir().join("trail.jsonl"), context.unique("ours"));
    [OURS, OPERATOR].iter().for_each(|key| context.secrets().add(key));
    let launch = Launch::new().set("AUDIT_LOG", path.display()).set("API_KEYS", format!("{OPERATOR},{tenant}:{OURS}"));
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let any = deployment.conversation(context).await?;
    deployment.api.post("/api/tenants", &json!({"tenant_id": tenant, "model_id": any.model})).await?.expect(201)?;
    let conversation = deployment.another_conversation(context, &tenant, &any.model).await?;

    let command = "curl -s -o /dev/null -w '%{http_code}' 'http://denied.example/private-path?token=private-word'; echo";
    let tool = json!({"command": command, "description": "Ask for what is not allowed"});
    let ask = json!({"user_input": format!("@tool Bash {tool}\n@say done"), "executor": {"user_id": "ada"}});
    let stream = deployment.api.open_stream(&conversation.path("/stream"), &ask).await?;
    let request_id = stream.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let events = stream.finish().await?;
    let run = events.first().map_or("", |event| event.id.split(':').next().unwrap_or_default()).to_owned();
    let first_room = deployment.only_room().await?.workspace.unwrap_or_default();

    // A run whose room is lost under it.
    let wait = json!({"command": "tail -f /dev/null", "description": "Wait"});
    let mut stream = deployment.start(&conversation, &format!("@tool Bash {wait}\n@say never said")).await?;
    stream.until("tool_call").await?;
    deployment.only_room().await?.kill("SIGKILL").await?;
    let lost = stream.finish().await?;
    check_eq("status of a run whose room was killed", lost.last().map(|done| done.text("status")), Some("error"))?;
    // What an operator does, and what one tries who is none.
    deployment.api.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 3})).await?.expect(200)?;
    let tenants = deployment.api.with_key(Some(OURS));
    tenants.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 9})).await?.expect_error(403, "FORBIDDEN")?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    deployment.stop().await?;

    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    check_eq("mode of the trail", format!("{mode:o}"), "600")?;
    let trail = lines(&path)?;
    let of = |event: &str| trail.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let only = |event: &str, field: &str, value: &str| match of(event).into_iter().filter(|line| line[field] == value).collect::<Vec<_>>()[..] {
        [line] => Ok(line),
        ref other => Err(Failure::mismatch(format!("{event} with {field} {value}"), "one line", format!("{other:?} in {trail:?}"))),
    };
    let belongs = |line: &Value| {
        check_eq(format!("tenant of {line}"), line["tenant"].as_str(), Some(&*tenant))?;
        check_eq(format!("conversation of {line}"), line["conversation"].as_str(), Some(&*conversation.id))
    };
    let started = only("run_started", "run", &run)?;
    belongs(started)?;
    check_eq("user of the run", started["user"].as_str(), Some("ada"))?;
    check_eq("request of the run", started["request_id"].as_str(), Some(&*request_id))?;
    let ended = only("run_ended", "run", &run)?;
    belongs(ended)?;
    check_eq("room of the run", ended["workspace"].as_str(), Some(&*first_room))?;
    check_eq("status of the run", ended["status"].as_str(), Some("success"))?;
    for event in ["room_created", "room_crashed", "room_destroyed"] {
        belongs(only(event, "workspace", &first_room)?)?;
    }
    check_eq("rooms destroyed", of("room_destroyed").len(), of("room_created").len())?;
    check_eq("reason of the last", only("room_destroyed", "reason", "deletion")?["tenant"].as_str(), Some(&*tenant))?;
    let denied = only("egress", "host", "denied.example")?;
    belongs(denied)?;
    check_eq("decision on what is not allowed", denied["decision"].as_str(), Some("denied"))?;
    check(of("egress").iter().any(|line| line["decision"] == "allowed"), "no call of the model is in the trail")?;
    let pool: Vec<_> = of("operator").into_iter().filter(|line| line["path"] == "/api/admin/pool").collect();
    check_eq(format!("changes of the pool: {pool:?}"), pool.len(), 2)?;
    check(pool[0]["status"] == 200 && pool[0]["key"] == 1 && pool[0]["tenant"].is_null(), format!("{}", pool[0]))?;
    check(pool[1]["status"] == 403 && pool[1]["key"] == 2 && pool[1]["tenant"] == *tenant, format!("{}", pool[1]))?;
    let text = std::fs::read_to_string(&path)?;
    for word in ["private-path", "private-word", OURS, OPERATOR] {
        check(!text.contains(word), format!("{word} is in the trail"))?;
    }

    deployment.start_again(context).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    deployment.api.post("/api/admin/gc", &json!({})).await?.expect(200)?;
    deployment.stop().await?;
    let more = std::fs::read_to_string(&path)?;
    check(more.starts_with(&text) && more.len() > text.len(), "a restart has not just appended to the trail")
}

async fn unwritable(context: &Context) -> Result<(), Failure> {
    // A disk that is always full.
    let deployment = context.launch(Launch::new().set("AUDIT_LOG", "/dev/full")).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say hello").await?;
    let lost = deployment.metric("workspace_audit_lines_lost_total", |lost| lost >= 3.0, Duration::from_secs(10)).await?;
    deployment.run_well(&conversation, "@say again").await?;
    deployment.metric("workspace_audit_lines_lost_total", |more| more > lost, Duration::from_secs(10)).await?;
    let log = deployment.server()?.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("audit trail cannot be written")).collect();
    check_eq(format!("times it is told: {told:?}"), told.len(), 1)?;
    deployment.stop().await?;

    let mut program = deployment.server()?.command(["serve"]);
    program.env.insert("AUDIT_LOG".to_owned(), context.dir().join("no-such-directory/trail").display().to_string());
    let output = program.output(&context.run.id, Duration::from_secs(20)).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    check_eq(format!("status of a start without a place for the trail: {told}"), output.status.code(), Some(69))?;
    check(told.contains("AUDIT_LOG"), format!("the variable is not named: {told}"))
}

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
        let line: Value = serde_json::from_str(line).map_err(|_| Failure::assertion(format!("not a JSON line: {line}")))?;
        for field in ["timestamp", "level", "message"] {
            check(line[field].is_string(), format!("{field} of {line}"))?;
        }
        if line["span"]["request_id"] == *id || line["request_id"] == *id {
            of_run.push(line);
        }
    }
    let about = |message: &str| {
        let mut found = of_run.iter().filter(|line| line["message"] == message);
        found.next().ok_or_else(|| Failure::mismatch(format!("\"{message}\" under request {id}"), "a line", format!("{of_run:?}")))
    };
    about("run started")?;
    about("answered")?;
    about("room ready")?;
    for message in ["the run has a room", "run ended"] {
        let line = about(message)?;
        check_eq(format!("room in {line}"), line["span"]["workspace"].as_str(), Some(&*room))?;
    }
    let others = deployment.api.get("/api/models").await?.expect(200)?;
    check(others.header("x-request-id").is_some_and(|other| other != id), "another request has the same id")?;
    // Its calls of the model tell the room, from which the rest is found.
    let is_call = |line: &&str| line.contains("\"egress\"") && line.contains(&room) && line.contains(&conversation.id);
    check(log.lines().any(|line| is_call(&line)), format!("no call of the model tells room {room}"))
}
