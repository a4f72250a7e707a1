//! The limits of the fields of bodies, as the description gives them.

use http::Method;
use serde_json::{Map, Value, json};

use crate::client::http::{Api, Reply};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::outside::bedrock;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-021",
    "A body's field may have the value at each limit of the description; one beyond it is refused by its name",
    "the limits of the description hold exactly: VALIDATION_ERROR 422 names the field",
    body!(exact),
)
.severity(Severity::Medium)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(60)];

/// What the description says of a text that may have all characters but one.
const NO_NUL: &str = r"^[^\u0000]*$";
/// What it says of an id that the client chooses.
const CHOSEN_ID: &str = "{0,63}$";
/// Texts whose values also have to exist, or to be something else, so that the limit alone does not decide; and an older name of a field.
const OTHERS: [&str; 4] = ["image", "model_region", "command", "bedrock_model_id"];

/// A request whose body's fields get other values, one at a time.
struct Request {
    method: Method,
    /// The route in the description.
    route: &'static str,
    path: String,
    /// `{n}` in a text is another number each time; a `version` is the current one.
    body: Value,
    /// A part of the reason for which it is refused although its body fits.
    refused: Option<&'static str>,
    /// Where a key is created first, whose id is `{key}` in the path.
    keys: Option<String>,
}

/// A value of a field, which is accepted or not.
struct Tried {
    place: Vec<String>,
    value: Value,
    fits: bool,
}

async fn exact(context: &Context) -> Result<(), Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let launch = Launch::new().without_model().without_waiting();
    let launch = launch.set("RATE_LIMIT_REQUESTS", 0).set("VAULT_KEY_FILE", key.display());
    // So that no level above has a lower limit.
    let launch = launch.set("CONTAINER_EXECUTION_TIMEOUT", 604_800).set("CONTAINER_DISK", "5GiB");
    let launch = launch.set("PROXY_ALLOWED_DOMAINS", format!("{},a.example", bedrock()));
    let deployment = context.launch(launch).await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let archived = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    api.post(&archived.path("/archive"), &json!({})).await?.expect(200)?;
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    let made = async |path: String, body: Value, id: &str| {
        let made = api.post(&path, &body).await?.expect(201)?.json()?;
        Ok::<_, Failure>(format!("{path}/{}", made[id].as_str().unwrap_or("?")))
    };
    let one = made(format!("{tenant}/keys"), json!({"name": "one", "scopes": ["read"]}), "key_id").await?;
    let vault = made(format!("{tenant}/vaults"), json!({"name": "main"}), "vault_id").await?;
    let unique = |what: &str| format!("{}-{{n}}", context.unique(what));
    let model = json!({"model_id": unique("model"), "display_name": "M", "provider_model_id": "m", "context_window": 1,
        "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0"});
    let credential = json!({"name": "c{n}", "purpose": {"host": "a.example"},
        "auth": {"type": "header", "name": "x-key", "secret": "secret-0123456789"}});
    let request = |method, route, path: String, body| Request { method, route, path, body, refused: None, keys: None };
    let (post, put) = (Method::POST, Method::PUT);
    let requests = [
        request(post.clone(), "/api/tenants", "/api/tenants".into(), json!({"tenant_id": unique("other")})),
        request(put.clone(), "/api/tenants/{tenant_id}", tenant.clone(), json!({})),
        request(post.clone(), "/api/models", "/api/models".into(), model),
        request(put.clone(), "/api/models/{model_id}", format!("/api/models/{}", conversation.model), json!({})),
        request(
            post.clone(),
            "/api/tenants/{tenant_id}/conversations",
            format!("{tenant}/conversations"),
            json!({"user_id": "u"}),
        ),
        request(
            put.clone(),
            "/api/tenants/{tenant_id}/conversations/{conversation_id}",
            conversation.path(""),
            json!({}),
        ),
        request(
            put.clone(),
            "/api/tenants/{tenant_id}/configuration",
            format!("{tenant}/configuration"),
            json!({"version": 0, "configuration": {}}),
        ),
        // A conversation that takes no run refuses it for another reason than its body; what it narrows is looked at later.
        Request {
            refused: Some("archived"),
            ..request(
                post.clone(),
                "/api/tenants/{tenant_id}/conversations/{conversation_id}/messages",
                archived.path("/messages"),
                json!({"user_input": "hello"}),
            )
        },
        request(
            post.clone(),
            "/api/tenants/{tenant_id}/keys",
            format!("{tenant}/keys"),
            json!({"name": "k{n}", "scopes": ["read"]}),
        ),
        request(put.clone(), "/api/tenants/{tenant_id}/keys/{key_id}", one.clone(), json!({})),
        // A key that was rotated has an end.
        Request {
            keys: Some(format!("{tenant}/keys")),
            ..request(
                post.clone(),
                "/api/tenants/{tenant_id}/keys/{key_id}/rotate",
                format!("{tenant}/keys/{{key}}/rotate"),
                json!({"overlap_seconds": 1}),
            )
        },
        request(post.clone(), "/api/tenants/{tenant_id}/vaults", format!("{tenant}/vaults"), json!({"name": "v{n}"})),
        request(
            post,
            "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials",
            format!("{vault}/credentials"),
            credential,
        ),
        // A size that is more than the largest one is refused for that.
        Request {
            refused: Some("max_size"),
            ..request(put, "/api/admin/pool", "/api/admin/pool".into(), json!({"min_size": 0, "max_size": 0}))
        },
    ];
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let (mut count, mut wrong) = (0, Vec::new());
    for request in &requests {
        let method = request.method.as_str().to_lowercase();
        let content = &description["paths"][request.route][method.as_str()]["requestBody"]["content"];
        let mut all = Vec::new();
        walk(&description, &content["application/json"]["schema"], &[], &mut all);
        all.retain(|tried| !request.route.ends_with("/messages") || tried.place[0] != "configuration");
        for tried in &all {
            count += 1;
            wrong.extend(try_one(api, request, tried, count).await?);
        }
    }
    check(wrong.is_empty(), wrong.join("\n"))?;
    check(count >= 150, format!("only {count} values were tried: has /openapi.json no limits?"))
}

