//! The audit trail.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::trail;
use crate::target::launch::Launch;

/// A tenant's key, and an operator's.
const OURS: &str = "ours-key-0123456789abcdef";
const OPERATOR: &str = "operators-key-0123456789";
const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "SEC-010",
        "The audit trail records workspaces, runs, egress and operators' actions once each, and is append-only",
        "append-only JSON lines: workspace created, destroyed, crashed; egress; run started, ended; operator action",
        body!(whole_trail),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "SEC-011",
        "An audit trail that cannot be written stops no run: losses are counted and logged; at start it is an error",
        "a full disk under the audit trail: decided, logged, documented",
        body!(unwritable),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

/// Parses every line of a trail, each an object with a timestamp and an event.
fn lines(path: &Path) -> Result<Vec<Value>, Failure> {
    let entries = trail::entries(path)?;
    for entry in &entries {
        let stamp = entry["timestamp"].as_str().unwrap_or_default();
        check(stamp.ends_with('Z') && stamp.parse::<jiff::Timestamp>().is_ok(), format!("timestamp of {entry}"))?;
        check(entry["event"].is_string(), format!("event of {entry}"))?;
    }
    Ok(entries)
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

    let command =
        "curl -s -o /dev/null -w '%{http_code}' 'http://denied.example/private-path?token=private-word'; echo";
    let tool = json!({"command": command, "description": "Ask for what is not allowed"});
    let ask = json!({"user_input": format!("@tool Bash {tool}\n@say done"), "executor": {"user_id": "ada"}});
    let stream = deployment.api.open_stream(&conversation.path("/stream"), &ask).await?;
    let request_id = stream.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let events = stream.finish().await?;
    let run = events.first().map_or("", |event| event.id.split(':').next().unwrap_or_default()).to_owned();
    let first_room = deployment.only_room().await?.workspace.unwrap_or_default();

    // Files that somebody puts into the workspace, takes out of it and deletes.
    let file = conversation.path("/files?path=theirs.txt");
    deployment.api.upload(&file, "twelve bytes".into()).await?.expect(204)?;
    deployment.api.get(&conversation.path("/files/download?path=theirs.txt")).await?.expect(200)?;
    deployment.api.delete(&file).await?.expect(204)?;

    // A run that loses its workspace.
    let wait = json!({"command": "tail -f /dev/null", "description": "Wait"});
    let mut stream = deployment.start(&conversation, &format!("@tool Bash {wait}\n@say never said")).await?;
    stream.until("tool_call").await?;
    deployment.only_room().await?.kill("SIGKILL").await?;
    let lost = stream.finish().await?;
    check_eq("status of a run whose workspace was killed", lost.last().map(|done| done.text("status")), Some("error"))?;
    // An action of an operator, and an attempt without an operator's key.
    deployment.api.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 3})).await?.expect(200)?;
    let tenants = deployment.api.with_key(Some(OURS));
    tenants.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 9})).await?.expect_error(403, "FORBIDDEN")?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    deployment.stop().await?;

    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    check_eq("mode of the trail", format!("{mode:o}"), "600")?;
    let trail = lines(&path)?;
    let of = |event: &str| trail.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let only = |event: &str, field: &str, value: &str| match of(event)
        .into_iter()
        .filter(|line| line[field] == value)
        .collect::<Vec<_>>()[..]
    {
        [line] => Ok(line),
        ref other => Err(Failure::mismatch(
            format!("{event} with {field} {value}"),
            "one line",
            format!("{other:?} in {trail:?}"),
        )),
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
    check_eq("workspace of the run", ended["workspace"].as_str(), Some(&*first_room))?;
    check_eq("status of the run", ended["status"].as_str(), Some("success"))?;
    let reported = events.last().map(|done| done.data["usage"].clone()).unwrap_or_default();
    let [total, output] = ["total_tokens", "output_tokens"].map(|field| reported[field].as_u64().unwrap_or(0));
    let recorded = ["input_tokens", "output_tokens"].map(|field| ended[field].as_u64());
    check_eq(format!("tokens of the run, which reported {reported}"), recorded, [Some(total - output), Some(output)])?;
    let files: Vec<_> = of("file").into_iter().filter(|line| line["path"] == "theirs.txt").collect();
    check_eq(format!("uploads, downloads and deletions of a file: {files:?}"), files.len(), 3)?;
    for line in &files {
        belongs(line)?;
    }
    check_eq(
        "bytes of the upload and the download",
        (&files[0]["bytes"], &files[1]["bytes"]),
        (&json!(12), &json!(12)),
    )?;
    for event in ["room_created", "room_crashed", "room_destroyed"] {
        belongs(only(event, "workspace", &first_room)?)?;
    }
    check_eq("workspaces destroyed", of("room_destroyed").len(), of("room_created").len())?;
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

    deployment.restart(context).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    deployment.api.post("/api/admin/gc", &json!({})).await?.expect(200)?;
    deployment.stop().await?;
    let more = std::fs::read_to_string(&path)?;
    check(more.starts_with(&text) && more.len() > text.len(), "a restart did not only append to the trail")
}

async fn unwritable(context: &Context) -> Result<(), Failure> {
    // `/dev/full` behaves like a full disk.
    let deployment = context.launch(Launch::new().set("AUDIT_LOG", "/dev/full")).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say hello").await?;
    let lost =
        deployment.metric("workspace_audit_lines_lost_total", |lost| lost >= 3.0, Duration::from_secs(10)).await?;
    deployment.run_well(&conversation, "@say again").await?;
    deployment.metric("workspace_audit_lines_lost_total", |more| more > lost, Duration::from_secs(10)).await?;
    let log = deployment.server()?.log();
    let reports: Vec<_> = log.lines().filter(|line| line.contains("audit trail cannot be written")).collect();
    check_eq(format!("times the loss is logged: {reports:?}"), reports.len(), 1)?;
    deployment.stop().await?;

    let mut program = deployment.server()?.command(Act::Serve)?;
    program.env.insert("AUDIT_LOG".to_owned(), context.dir().join("no-such-directory/trail").display().to_string());
    let output = program.output(&context.run.id, Duration::from_secs(20)).await?;
    let reports = String::from_utf8_lossy(&output.stderr).into_owned();
    check_eq(format!("status of a start without a place for the trail: {reports}"), output.status.code(), Some(69))?;
    check(reports.contains("AUDIT_LOG"), format!("the setting is not named: {reports}"))
}
