//! A walk over what operators and tenants change: each request in the audit trail, in the log and in the metrics, exactly as it was.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::client::http::{Api, Reply};
use crate::client::metrics::Metrics;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::everything::with_vaults;

const OPERATOR: &str = "operators-key-0123456789";
const OURS: &str = "ours-key-0123456789abcdef";
const STRANGER: &str = "nobodys-key-0123456789abc";
/// Where requests are counted.
const COUNTED: &str = "http_request_duration_seconds_count";

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SEC-020",
    "Each request of a walk over what is changed is in the trail whole, in the log once, and counted once",
    "operator and key: who, what, which key, which answer; http_request_duration_seconds by method, route, status",
    body!(walked),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(60)];

/// Who asks: the key, and how the trail and the log name it.
#[derive(Clone)]
struct Who {
    key: Option<String>,
    number: Option<u64>,
    id: Option<String>,
    tenant: Option<String>,
}

impl Who {
    fn configured(key: &str, number: u64, tenant: Option<&str>) -> Self {
        Self { key: Some(key.to_owned()), number: Some(number), id: None, tenant: tenant.map(str::to_owned) }
    }

    /// A key that was just created.
    fn made(created: &Value) -> Self {
        let of = |field: &str| created[field].as_str().map(str::to_owned);
        Self { key: of("key"), number: None, id: of("key_id"), tenant: of("tenant_id") }
    }

    fn in_log(&self) -> Value {
        match (self.number, &self.id) {
            (Some(number), _) => json!(format!("API_KEYS:{number}")),
            (None, id) => json!(id),
        }
    }
}

/// The requests so far, and what is expected of them.
struct Walk<'a> {
    api: &'a Api,
    /// Lines of the trail, without their time.
    trail: Vec<Value>,
    /// Method, route, status, and the key in the log, by the id of the request.
    log: BTreeMap<String, (String, String, u16, Value)>,
    counts: BTreeMap<(String, String, String), f64>,
}

/// A method, a route, and the values of its parameters.
type Asked<'a> = (Method, &'a str, &'a [&'a str]);

