//! What is asked and what is decided, whole: in events, in the list, in answers and in the trail.

use std::path::Path;

use serde_json::{Value, json};

use crate::client::stream::{EventStream, RunEvent};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const OPERATOR: &str = "operators-key-0123456789";
/// How long is waited for people, in seconds.
const PATIENCE: i64 = 600;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "APPR-030",
    "Consent, question and request are told whole and alike in event, list, answer and trail, with who decided",
    "approval_required, question, tool_request and what resolves them; GET …/approvals; approval in the trail",
    body!(told),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin])
.limit(90)];

/// Something that a run asks, and what is decided about it.
struct Asked {
    /// The driver's call, and how the run is begun.
    prompt: String,
    further: Value,
    /// The event, the kind in the list, and the event that resolves it.
    event: &'static str,
    kind: &'static str,
    resolved: &'static str,
    /// The tool and its input, as they are told.
    tool: &'static str,
    input: Value,
    /// Where and how it is decided, and how that is called.
    route: &'static str,
    decision: Value,
    word: &'static str,
    /// What the model is told that is told to clients as well.
    message: Option<&'static str>,
    /// Whether somebody with a key of the tenant's decides, or an operator.
    by_tenant: bool,
}

fn all() -> Vec<Asked> {
    let bash = json!({"command": "echo seen", "description": "Look"});
    let ask = json!({"configuration": {"permissions": {"ask": ["Bash"]}}});
    let option = |label: &str| json!({"label": label, "description": label});
    let question = json!({"questions": [{"question": "Which colour?", "header": "Colour", "multiSelect": false,
        "options": [option("Red"), option("Blue")]}]});
    let price = json!({"name": "price", "description": "The price of an item",
        "input_schema": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}});
    let plum = json!({"item": "plum"});
    let consent = |decision: Value, word, message, by_tenant| Asked {
        prompt: format!("@tool Bash {bash}\n@say The end."),
        further: ask.clone(),
        event: "approval_required",
        kind: "approval",
        resolved: "approval_resolved",
        tool: "Bash",
        input: bash.clone(),
        route: "approvals",
        decision,
        word,
        message,
        by_tenant,
    };
    vec![
        consent(json!({"decision": "allow"}), "allow", None, false),
        consent(json!({"decision": "deny", "message": "Not today."}), "deny", Some("Not today."), true),
        Asked {
            prompt: format!("@tool AskUserQuestion {question}\n@say The end."),
            further: json!({"configuration": {"permissions": {"questions": true}}}),
            event: "question",
            kind: "question",
            tool: "AskUserQuestion",
            input: question,
            decision: json!({"decision": "allow", "answers": {"Which colour?": "Blue"}}),
            ..consent(json!({}), "allow", None, true)
        },
        Asked {
            prompt: format!("@tool mcp__client__price {plum}\n@say The end."),
            further: json!({"client_tools": [price]}),
            event: "tool_request",
            kind: "tool_request",
            resolved: "tool_request_resolved",
            tool: "price",
            input: plum,
            route: "tool-results",
            decision: json!({"content": "3", "is_error": false}),
            word: "answered",
            ..consent(json!({}), "", None, false)
        },
    ]
}

/// The event's own fields.
fn own(event: &RunEvent) -> Value {
    let mut own = event.data.clone();
    if let Some(fields) = own.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "seq" | "timestamp"));
    }
    own
}

/// The event of what is asked, which must be whole, and listed alike.
async fn asked(
    deployment: &Deployment,
    of: &Conversation,
    stream: &mut EventStream,
    asked: &Asked,
) -> Result<RunEvent, Failure> {
    let call = stream.until("tool_call").await?;
    let event = stream.until(asked.event).await?;
    let mut expected = json!({"request_id": event.data["request_id"], "tool_use_id": call.data["tool_use_id"],
        "tool_name": asked.tool, "input": asked.input, "expires_at": event.data["expires_at"]});
    if let Some(title) = event.data.get("title") {
        check(title.is_string(), format!("title: {}", event.data))?;
        expected["title"] = title.clone();
    }
    check_eq(format!("the event {}", asked.event), &own(&event), &expected)?;
    let moment = |field: &str| {
        let time = event.text(field).parse::<jiff::Timestamp>();
        time.map_err(|_| Failure::assertion(format!("{field} of {}", event.data)))
    };
    let left = moment("expires_at")?.duration_since(moment("timestamp")?).as_secs();
    check((PATIENCE - 5..=PATIENCE).contains(&left), format!("seconds until it is decided without anybody: {left}"))?;
    expected["kind"] = json!(asked.kind);
    let listed = deployment.api.get(&of.path("/approvals")).await?.expect(200)?.json()?;
    check_eq(format!("the list during a {}", asked.kind), listed, json!({"approvals": [expected]}))?;
    Ok(event)
}

