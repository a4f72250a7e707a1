//! Decisions about tools.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::asked::{decide, of, resolution, script, start, status, tool_result, waiting};
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::trail;
use crate::target::launch::Launch;

/// The operator's key of the deployment that has keys.
const OPERATOR: &str = "operators-key-0123456789-0123456789-012345";
/// How long until an event is in the audit trail.
const RECORDED_LIMIT: Duration = Duration::from_secs(10);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "APPR-001",
        "A tool that needs consent runs once somebody has allowed it, with the arguments that were allowed",
        "approval_required; POST …/approvals/{id} {decision: allow, updated_input?}; the tool runs, approval_resolved",
        body!(allowed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "APPR-002",
        "A tool that is denied does not run; the model is told why, and the run goes on",
        "{decision: deny, message?}: the model gets the message as the tool's error",
        body!(denied),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "APPR-003",
        "A decision that nobody makes in time is a refusal, and the time until then is not the run's",
        "APPROVAL_TIMEOUT denies; time in which only people are waited for does not count for the run's limit",
        body!(nobody_decides),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "APPR-004",
        "The same decision again is answered alike, another one refused; other tenants and unknown ids get 404",
        "answered twice: the same 200, a different one 409; by the wrong tenant 404",
        body!(decided_twice),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "APPR-005",
        "Several decisions wait at once and are made in any order; each tool is treated as was decided about it",
        "several pending at once: one, several, partial",
        body!(several_at_once),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

async fn allowed(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script("echo ran as asked > asked; echo said")).await?;
    let asked = stream.until("approval_required").await?;
    let id = asked.text("request_id").to_owned();
    check_eq("tool_name", asked.text("tool_name"), "Bash")?;
    check(asked.data["input"]["command"].as_str().is_some_and(|c| c.contains("ran as asked")), format!("{asked:?}"))?;
    check(!asked.text("tool_use_id").is_empty() && !asked.text("expires_at").is_empty(), format!("{asked:?}"))?;
    check_eq("ids in the list", waiting(&deployment, &conversation).await?, vec![id.clone()])?;
    // The control: nothing runs before somebody has decided.
    let room = deployment.only_room().await?;
    check_eq("files before the decision", room.shell("ls /workspace").await?.printed.trim(), "")?;
    let instead = json!({"command": "echo other > other; echo changed", "description": "Do it"});
    let answer =
        decide(&deployment, &conversation, &id, &json!({"decision": "allow", "updated_input": instead})).await?;
    let answer = answer.expect(200)?.json()?;
    check_eq("decision in the answer", answer["decision"].as_str(), Some("allow"))?;
    check(
        answer["by"].as_str().is_some_and(|by| !by.is_empty()),
        format!("the answer does not say who decides: {answer}"),
    )?;
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "allow".to_owned())?;
    let result = tool_result(&events)?;
    check(result.text("content").contains("changed"), format!("what the tool printed: {result:?}"))?;
    check_eq("files after the run", room.shell("ls /workspace").await?.printed.trim(), "other")?;
    check_eq("ids in the list after the run", waiting(&deployment, &conversation).await?, Vec::<String>::new())?;
    // Where no rule asks, nothing is asked.
    let free = deployment.run_well(&conversation, &script("echo free")).await?;
    check(!free.iter().any(|event| event.name == "approval_required"), "a run without the rule asks as well")
}

async fn denied(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    context.secrets().add(OPERATOR);
    let launch = Launch::new().set("AUDIT_LOG", trail.display()).set("API_KEYS", OPERATOR);
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script("echo ran > ran")).await?;
    let id = stream.until("approval_required").await?.text("request_id").to_owned();
    // Somebody else than whoever has started the run.
    let keys = format!("/api/tenants/{}/keys", conversation.tenant);
    let created = json!({"name": "the chief", "scopes": ["approve"]});
    let created = deployment.api.post(&keys, &created).await?.expect(201)?.json()?;
    let (key, key_id) = (created["key"].as_str().unwrap_or_default(), created["key_id"].as_str());
    context.secrets().add(key);
    check(key_id.is_some_and(|id| !id.is_empty()), "the key has no id")?;
    let why = context.unique("not on a Monday");
    let decision = json!({"decision": "deny", "message": why});
    let path = conversation.path(&format!("/approvals/{id}"));
    let answer = deployment.api.with_key(Some(key)).post(&path, &decision).await?.expect(200)?.json()?;
    check_eq("who has decided, in the answer", answer["by"].as_str(), key_id)?;
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "deny".to_owned())?;
    let told = of(&events, "approval_resolved").first().map(|event| event.text("by"));
    check_eq("who has decided, in approval_resolved", told, key_id)?;
    let result = tool_result(&events)?;
    check(result.data["is_error"] == true && result.text("content").contains(&why), format!("{result:?}"))?;
    let recorded = recorded(&trail, &id).await?;
    for (field, value) in [("decision", "deny"), ("conversation", &*conversation.id), ("tenant", &*conversation.tenant)]
    {
        check_eq(format!("{field} in the trail: {recorded}"), recorded[field].as_str(), Some(value))?;
    }
    check_eq(format!("who has decided, in the trail: {recorded}"), recorded["by"].as_str(), key_id)?;
    check(!recorded.to_string().contains(&why), format!("what the model was told is in the trail: {recorded}"))?;
    check_eq("files", deployment.only_room().await?.shell("ls /workspace").await?.printed.trim(), "")
}