impl Walk<'_> {
    fn next(&self) -> String {
        format!("walk-{}", self.log.len() + 1)
    }

    /// Sends a request, which must be answered with this status.
    async fn step(&mut self, who: &Who, asked: Asked<'_>, body: Value, status: u16) -> Result<Value, Failure> {
        let (method, route, values) = asked;
        let mut path = String::new();
        let mut values = values.iter();
        for part in route.split('/').skip(1) {
            path.push('/');
            path.push_str(if part.starts_with('{') { values.next().copied().unwrap_or("?") } else { part });
        }
        let id = self.next();
        let body = (!body.is_null()).then(|| body.to_string());
        let api = self.api.with_key(who.key.as_deref());
        // What is in a query is nobody's business.
        let asked = format!("{path}{}", values.next().copied().unwrap_or_default());
        let reply: Reply = api.send(method.clone(), &asked, body.as_deref(), &[("X-Request-ID", &id)]).await?;
        let reply = reply.expect(status)?;
        if !method.is_safe() && !route.contains("/conversations") && status != 401 {
            self.trail.push(json!({"event": "operator", "method": method.as_str(), "path": path, "status": status,
                "request_id": id, "key": who.number, "key_id": who.id, "subject": null, "tenant": who.tenant}));
        }
        let key = if status == 401 { Value::Null } else { who.in_log() };
        self.log.insert(id, (method.to_string(), route.to_owned(), status, key));
        *self.counts.entry((method.to_string(), route.to_owned(), status.to_string())).or_default() += 1.0;
        Ok(serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    /// A change of a key, which is recorded before its request.
    fn key(&mut self, change: &str, key: &Value, replaces: Option<&Value>) {
        let request = self.trail.pop();
        let id = request.as_ref().map(|request| request["request_id"].clone());
        self.trail.push(json!({"event": "key", "change": change, "key_id": key["key_id"], "replaces": replaces,
            "tenant": key["tenant_id"], "scopes": key["scopes"], "request_id": id}));
        self.trail.extend(request);
    }
}

const MODEL: &str = "/api/models/{model_id}";
const TENANT: &str = "/api/tenants/{tenant_id}";
const VAULTS: &str = "/api/tenants/{tenant_id}/vaults";
const CREDENTIALS: &str = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials";
const CREDENTIAL: &str = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials/{credential_id}";
const KEYS: &str = "/api/tenants/{tenant_id}/keys";
const KEY: &str = "/api/tenants/{tenant_id}/keys/{key_id}";

async fn settings(walk: &mut Walk<'_>, operator: &Who, tenant: &str) -> Result<(), Failure> {
    let model = json!({"model_id": "m", "display_name": "M", "bedrock_model_id": "vendor.m-v1:0", "model_region": "us-east-1",
        "context_window": 1, "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0"});
    walk.step(operator, (Method::POST, "/api/models", &[]), model.clone(), 201).await?;
    walk.step(operator, (Method::POST, "/api/models", &[]), model, 409).await?;
    walk.step(operator, (Method::POST, "/api/models", &[]), json!({}), 422).await?;
    walk.step(operator, (Method::GET, "/api/models", &[]), Value::Null, 200).await?;
    walk.step(operator, (Method::HEAD, "/api/models", &[]), Value::Null, 200).await?;
    walk.step(operator, (Method::PUT, MODEL, &["m"]), json!({"display_name": "N"}), 200).await?;
    let status = "/api/models/{model_id}/status";
    for word in ["deprecated", "active"] {
        walk.step(operator, (Method::PATCH, status, &["m"]), json!({"status": word}), 200).await?;
    }
    walk.step(operator, (Method::PUT, TENANT, &[tenant]), json!({"model_id": "m"}), 200).await?;
    walk.step(operator, (Method::DELETE, MODEL, &["m"]), Value::Null, 409).await?;
    walk.step(operator, (Method::DELETE, MODEL, &["none"]), Value::Null, 404).await?;
    let document = json!({"version": 0, "configuration": {"limits": {"max_turns": 3}}});
    let configuration = "/api/tenants/{tenant_id}/configuration";
    walk.step(operator, (Method::PUT, configuration, &[tenant, "?close=true"]), document.clone(), 200).await?;
    walk.step(operator, (Method::PUT, configuration, &[tenant]), document, 409).await?;
    let skill = "/api/tenants/{tenant_id}/skills/{name}";
    walk.step(operator, (Method::PUT, skill, &[tenant, "pricing"]), json!({}), 422).await?;
    walk.step(operator, (Method::DELETE, skill, &[tenant, "pricing"]), Value::Null, 404).await?;
    let vault = walk.step(operator, (Method::POST, VAULTS, &[tenant]), json!({"name": "v"}), 201).await?;
    let vault = vault["vault_id"].as_str().unwrap_or("?").to_owned();
    let credential = json!({"name": "c", "purpose": {"host": "nowhere.test"},
        "auth": {"type": "basic", "username": "ada", "password": "secret-0123456789"}});
    let made = walk.step(operator, (Method::POST, CREDENTIALS, &[tenant, &vault]), credential.clone(), 201).await?;
    let id = made["credential_id"].as_str().unwrap_or("?").to_owned();
    walk.step(operator, (Method::PUT, CREDENTIAL, &[tenant, &vault, &id]), credential, 200).await?;
    let rekeyed = walk.step(operator, (Method::POST, "/api/admin/vaults/rekey", &[]), Value::Null, 200).await?;
    check(rekeyed.is_object(), format!("what was sealed again: {rekeyed}"))?;
    walk.step(operator, (Method::DELETE, CREDENTIAL, &[tenant, &vault, &id]), Value::Null, 204).await?;
    let one = "/api/tenants/{tenant_id}/vaults/{vault_id}";
    walk.step(operator, (Method::DELETE, one, &[tenant, &vault]), Value::Null, 204).await?;
    let size = json!({"min_size": 0, "max_size": 3});
    walk.step(operator, (Method::PUT, "/api/admin/pool", &[]), size, 200).await?;
    walk.step(operator, (Method::DELETE, "/api/admin/workspaces/{workspace_id}", &["none"]), Value::Null, 404).await?;
    Ok(())
}

async fn keys(walk: &mut Walk<'_>, context: &Context, operator: &Who, tenant: &str) -> Result<(), Failure> {
    let made = |key: &Value| context.secrets().add(key["key"].as_str().unwrap_or("none"));
    let body = json!({"name": "k", "scopes": ["read", "run", "read"]});
    let key = walk.step(operator, (Method::POST, KEYS, &[tenant]), body, 201).await?;
    made(&key);
    check_eq("scopes, each once and in their order", &key["scopes"], &json!(["run", "read"]))?;
    walk.key("created", &key, None);
    let id = key["key_id"].as_str().unwrap_or("?").to_owned();
    let renamed =
        walk.step(operator, (Method::PUT, KEY, &[tenant, &id]), json!({"scopes": ["admin", "read"]}), 200).await?;
    check_eq("scopes in their order", &renamed["scopes"], &json!(["read", "admin"]))?;
    walk.key("changed", &renamed, None);
    walk.step(operator, (Method::PUT, KEY, &[tenant, &id]), json!({"name": ""}), 422).await?;
    let rotate = "/api/tenants/{tenant_id}/keys/{key_id}/rotate";
    let next = json!({"overlap_seconds": 600});
    let next = walk.step(operator, (Method::POST, rotate, &[tenant, &id]), next, 201).await?;
    made(&next);
    walk.key("rotated", &next, Some(&key["key_id"]));
    let tenants = Who::made(&next);
    walk.step(&tenants, (Method::GET, TENANT, &[tenant]), Value::Null, 200).await?;
    walk.step(&tenants, (Method::PUT, TENANT, &[tenant]), json!({"system_prompt": "Mine."}), 403).await?;
    for status in [204, 204] {
        walk.step(operator, (Method::DELETE, KEY, &[tenant, &id]), Value::Null, status).await?;
        if walk.trail.iter().all(|line| line["change"] != "revoked") {
            walk.key("revoked", &renamed, None);
        }
    }
    let admin = json!({"name": "o", "scopes": ["metrics", "admin"]});
    let other = walk.step(operator, (Method::POST, "/api/admin/keys", &[]), admin, 201).await?;
    made(&other);
    check_eq("scopes of an operator's key, in their order", &other["scopes"], &json!(["admin", "metrics"]))?;
    walk.key("created", &other, None);
    let other = Who::made(&other);
    walk.step(&other, (Method::PUT, TENANT, &[tenant]), json!({"system_prompt": "Yours."}), 200).await?;
    walk.step(&other, (Method::GET, TENANT, &[tenant]), Value::Null, 403).await?;
    Ok(())
}

/// What a tenant's key does and is refused, and what callers without a valid key are.
async fn others(walk: &mut Walk<'_>, tenant: &str, other: &str) -> Result<(), Failure> {
    let tenants = Who::configured(OURS, 2, Some(tenant));
    let conversations = "/api/tenants/{tenant_id}/conversations";
    let size = json!({"min_size": 0, "max_size": 9});
    walk.step(&tenants, (Method::PUT, "/api/admin/pool", &[]), size, 403).await?;
    walk.step(&tenants, (Method::PUT, TENANT, &[other]), json!({"status": "inactive"}), 404).await?;
    walk.step(&tenants, (Method::PUT, TENANT, &[tenant]), json!({"status": "inactive"}), 403).await?;
    let made = walk.step(&tenants, (Method::POST, conversations, &[tenant]), json!({"user_id": "ada"}), 201).await?;
    let id = made["conversation_id"].as_str().unwrap_or("?").to_owned();
    let one = "/api/tenants/{tenant_id}/conversations/{conversation_id}";
    walk.step(&tenants, (Method::PUT, one, &[tenant, &id]), json!({"title": "T"}), 200).await?;
    let configuration = "/api/tenants/{tenant_id}/conversations/{conversation_id}/configuration";
    let document = json!({"version": 0, "configuration": {}});
    walk.step(&tenants, (Method::PUT, configuration, &[tenant, &id]), document, 200).await?;
    let nobody = Who { key: None, number: None, id: None, tenant: None };
    let stranger = Who { key: Some(STRANGER.to_owned()), ..nobody.clone() };
    for who in [&nobody, &stranger] {
        walk.step(who, (Method::DELETE, TENANT, &[tenant]), Value::Null, 401).await?;
    }
    walk.step(&nobody, (Method::GET, "/health/live", &[]), Value::Null, 200).await.map(drop)
}

fn counts(page: &Metrics) -> BTreeMap<(String, String, String), f64> {
    let of =
        |sample: &crate::client::metrics::Sample, label: &str| sample.labels.get(label).cloned().unwrap_or_default();
    let samples = page.named(COUNTED).filter(|sample| of(sample, "route") != "/metrics");
    samples.map(|sample| ((of(sample, "method"), of(sample, "route"), of(sample, "status")), sample.value)).collect()
}

/// Everything else that only grows, except what happens by itself.
fn others_counted(page: &Metrics) -> BTreeMap<String, f64> {
    let by_itself = ["http_", "workspace_gc_cycles", "process_"];
    let grows = |name: &str| {
        let kind = page.types.get(name.trim_end_matches("_count")).map(String::as_str);
        (kind == Some("counter") || kind == Some("histogram")) && !by_itself.iter().any(|own| name.starts_with(own))
    };
    let samples = page.samples.iter().filter(|sample| grows(&sample.name));
    samples.map(|sample| (format!("{}{:?}", sample.name, sample.labels), sample.value)).collect()
}

async fn walked(context: &Context) -> Result<(), Failure> {
    let (tenant, other) = (context.unique("ours"), context.unique("other"));
    let path = context.dir().join("trail.jsonl");
    [OPERATOR, OURS, STRANGER].iter().for_each(|key| context.secrets().add(key));
    let launch = with_vaults(context)?.without_model().without_waiting();
    let launch = launch.set("AUDIT_LOG", path.display()).set("API_KEYS", format!("{OPERATOR},{tenant}:{OURS}"));
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let before = deployment.api.metrics().await?;
    let (trail, log, counted) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut walk = Walk { api: &deployment.api, trail, log, counts: counted };
    let operator = Who::configured(OPERATOR, 1, None);
    for id in [&tenant, &other] {
        walk.step(&operator, (Method::POST, "/api/tenants", &[]), json!({"tenant_id": id}), 201).await?;
    }
    settings(&mut walk, &operator, &tenant).await?;
    keys(&mut walk, context, &operator, &tenant).await?;
    others(&mut walk, &tenant, &other).await?;
    walk.step(&operator, (Method::DELETE, TENANT, &[&other]), Value::Null, 204).await?;
    let after = deployment.api.metrics().await?;
    let (mut grown, known) = (counts(&after), counts(&before));
    for (labels, value) in &mut grown {
        *value -= known.get(labels).copied().unwrap_or_default();
    }
    grown.retain(|_, value| *value != 0.0);
    check_eq("requests that were counted, by method, route and status", grown, walk.counts)?;
    check_eq("everything else that is counted", others_counted(&after), others_counted(&before))?;
    deployment.stop().await?;

    let text = std::fs::read_to_string(&path)?;
    let lines =
        text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().map_err(Failure::assertion)?;
    let mut lines = lines.into_iter().map(|mut line| {
        line.as_object_mut().map(|fields| fields.remove("timestamp"));
        line
    });
    for expected in &walk.trail {
        check_eq("the next line of the trail", lines.next().as_ref(), Some(expected))?;
    }
    let further: Vec<Value> = lines.collect();
    check(further.is_empty(), format!("further lines of the trail: {further:?}"))?;
    let log = deployment.server()?.log();
    let parsed: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let answers = parsed.iter().filter(|line| line["message"] == "answered");
    let mut told = BTreeMap::new();
    for line in answers.filter(|line| line["span"]["request_id"].as_str().is_some_and(|id| id.starts_with("walk-"))) {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let status = line["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or_default();
        let id = line["span"]["request_id"].as_str().unwrap_or_default().to_owned();
        let again = told.insert(id, (text("method"), text("route"), status, line["key"].clone()));
        check(again.is_none(), format!("a request is told twice: {line}"))?;
    }
    // Load balancers ask how the server is every few seconds: that is no line of its own.
    walk.log.retain(|_, (_, route, ..)| !route.starts_with("/health"));
    check_eq("the requests in the log", told, walk.log)
}
