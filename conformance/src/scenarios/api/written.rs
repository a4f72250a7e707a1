//! What is written is read back, one field at a time.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::outside::bedrock;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-022",
        "What is created is read back as it was sent; a change changes its field alone, and the time of the change",
        "PUT: absent fields stay; alone and in the list alike",
        body!(field_by_field),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin])
    .limit(60),
    Scenario::new(
        "API-023",
        "What is in use cannot be deleted, nor can what does not exist, and lists have the order that is documented",
        "409 CONFLICT while it is used; 404 NOT_FOUND",
        body!(used_and_gone),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin])
    .limit(60),
];

/// A resource that is changed.
struct Resource<'a> {
    api: &'a Api,
    path: String,
    /// The list that has it, and the field of its id.
    list: (String, &'static str),
}

/// Whether the first was changed after the second.
fn later(first: &Value, second: &Value) -> Result<bool, Failure> {
    let changed = |of: &Value| of["updated_at"].as_str().unwrap_or_default().parse::<Timestamp>();
    Ok(changed(first).map_err(Failure::assertion)? > changed(second).map_err(Failure::assertion)?)
}

impl Resource<'_> {
    /// Sends each change, one after the other; each must change its own fields, the time of the change, and nothing else.
    async fn changes(&self, changes: &[Value]) -> Result<(), Failure> {
        let mut before = self.api.get(&self.path).await?.expect(200)?.json()?;
        for change in changes {
            let answer = self.api.put(&self.path, change).await?.expect(200)?.json()?;
            let mut expected = before.clone();
            for (field, value) in change.as_object().into_iter().flatten() {
                expected[field] = value.clone();
            }
            if expected["updated_at"].is_string() {
                check(later(&answer, &before)?, format!("updated_at after {change}: {answer}, before it: {before}"))?;
                expected["updated_at"] = answer["updated_at"].clone();
            }
            check_eq(format!("{} after {change}", self.path), &answer, &expected)?;
            before = self.api.get(&self.path).await?.expect(200)?.json()?;
            check_eq(format!("{} when it is read after {change}", self.path), &before, &answer)?;
            let (list, id) = &self.list;
            let listed = items(self.api, list).await?.into_iter().find(|one| one[*id] == before[*id]);
            check_eq(format!("{} in {list} after {change}", self.path), listed, Some(answer))?;
        }
        Ok(())
    }
}

/// The items of a list or page.
async fn items(api: &Api, list: &str) -> Result<Vec<Value>, Failure> {
    let list = api.get(list).await?.expect(200)?.json()?;
    Ok(list.as_array().or_else(|| list["items"].as_array()).cloned().unwrap_or_default())
}

/// The ids in a list or page, in its order.
async fn ids(api: &Api, list: &str, id: &str) -> Result<Vec<String>, Failure> {
    let items = items(api, list).await?;
    Ok(items.iter().map(|one| one[id].as_str().unwrap_or("?").to_owned()).collect())
}

/// Creates something, which must have what was sent.
async fn created(api: &Api, path: &str, body: &Value) -> Result<Value, Failure> {
    let answer = api.post(path, body).await?.expect(201)?.json()?;
    for (field, value) in body.as_object().into_iter().flatten() {
        check_eq(format!("{field} in {answer}"), &answer[field], value)?;
    }
    Ok(answer)
}

fn model(id: &str) -> Value {
    json!({"model_id": id, "display_name": format!("The {id}"), "bedrock_model_id": format!("vendor.{id}-v1:0"),
        "model_region": "us-east-1", "context_window": 123_456, "max_output_tokens": 4_321,
        "input_token_price": "0.0012", "output_token_price": "0.0345"})
}

async fn launched(context: &Context) -> Result<Deployment, Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let launch = Launch::new().without_model().without_waiting();
    let launch = launch.set("RATE_LIMIT_REQUESTS", 0).set("VAULT_KEY_FILE", key.display());
    context.launch(launch.set("PROXY_ALLOWED_DOMAINS", format!("{},a.example,b.example", bedrock()))).await
}

