//! Whose a resource is: every operation below a tenant, asked by another tenant about things that are there.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::keys::{OPERATOR, OURS, THEIRS, with_keys};
use crate::client::http::Api;
use crate::client::stream::EventStream;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::outside::bedrock;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::{Launch, REGION};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-011",
        "On every route of a tenant, another tenant's key is answered with 404 and changes nothing",
        "a tenant's key on another tenant's path gets 404, as if it were not there",
        body!(tenant_isolation),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "API-017",
        "A tenant that is inactive begins no run, however it asks, and may again once it is active",
        "a tenant's status: inactive accepts no runs",
        body!(inactive),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN),
];

/// Something of everything that a tenant can have, and a run in progress that waits for consent.
struct Victim {
    conversation: Conversation,
    /// The values of the parameters in paths.
    ids: BTreeMap<&'static str, String>,
    run: EventStream,
}

fn text(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or_default().to_owned()
}

/// A directive of the model's script that runs a shell line.
fn bash(line: &str) -> String {
    format!("@tool Bash {}", json!({"command": line, "description": "Work"}))
}

async fn victim(deployment: &Deployment, conversation: Conversation) -> Result<Victim, Failure> {
    let api = &deployment.api;
    let of = format!("/api/tenants/{}", conversation.tenant);
    let vault = api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let vault = text(&vault, "vault_id");
    let credential = json!({"name": "key", "purpose": {"host": "nowhere.test", "when": "always"},
        "auth": {"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": "a-secret-of-theirs"}});
    let made = api.post(&format!("{of}/vaults/{vault}/credentials"), &credential).await?.expect(201)?.json()?;
    let key = json!({"name": "theirs", "scopes": ["read"]});
    let key = api.post(&format!("{of}/keys"), &key).await?.expect(201)?.json()?;
    let manifest = "---\nname: pricing\ndescription: Prices of a shop\n---\nAsk.\n";
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"SKILL.md\"\r\n\r\n{manifest}\r\n--b--\r\n"
    );
    let skill = format!("{of}/skills/pricing");
    api.upload_as(&skill, "multipart/form-data; boundary=b", form.into()).await?.expect(201)?;
    let configured = json!({"version": 0, "configuration": {"egress": {"deny": ["denied.test"]}}});
    for of in [&of, &conversation.path("")] {
        api.put(&format!("{of}/configuration"), &configured).await?.expect(200)?;
    }
    let made_file = format!("{}\n@say Done.", bash("mkdir -p outputs && echo theirs > outputs/theirs.txt"));
    deployment.run_well(&conversation, &made_file).await?;
    let asks = json!({"user_input": format!("{}\n@say Done.", bash("echo asked > asked.txt")),
        "configuration": {"permissions": {"ask": ["Bash"]}}});
    let mut run = api.open_stream(&conversation.path("/stream"), &asks).await?;
    let asked = run.until("approval_required").await?.text("request_id").to_owned();
    api.post(&conversation.path("/messages"), &json!({"user_input": "@say Later."})).await?.expect(202)?;
    let ids = BTreeMap::from([
        ("tenant_id", conversation.tenant.clone()),
        ("conversation_id", conversation.id.clone()),
        ("vault_id", vault),
        ("credential_id", text(&made, "credential_id")),
        ("key_id", text(&key, "key_id")),
        ("name", "pricing".to_owned()),
        ("approval_id", asked.clone()),
        ("request_id", asked),
    ]);
    Ok(Victim { conversation, ids, run })
}

/// The body, valid or none, of each operation below a tenant that takes one; the first part is the end of its path.
fn bodies() -> Vec<(&'static str, Method, Value)> {
    let key = json!({"name": "mine", "scopes": ["read"]});
    let configuration = json!({"version": 1, "configuration": {"egress": {"deny": ["changed.test"]}}});
    let credential = json!({"name": "mine", "purpose": {"host": "nowhere.test", "when": "always"},
        "auth": {"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": "guessed-it-is"}});
    let input = json!({"user_input": "@say Mine."});
    vec![
        ("{tenant_id}", Method::PUT, json!({"system_prompt": "Mine."})),
        ("/keys", Method::POST, key.clone()),
        ("{key_id}", Method::PUT, json!({"name": "renamed"})),
        ("/rotate", Method::POST, json!({"overlap_seconds": 0})),
        ("/conversations", Method::POST, json!({"user_id": "mine"})),
        ("{conversation_id}", Method::PUT, json!({"title": "Mine"})),
        ("/archive", Method::POST, json!({})),
        ("/messages", Method::POST, input.clone()),
        ("/stream", Method::POST, input),
        ("/cancel", Method::POST, json!({})),
        ("/interrupt", Method::POST, json!({})),
        ("{approval_id}", Method::POST, json!({"decision": "allow"})),
        ("{request_id}", Method::POST, json!({"content": "mine"})),
        ("/files", Method::PUT, json!("mine")),
        ("/configuration", Method::PUT, configuration),
        ("{name}", Method::PUT, json!({})),
        ("/vaults", Method::POST, json!({"name": "mine"})),
        ("/credentials", Method::POST, credential.clone()),
        ("{credential_id}", Method::PUT, credential),
    ]
}

/// What an operation's query must have.
fn query(template: &str, method: &Method) -> &'static str {
    match template.rsplit('/').next().unwrap_or_default() {
        "download" => "?path=outputs/theirs.txt",
        "files" if *method != Method::GET => "?path=outputs/theirs.txt",
        "explain" => "?url=http://nowhere.test/",
        _ => "",
    }
}

/// An operation below a tenant: method, template, path for these ids, body.
type Operation = (Method, String, String, Option<String>);