/// The schema itself, where this one refers to it or permits null as well.
fn resolved<'d>(description: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return &description["components"]["schemas"][name];
    }
    let choices = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    match choices.map(|all| all.iter().filter(|one| one["type"] != "null").collect::<Vec<_>>()).as_deref() {
        Some([only]) => resolved(description, only),
        _ => schema,
    }
}

/// The values at and beyond the limits of all fields of an object.
fn walk(description: &Value, schema: &Value, place: &[String], all: &mut Vec<Tried>) {
    let schema = resolved(description, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let place = [place, std::slice::from_ref(name)].concat();
        let field = resolved(description, field);
        let mut add = |value: Value, fits| all.push(Tried { place: place.clone(), value, fits });
        if field["properties"].is_object() {
            walk(description, field, &place, all);
            continue;
        }
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        for (limit, step) in [("minimum", -1), ("maximum", 1)] {
            if let Some(limit) = field[limit].as_i64() {
                add(json!(limit), true);
                add(json!(limit + step), false);
            }
        }
        let pattern = field["pattern"].as_str().unwrap_or_default();
        if pattern.ends_with(CHOSEN_ID) {
            add(json!("x".repeat(64)), true);
            add(json!("x".repeat(65)), false);
            add(json!(""), false);
        }
        let letter = if pattern == NO_NUL { "\u{e9}" } else { "x" };
        if let Some(longest) = length(field, "maxLength") {
            add(text(name, letter, longest), true);
            add(text(name, letter, longest + 1), false);
            add(json!("a\0b"), false);
        }
        if let Some(shortest) = length(field, "minLength") {
            add(text(name, letter, shortest), true);
            add(text(name, letter, shortest - 1), false);
        }
        // Lists of words of the description are tried by API-025, which repeats them.
        let entry = resolved(description, &field["items"]);
        if let Some(most) = length(field, "maxItems").filter(|_| !entry["enum"].is_array()) {
            add(list(name, most), true);
            add(list(name, most + 1), false);
        }
        if length(field, "minItems").is_some_and(|least| least > 0) {
            add(json!([]), false);
        }
    }
}