async fn told(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    context.secrets().add(OPERATOR);
    let launch = Launch::new().set("AUDIT_LOG", trail.display()).set("API_KEYS", OPERATOR);
    let mut deployment = context.launch(launch.set("APPROVAL_TIMEOUT", PATIENCE)).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let conversation = deployment.conversation(context).await?;
    let keys = format!("/api/tenants/{}/keys", conversation.tenant);
    let made = json!({"name": "the chief", "scopes": ["approve", "run"]});
    let made = deployment.api.post(&keys, &made).await?.expect(201)?.json()?;
    let key = made["key"].as_str().unwrap_or("none");
    context.secrets().add(key);
    let chief = deployment.api.with_key(Some(key));
    for one in all() {
        let mut body = json!({"user_input": one.prompt});
        for (name, value) in one.further.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let mut stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
        let event = asked(&deployment, &conversation, &mut stream, &one).await?;
        let id = event.text("request_id").to_owned();
        let (api, by) =
            if one.by_tenant { (&chief, made["key_id"].clone()) } else { (&deployment.api, json!("API_KEYS:1")) };
        let path = conversation.path(&format!("/{}/{id}", one.route));
        let word = if one.route == "approvals" { "decision" } else { "outcome" };
        let answer = api.post(&path, &one.decision).await?.expect(200)?.json()?;
        check_eq(
            format!("the answer about a {}", one.kind),
            &answer,
            &json!({"request_id": id, word: one.word, "by": by}),
        )?;
        // The same again, whoever sends it, is answered as the first.
        let again = deployment.api.post(&path, &one.decision).await?.expect(200)?.json()?;
        check_eq(format!("the same again about a {}", one.kind), again, answer)?;
        let events = stream.finish().await?;
        let resolved: Vec<Value> = events.iter().filter(|event| event.name == one.resolved).map(own).collect();
        let mut expected = json!({"request_id": id, word: one.word, "by": by});
        if let Some(message) = one.message {
            expected["message"] = json!(message);
        }
        check_eq(format!("the events {}", one.resolved), resolved, vec![expected])?;
        check_eq("status", events.last().map(|done| done.text("status")), Some("success"))?;
        let after = deployment.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
        check_eq("the list after the run", after, json!({"approvals": []}))?;
        let run = event.id.rsplit_once(':').map_or("", |(run, _)| run);
        let expected = json!({"event": "approval", "conversation": conversation.id, "tenant": conversation.tenant, "run": run,
            "approval": id, "decision": one.word, "by": by});
        recorded(&trail, run, expected)?;
    }
    Ok(())
}

/// The trail has one line about the decision, with the run's workspace.
fn recorded(trail: &Path, run: &str, mut expected: Value) -> Result<(), Failure> {
    let text = std::fs::read_to_string(trail)?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let workspace = lines.iter().find(|line| line["event"] == "run_ended" && line["run"] == run);
    expected["workspace"] = workspace.map(|line| line["workspace"].clone()).unwrap_or_default();
    check(expected["workspace"].is_string(), format!("the end of {run} is not in the trail: {text}"))?;
    let mut own: Vec<Value> =
        lines.into_iter().filter(|line| line["event"] == "approval" && line["run"] == run).collect();
    for line in &mut own {
        line.as_object_mut().map(|fields| fields.remove("timestamp"));
    }
    check_eq("what the trail says about the decision", own, vec![expected])
}