/// Every described operation below a tenant.
async fn operations(api: &Api, ids: &BTreeMap<&'static str, String>) -> Result<Vec<Operation>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let bodies = bodies();
    let mut operations = Vec::new();
    for (template, item) in description["paths"].as_object().into_iter().flatten() {
        if !template.contains("{tenant_id}") {
            continue;
        }
        let filled = ids.iter().fold(template.clone(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id));
        check(!filled.contains('{'), format!("{template} has a parameter that this scenario does not know"))?;
        for method in item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let method: Method = method.parse().map_err(Failure::harness)?;
            let known = bodies.iter().find(|(end, of, _)| template.ends_with(end) && *of == method);
            let takes_one = matches!(method, Method::POST | Method::PUT | Method::PATCH);
            check(known.is_some() || !takes_one, format!("{method} {template} has no body in this scenario"))?;
            let path = format!("{filled}{}", query(template, &method));
            operations.push((method, template.clone(), path, known.map(|(_, _, body)| body.to_string())));
        }
    }
    check(operations.len() > 40, format!("{} operations name a tenant", operations.len()))?;
    Ok(operations)
}

/// What the owner can read of all that there is. What changes by itself is left out.
async fn seen(owner: &Api, operations: &[Operation]) -> Result<Vec<(String, Value)>, Failure> {
    let mut seen = Vec::new();
    let mine = operations.iter().filter(|(method, template, ..)| {
        *method == Method::GET && !template.ends_with("/stream") && !template.ends_with("/download")
    });
    for (_, template, path, _) in mine {
        let mut answer = owner.get(path).await?.expect(200)?.json()?;
        let entries = answer.get_mut("entries").and_then(Value::as_array_mut).into_iter().flatten();
        let lasting: Vec<Value> =
            entries.filter(|entry| entry["type"] != "ping").map(|entry| entry["id"].take()).collect();
        if template.ends_with("/log") {
            answer = json!(lasting);
        }
        let keys =
            if answer.is_array() { answer.as_array_mut().into_iter().flatten().collect() } else { vec![&mut answer] };
        for key in keys.into_iter().filter_map(Value::as_object_mut) {
            key.remove("last_used_at");
        }
        seen.push((path.clone(), answer));
    }
    Ok(seen)
}

async fn tenant_isolation(context: &Context) -> Result<(), Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let allowed = format!("{},bedrock.{REGION}.amazonaws.com,nowhere.test", bedrock());
    let launch = Launch::new().set("VAULT_KEY_FILE", key.display()).set("PROXY_ALLOWED_DOMAINS", allowed);
    let (deployment, theirs, ours) = with_keys(context, launch).await?;
    let victim = victim(&deployment, theirs).await?;
    let (intruder, owner) = (deployment.api.with_key(Some(OURS)), deployment.api.with_key(Some(THEIRS)));
    let operations = operations(&deployment.api, &victim.ids).await?;
    // The control: each tenant sees its own, and there is something to see.
    let before = seen(&owner, &operations).await?;
    intruder.get(&format!("/api/tenants/{ours}")).await?.expect(200)?;
    for (path, answer) in &before {
        let empty = answer.as_array().is_some_and(Vec::is_empty) || *answer == json!({"approvals": []});
        check(!empty, format!("{path} has nothing to hide: {answer}"))?;
    }
    for (method, template, path, body) in &operations {
        let reply = intruder.send(method.clone(), path, body.as_deref(), &[]).await?;
        reply.expect_error(404, "NOT_FOUND")?;
        // What is the other tenant's, on a path of the intruder's own tenant. A skill has no id: its name may be the intruder's, too.
        let disguised = path.replacen(&victim.conversation.tenant, &ours, 1);
        let names_one = template.matches('{').count() > 1 && !(template.ends_with("{name}") && *method == Method::PUT);
        if names_one {
            let reply = intruder.send(method.clone(), &disguised, body.as_deref(), &[]).await?;
            reply
                .expect_error(404, "NOT_FOUND")
                .map_err(|failure| failure.during("another tenant's thing on one's own path"))?;
        }
    }
    let after = seen(&owner, &operations).await?;
    for ((path, before), (_, after)) in before.iter().zip(&after) {
        check_eq(format!("what the other tenant has at {path}, afterwards"), after, before)?;
    }
    // Its run still waits, and goes on when its own tenant decides.
    let decided = victim.conversation.path(&format!("/approvals/{}", victim.ids["approval_id"]));
    owner.post(&decided, &json!({"decision": "allow"})).await?.expect(200)?;
    let events = victim.run.finish().await?;
    check_eq("status of the other tenant's run", events.last().map(|done| done.text("status")), Some("success"))
}

async fn inactive(context: &Context) -> Result<(), Failure> {
    let (deployment, conversation, _) = with_keys(context, Launch::new()).await?;
    let (operator, tenant) = (deployment.api.with_key(Some(OPERATOR)), deployment.api.with_key(Some(THEIRS)));
    let of = format!("/api/tenants/{}", conversation.tenant);
    let input = json!({"user_input": "@say Here."});
    let become_ = async |status: &str| operator.put(&of, &json!({"status": status})).await?.expect(200).map(drop);
    become_("inactive").await?;
    for api in [&tenant, &operator] {
        for path in ["/stream", "/messages"] {
            api.post(&conversation.path(path), &input).await?.expect_error(422, "VALIDATION_ERROR")?;
        }
    }
    // What it has stays readable.
    tenant.get(&conversation.path("/messages")).await?.expect(200)?;
    check_eq("workspaces of an inactive tenant", deployment.all_rooms().await?.len(), 0)?;
    become_("active").await?;
    let events = tenant.open_stream(&conversation.path("/stream"), &input).await?.finish().await?;
    check_eq(
        "status of a run of the tenant, active again",
        events.last().map(|done| done.text("status")),
        Some("success"),
    )
}