fn length(field: &Value, limit: &str) -> Option<usize> {
    field[limit].as_u64().and_then(|length| usize::try_from(length).ok())
}

fn text(name: &str, letter: &str, length: usize) -> Value {
    if name == "directory" && length > 1 {
        // Each part of a path has a limit of its own.
        return json!(format!("{}{}", "a/".repeat((length - 1) / 2), "aa".get(..2 - length % 2).unwrap_or_default()));
    }
    json!(letter.repeat(length))
}

fn list(name: &str, length: usize) -> Value {
    let entry = |number: usize| match name {
        "client_tools" => {
            json!({"name": format!("t{number}"), "description": "A tool", "input_schema": {"type": "object"}})
        }
        "content" => json!({"type": "text", "text": "a text"}),
        "allow" => json!({"host": format!("h{number}.example")}),
        "operations" => json!({"method": "GET", "path": format!("/p{number}")}),
        "paths" => json!(format!("/p{number}")),
        "methods" => {
            json!(format!("M{number}").replace(|digit: char| digit.is_ascii_digit(), "X") + &"Y".repeat(number))
        }
        "deny" | "ask" | "allowed" => json!(format!("h{number}")),
        _ => json!(format!("h{number}")),
    };
    (0..length).map(entry).collect()
}

/// Whether a value that fits was accepted; or it is a list, and the answer is about entries of it, which have to exist, for example; or
/// it is the version of something that has another one; or the request is refused for another reason.
fn is_accepted(request: &Request, place: &str, reply: &Reply, fields: &[&str]) -> bool {
    let entry = format!("{place}[");
    let of_entries = !fields.is_empty() && fields.iter().all(|field| field.starts_with(&entry));
    let otherwise = request.refused.is_some_and(|why| !fields.contains(&place) && reply.text().contains(why));
    match reply.status.as_u16() {
        200..=299 => true,
        409 => place == "version",
        422 => of_entries || otherwise,
        _ => false,
    }
}

/// Sends a request with one value, and looks whether it is accepted, or the answer names its field; returns what is wrong.
async fn try_one(api: &Api, request: &Request, tried: &Tried, number: usize) -> Result<Option<String>, Failure> {
    let body = request.body.to_string().replace("{n}", &number.to_string());
    let mut body: Value = serde_json::from_str(&body).map_err(Failure::harness)?;
    let mut path = request.path.clone();
    if body["version"].is_number() {
        body["version"] = api.get(&path).await?.expect(200)?.json()?["version"].clone();
    }
    if let Some(keys) = &request.keys {
        let key = api.post(keys, &json!({"name": format!("for {number}"), "scopes": ["read"]})).await?.expect(201)?;
        path = path.replace("{key}", key.json()?["key_id"].as_str().unwrap_or("?"));
    }
    let mut at = &mut body;
    for name in &tried.place {
        if !at[name.as_str()].is_object() {
            at[name.as_str()] = Value::Object(Map::new());
        }
        at = &mut at[name.as_str()];
    }
    *at = tried.value.clone();
    let text = body.to_string();
    let reply = api.send(request.method.clone(), &path, Some(&text), &[]).await?;
    let answer = reply.json().unwrap_or_default();
    let full = tried.place.join(".");
    // A configuration's places begin within it.
    let within = full.strip_prefix("configuration.").unwrap_or(&full);
    let details: Vec<&Value> = answer["error"]["details"].as_array().into_iter().flatten().collect();
    let fields: Vec<&str> = details.iter().filter_map(|detail| detail["field"].as_str()).collect();
    let names = fields.iter().any(|field| *field == full || *field == within);
    let shown = answer.to_string();
    let shown: String = shown.chars().take(300).collect();
    let value = tried.value.to_string();
    let what = format!(
        "{} {} with {full} = {} ({} bytes): {} {shown}",
        request.method,
        request.path,
        value.chars().take(30).collect::<String>(),
        value.len(),
        reply.status
    );
    let (holds, otherwise) = match tried.fits {
        true => (is_accepted(request, within, &reply, &fields), "not accepted"),
        false => (reply.status == 422 && names, "not refused by its name"),
    };
    Ok((!holds).then(|| format!("{otherwise}: {what}")))
}