/// The line of the audit trail about this decision.
async fn recorded(trail: &Path, id: &str) -> Result<Value, Failure> {
    eventually(RECORDED_LIMIT, format!("a line about {id} in the audit trail"), async || {
        let entries = trail::entries(trail)?;
        let entry = entries.iter().find(|entry| entry["event"] == "approval" && entry["approval"] == id);
        entry.cloned().ok_or_else(|| Failure::assertion(format!("{entries:?}")))
    })
    .await
}

async fn nobody_decides(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("APPROVAL_TIMEOUT", "16s").set("CONTAINER_EXECUTION_TIMEOUT", "60");
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let configuration = json!({"permissions": {"ask": ["Bash"]}, "limits": {"run_seconds": 15}});
    let body = json!({"user_input": script("echo ran > ran"), "configuration": configuration});
    let stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
    let events = stream.finish().await?;
    check_eq("status of a run that may take 15 s and waited 16 s for people", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "timeout".to_owned())?;
    check_eq("is_error of the tool's result", &tool_result(&events)?.data["is_error"], &json!(true))?;
    let asked = of(&events, "approval_required");
    let id = asked.first().map(|asked| asked.text("request_id")).unwrap_or_default();
    decide(&deployment, &conversation, id, &json!({"decision": "allow"})).await?.expect_error(409, "CONFLICT")?;
    check_eq("files", deployment.only_room().await?.shell("ls /workspace").await?.printed.trim(), "")
}

async fn decided_twice(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let stranger = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script("echo done")).await?;
    let id = stream.until("approval_required").await?.text("request_id").to_owned();
    let allow = json!({"decision": "allow"});
    for (who, id) in [(&stranger, id.as_str()), (&conversation, "unknown")] {
        decide(&deployment, who, id, &allow).await?.expect(404)?;
    }
    let elsewhere = format!("/api/tenants/{}/conversations/{}/approvals/{id}", stranger.tenant, conversation.id);
    deployment.api.post(&elsewhere, &allow).await?.expect(404)?;
    for bad in [
        json!({"decision": "perhaps"}),
        json!({"decision": "allow", "message": "x"}),
        json!({"decision": "deny", "updated_input": {}}),
    ] {
        decide(&deployment, &conversation, &id, &bad).await?.expect(422)?;
    }
    check_eq("ids in the list", waiting(&deployment, &conversation).await?, vec![id.clone()])?;
    for _ in 0..2 {
        decide(&deployment, &conversation, &id, &allow).await?.expect(200)?;
    }
    decide(&deployment, &conversation, &id, &json!({"decision": "deny"})).await?.expect_error(409, "CONFLICT")?;
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "allow".to_owned())?;
    // Also after the run has ended.
    decide(&deployment, &conversation, &id, &allow).await?.expect(200)?;
    decide(&deployment, &conversation, &id, &json!({"decision": "deny"})).await?.expect_error(409, "CONFLICT")
}

async fn several_at_once(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    // Calls that only read: drivers make others one after the other.
    let words = ["one", "two", "three"].map(|word| context.unique(word));
    let call = |word: &String| json!({"command": format!("echo {word}"), "description": "Say it"});
    let [one, two, three] = &words;
    let prompt =
        format!("@also Bash {}\n@also Bash {}\n@tool Bash {}\n@say The end.", call(one), call(two), call(three));
    let mut stream = start(&deployment, &conversation, &prompt).await?;
    let mut came = Vec::new();
    for _ in &words {
        came.push(stream.until("approval_required").await?);
    }
    // In the order of the calls, whichever came first.
    let mut asked = Vec::new();
    for word in &words {
        let of_this = |event: &&RunEvent| event.data["input"]["command"] == json!(format!("echo {word}"));
        asked.extend(came.iter().find(of_this).cloned());
    }
    check_eq("commands that are asked about", asked.len(), words.len())?;
    let ids: Vec<String> = asked.iter().map(|event| event.text("request_id").to_owned()).collect();
    let listed = async || waiting(&deployment, &conversation).await.map(BTreeSet::from_iter);
    check_eq("ids in the list", listed().await?, BTreeSet::from_iter(ids.clone()))?;
    // The last one first, and not all alike. What is decided does not wait for what is not.
    for (at, decision) in [(2, "allow"), (1, "deny"), (0, "allow")] {
        decide(&deployment, &conversation, &ids[at], &json!({"decision": decision})).await?.expect(200)?;
        check_eq("ids in the list after a decision", listed().await?, BTreeSet::from_iter(ids[..at].to_vec()))?;
        let resolved = stream.until("approval_resolved").await?;
        check_eq("id in approval_resolved", resolved.text("request_id"), ids[at].as_str())?;
        check_eq("decision in approval_resolved", resolved.text("decision"), decision)?;
    }
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    for (event, (word, allowed)) in asked.iter().zip(words.iter().zip([true, false, true])) {
        let of_this = |result: &&&RunEvent| result.text("tool_use_id") == event.text("tool_use_id");
        let results = of(&events, "tool_result");
        let result = results.iter().find(of_this).ok_or_else(|| Failure::assertion(format!("no result of {word}")))?;
        check_eq(format!("whether {word} has failed"), result.data["is_error"] == true, !allowed)?;
        check_eq(format!("whether {word} was said"), result.text("content").contains(word), allowed)?;
    }
    Ok(())
}