async fn field_by_field(context: &Context) -> Result<(), Failure> {
    let deployment = launched(context).await?;
    let api = &deployment.api;
    let resource = |path: &str, list: &str, id| Resource { api, path: path.to_owned(), list: (list.to_owned(), id) };
    for id in ["one", "two"] {
        created(api, "/api/models", &model(id)).await?;
    }
    resource("/api/models/two", "/api/models", "model_id")
        .changes(&[
            json!({"display_name": "Another"}),
            json!({"bedrock_model_id": "vendor.other-v1:0", "provider_model_id": "vendor.other-v1:0"}),
            json!({"context_window": 7}),
            json!({"max_output_tokens": 8}),
            json!({"input_token_price": "0.5"}),
            json!({"output_token_price": "0.25"}),
            json!({"status": "deprecated"}),
            json!({"status": "active"}),
            json!({}),
        ])
        .await?;
    let mut elsewhere = model("elsewhere");
    elsewhere["provider"] = json!("anthropic");
    elsewhere["provider_model_id"] = elsewhere["bedrock_model_id"].take();
    elsewhere.as_object_mut().map(|fields| fields.remove("bedrock_model_id"));
    let refused = api.post("/api/models", &elsewhere).await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;
    check(refused.text().contains("model_region"), format!("a region of the Messages API: {}", refused.text()))?;
    created(api, "/api/tenants", &json!({"tenant_id": "t", "model_id": "one", "system_prompt": "Be brief."})).await?;
    created(api, "/api/tenants", &json!({"tenant_id": "u"})).await?;
    resource("/api/tenants/t", "/api/tenants", "tenant_id")
        .changes(&[
            json!({"system_prompt": "Be long."}),
            json!({"model_id": "two"}),
            json!({"status": "inactive"}),
            json!({"status": "active"}),
            json!({}),
        ])
        .await?;
    let list = "/api/tenants/t/conversations";
    let own = created(api, list, &json!({"user_id": "ada", "model_id": "one", "workspace_enabled": false})).await?;
    let other = created(api, list, &json!({"user_id": "bob"})).await?;
    check_eq(
        "what a conversation has by default",
        (&other["workspace_enabled"], &other["model_id"]),
        (&json!(true), &json!("two")),
    )?;
    check(own["session_id"] != other["session_id"], format!("two conversations have one session: {own}"))?;
    let path = format!("{list}/{}", own["conversation_id"].as_str().unwrap_or("?"));
    resource(&path, list, "conversation_id")
        .changes(&[
            json!({"title": "A title"}),
            json!({"title": ""}),
            json!({"model_id": "two"}),
            json!({"status": "archived"}),
            json!({"status": "active"}),
            json!({}),
        ])
        .await?;
    for (query, expected) in [("user_id=ada", 1), ("user_id=bob", 1), ("user_id=eve", 0), ("status=archived", 0)] {
        let found = items(api, &format!("{list}?{query}")).await?;
        check_eq(format!("conversations with {query}"), found.len(), expected)?;
    }
    keys(api).await?;
    vaults(api).await
}

async fn keys(api: &Api) -> Result<(), Failure> {
    let list = "/api/tenants/t/keys";
    let soon = "2199-01-31T12:00:00Z";
    let made = json!({"name": "a key", "scopes": ["run", "read"], "expires_at": soon});
    let key = created(api, list, &made).await?;
    created(api, list, &json!({"name": "b key", "scopes": ["files"]})).await?;
    let path = format!("{list}/{}", key["key_id"].as_str().unwrap_or("?"));
    let resource = Resource { api, path: path.clone(), list: (list.to_owned(), "key_id") };
    resource
        .changes(&[
            json!({"name": "another"}),
            json!({"scopes": ["read"]}),
            json!({"expires_at": null}),
            json!({"expires_at": "2198-01-31T12:00:00Z"}),
            json!({}),
        ])
        .await?;
    let past = json!({"expires_at": "2020-01-31T12:00:00Z"});
    for refused in [
        api.put(&path, &past).await?,
        api.post(&format!("{path}/rotate"), &json!({"overlap_seconds": 0, "expires_at": past["expires_at"]})).await?,
    ] {
        refused.expect_error(422, "VALIDATION_ERROR")?;
        check(refused.text().contains("expires_at"), refused.text())?;
    }
    // The new key has the lifetime of the old one, and the name.
    let rotated = api.post(&format!("{path}/rotate"), &json!({"overlap_seconds": 3_600})).await?.expect(201)?.json()?;
    let old = api.get(&path).await?.expect(200)?.json()?;
    check_eq("name and scopes of the new key", (&rotated["name"], &rotated["scopes"]), (&old["name"], &old["scopes"]))?;
    let end = rotated["expires_at"].as_str().unwrap_or_default();
    check(end.starts_with("219"), format!("the end of a key that replaces one that lived long: {rotated}"))?;
    let left = old["expires_at"].as_str().and_then(|end| end.parse::<jiff::Timestamp>().ok());
    let left = left.map(|end| end.duration_since(jiff::Timestamp::now()).as_secs());
    check(left.is_some_and(|left| (3_500..=3_600).contains(&left)), format!("what is left of the old key: {old}"))
}

