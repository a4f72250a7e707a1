//! A tenant that has something of everything, every operation of the description, and what all of them that read something answer.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::client::http::Api;
use crate::client::stream::EventStream;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::scenarios::common::outside::bedrock;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::{Launch, REGION};

/// A launch with vaults, and with a host for their credentials.
pub(crate) fn with_vaults(context: &Context) -> Result<Launch, Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let allowed = format!("{},bedrock.{REGION}.amazonaws.com,nowhere.test", bedrock());
    Ok(Launch::new().set("VAULT_KEY_FILE", key.display()).set("PROXY_ALLOWED_DOMAINS", allowed))
}

/// Something of everything that a tenant can have, and a run in progress that waits for consent.
pub(crate) struct Everything {
    pub(crate) conversation: Conversation,
    /// The values of the parameters in paths.
    pub(crate) ids: BTreeMap<&'static str, String>,
    /// The run in progress.
    pub(crate) run: EventStream,
}

fn text(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or_default().to_owned()
}

/// A directive of the model's script that runs a shell line.
fn bash(line: &str) -> String {
    format!("@tool Bash {}", json!({"command": line, "description": "Work"}))
}

/// Gives a conversation's tenant something of everything.
pub(crate) async fn everything(deployment: &Deployment, conversation: Conversation) -> Result<Everything, Failure> {
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
        ("model_id", conversation.model.clone()),
        ("conversation_id", conversation.id.clone()),
        ("vault_id", vault),
        ("credential_id", text(&made, "credential_id")),
        ("key_id", text(&key, "key_id")),
        ("name", "pricing".to_owned()),
        ("approval_id", asked.clone()),
        ("request_id", asked),
    ]);
    Ok(Everything { conversation, ids, run })
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

/// An operation of the description.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The route, as the description spells it.
    pub(crate) template: String,
    /// The path, with a query where one is needed.
    pub(crate) path: String,
    /// A valid body, if this module knows one.
    pub(crate) body: Option<String>,
}

/// Every described operation whose parameters all have a value here. Below a tenant none may be unknown.
pub(crate) async fn operations(api: &Api, ids: &BTreeMap<&'static str, String>) -> Result<Vec<Operation>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let bodies = bodies();
    let mut operations = Vec::new();
    for (template, item) in description["paths"].as_object().into_iter().flatten() {
        let path = ids.iter().fold(template.clone(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id));
        let is_tenants = template.contains("{tenant_id}");
        if path.contains('{') {
            check(!is_tenants, format!("{template} has a parameter that the suite does not know"))?;
            continue;
        }
        for method in item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let method: Method = method.parse().map_err(Failure::harness)?;
            let known = bodies.iter().find(|(end, of, _)| template.ends_with(end) && *of == method);
            let takes_one = matches!(method, Method::POST | Method::PUT | Method::PATCH);
            check(known.is_some() || !takes_one || !is_tenants, format!("{method} {template} has no body here"))?;
            let path = format!("{path}{}", query(template, &method));
            let body = known.map(|(_, _, body)| body.to_string());
            operations.push(Operation { method, template: template.clone(), path, body });
        }
    }
    Ok(operations)
}

/// What all operations that read something answer. What changes by itself is left out, and so are streams, files and what says how the
/// server is.
pub(crate) async fn reads(api: &Api, operations: &[Operation]) -> Result<Vec<(String, Value)>, Failure> {
    let mut seen = Vec::new();
    let wanted = operations.iter().filter(|one| {
        one.method == Method::GET && one.template.starts_with("/api/") && {
            let end = one.template.rsplit('/').next().unwrap_or_default();
            !matches!(end, "stream" | "download")
        }
    });
    for Operation { template, path, .. } in wanted {
        let mut answer = api.get(path).await?.expect(200)?.json()?;
        if template.ends_with("/log")
            && let Some(entries) = answer["entries"].as_array_mut()
        {
            entries.retain(|entry| !matches!(entry["type"].as_str(), Some("ping" | "progress")));
        }
        let all =
            if answer.is_array() { answer.as_array_mut().into_iter().flatten().collect() } else { vec![&mut answer] };
        for one in all.into_iter().filter_map(Value::as_object_mut) {
            for by_itself in ["last_used_at", "idle_seconds"] {
                one.remove(by_itself);
            }
        }
        seen.push((path.clone(), answer));
    }
    Ok(seen)
}