async fn vaults(api: &Api) -> Result<(), Failure> {
    let vault = created(api, "/api/tenants/t/vaults", &json!({"name": "main"})).await?;
    let vault = format!("/api/tenants/t/vaults/{}", vault["vault_id"].as_str().unwrap_or("?"));
    let list = format!("{vault}/credentials");
    let purpose = json!({"host": "a.example", "methods": ["GET"], "paths": ["/v1"], "when": "always"});
    let body = json!({"name": "c", "purpose": purpose,
        "auth": {"type": "header", "name": "x-key", "template": "Key {}", "secret": "secret-0123456789"}});
    let answer = api.post(&list, &body).await?.expect(201)?.json()?;
    check_eq(
        format!("name and purpose in {answer}"),
        (&answer["name"], &answer["purpose"]),
        (&body["name"], &purpose),
    )?;
    let path = format!("{list}/{}", answer["credential_id"].as_str().unwrap_or("?"));
    check_eq("the new credential in the list", items(api, &list).await?, vec![answer.clone()])?;
    let opened = api.get(&vault).await?.expect(200)?.json()?;
    let mut changed = body.clone();
    changed["name"] = json!("d");
    changed["purpose"]["when"] = json!("run");
    changed["auth"] = json!({"type": "basic", "username": "ada", "password": "secret-9876543210"});
    let after = api.put(&path, &changed).await?.expect(200)?.json()?;
    check_eq(
        format!("the credential that was replaced: {after}"),
        (&after["name"], &after["purpose"], &after["credential_id"], &after["created_at"]),
        (&changed["name"], &changed["purpose"], &answer["credential_id"], &answer["created_at"]),
    )?;
    check(later(&after, &answer)?, format!("the time of its change: {after}"))?;
    check(after.to_string().contains("\"ada\""), format!("who it is for: {after}"))?;
    check_eq("the credentials in the list", items(api, &list).await?, vec![after])?;
    let touched = api.get(&vault).await?.expect(200)?.json()?;
    check(later(&touched, &opened)?, format!("the vault of a change: {touched}"))
}

async fn used_and_gone(context: &Context) -> Result<(), Failure> {
    let deployment = launched(context).await?;
    let api = &deployment.api;
    for id in ["b", "a", "c"] {
        created(api, "/api/models", &model(id)).await?;
        created(api, "/api/tenants", &json!({"tenant_id": id, "model_id": "b"})).await?;
    }
    check_eq("the order of models", ids(api, "/api/models", "model_id").await?, vec!["a", "b", "c"])?;
    check_eq("the order of tenants", ids(api, "/api/tenants", "tenant_id").await?, vec!["a", "b", "c"])?;
    // What is made first is first among vaults and credentials, and last among keys and conversations.
    let of = "/api/tenants/a";
    let (mut made, mut vault) = (Vec::new(), String::new());
    for name in ["x", "z", "y"] {
        let one = created(api, &format!("{of}/vaults"), &json!({"name": name})).await?;
        vault = format!("{of}/vaults/{}", one["vault_id"].as_str().unwrap_or("?"));
        let key = created(api, &format!("{of}/keys"), &json!({"name": name, "scopes": ["read"]})).await?;
        let conversation = created(api, &format!("{of}/conversations"), &json!({"user_id": name})).await?;
        made.push((one["vault_id"].clone(), key["key_id"].clone(), conversation["conversation_id"].clone()));
    }
    let oldest_first: Vec<&Value> = made.iter().map(|(vault, ..)| vault).collect();
    check_eq("the order of vaults", json!(ids(api, &format!("{of}/vaults"), "vault_id").await?), json!(oldest_first))?;
    let newest_first: Vec<&Value> = made.iter().rev().map(|(_, key, _)| key).collect();
    check_eq("the order of keys", json!(ids(api, &format!("{of}/keys"), "key_id").await?), json!(newest_first))?;
    let newest_first: Vec<&Value> = made.iter().rev().map(|(.., conversation)| conversation).collect();
    let listed = json!(ids(api, &format!("{of}/conversations"), "conversation_id").await?);
    check_eq("the order of conversations", listed, json!(newest_first))?;
    for name in ["x", "z", "y"] {
        let credential = json!({"name": name, "purpose": {"host": "a.example"},
            "auth": {"type": "header", "name": "x-key", "secret": "secret-0123456789"}});
        api.post(&format!("{vault}/credentials"), &credential).await?.expect(201)?;
    }
    let names = ids(api, &format!("{vault}/credentials"), "name").await?;
    check_eq("the order of credentials", names, vec!["x", "z", "y"])?;

    // The same name twice.
    api.post(&format!("{of}/vaults"), &json!({"name": "x"})).await?.expect_error(409, "CONFLICT")?;
    let again = json!({"name": "x", "purpose": {"host": "b.example"},
        "auth": {"type": "header", "name": "x-key", "secret": "secret-0123456789"}});
    api.post(&format!("{vault}/credentials"), &again).await?.expect_error(409, "CONFLICT")?;

    // Used: by tenants, then by a conversation alone.
    api.delete("/api/models/b").await?.expect_error(409, "CONFLICT")?;
    for id in ["b", "c"] {
        api.delete(&format!("/api/tenants/{id}")).await?.expect(204)?;
    }
    api.put(of, &json!({"model_id": "a"})).await?.expect(200)?;
    api.delete("/api/models/b").await?.expect_error(409, "CONFLICT")?;
    api.delete(of).await?.expect_error(409, "CONFLICT")?;
    let conversation = json!({"user_id": "u", "model_id": "c"});
    api.put("/api/models/c", &json!({"status": "deprecated"})).await?.expect(200)?;
    api.post(&format!("{of}/conversations"), &conversation).await?.expect_error(422, "VALIDATION_ERROR")?;
    api.put("/api/models/c", &json!({"status": "active"})).await?.expect(200)?;
    // Each can be deleted once, and is nowhere afterwards.
    let credential = items(api, &format!("{vault}/credentials")).await?;
    let credential = credential.first().and_then(|one| one["credential_id"].as_str()).unwrap_or("?").to_owned();
    for path in [format!("{vault}/credentials/{credential}"), vault.clone(), "/api/models/c".to_owned()] {
        api.delete(&path).await?.expect(204)?;
        api.delete(&path).await?.expect_error(404, "NOT_FOUND")?;
        if !path.contains("/credentials/") {
            api.get(&path).await?.expect_error(404, "NOT_FOUND")?;
        }
    }
    for (.., id) in &made {
        let path = format!("{of}/conversations/{}", id.as_str().unwrap_or("?"));
        api.delete(&path).await?.expect(204)?;
        api.delete(&path).await?.expect_error(404, "NOT_FOUND")?;
    }
    for path in [of, "/api/models/b"] {
        api.delete(path).await?.expect(204)?;
        api.delete(path).await?.expect_error(404, "NOT_FOUND")?;
    }
    // A change of what does not exist.
    for path in ["/api/models/b", "/api/tenants/b"] {
        api.put(path, &json!({})).await?.expect_error(404, "NOT_FOUND")?;
    }
    created(api, "/api/tenants", &json!({"tenant_id": "u"})).await?;
    for path in ["/api/tenants/u/skills/none", "/api/tenants/u/keys/none", "/api/tenants/u/vaults/none"] {
        api.delete(path).await?.expect_error(404, "NOT_FOUND")?;
    }
    Ok(())
}
