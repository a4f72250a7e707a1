//! Every kind of credential: what is shown of it, and what is wrong with one.

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::everything::with_vaults;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-025",
    "Of each kind of credential all is shown but its secrets; what is wrong with one is told with every place",
    "a secret is written and never read; role_arn is one of the operator's list; the host one that may be reached",
    body!(each_kind),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(60)];

const SECRET: &str = "planted-secret-0123456789";
const ROLE: &str = "arn:aws:iam::123456789012:role/files";

/// Each kind as it is sent, and as it is shown.
fn kinds() -> Vec<(Value, Value)> {
    let same = |value: &Value, further: &Value| {
        let mut shown = value.clone();
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|_, value| value != SECRET);
            fields.extend(further.as_object().cloned().unwrap_or_default());
        }
        (value.clone(), shown)
    };
    vec![
        same(&json!({"type": "header", "name": "x-key", "secret": SECRET}), &json!({"template": null})),
        same(&json!({"type": "header", "name": "X-Key", "template": "Key {}!", "secret": SECRET}), &json!({})),
        same(&json!({"type": "basic", "username": "ada", "password": SECRET}), &json!({})),
        same(
            &json!({"type": "sigv4", "service": "s3", "region": "eu-central-1", "access_key_id": "AKIA", "secret_access_key": SECRET}),
            &json!({}),
        ),
        same(
            &json!({"type": "sigv4", "service": "sqs", "region": "us-east-1", "access_key_id": "ASIA", "secret_access_key": SECRET,
                "session_token": SECRET}),
            &json!({}),
        ),
        same(&json!({"type": "role", "service": "s3", "region": "eu-central-1", "role_arn": ROLE}), &json!({})),
        same(
            &json!({"type": "oauth", "token_url": "https://nowhere.test/token", "client_id": "c", "client_secret": SECRET}),
            &json!({"scope": null, "refreshes": false}),
        ),
        same(
            &json!({"type": "oauth", "token_url": "https://nowhere.test/token", "client_id": "c", "refresh_token": SECRET,
                "scope": "read write"}),
            &json!({"refreshes": true}),
        ),
    ]
}

/// What a credential is for, for its kind: what signs has a list of what may be asked.
fn purpose(kind: &Value) -> Value {
    let signs = matches!(kind["type"].as_str(), Some("sigv4" | "role"));
    let mut purpose =
        json!({"host": "nowhere.test", "methods": ["GET", "PUT"], "paths": ["/v1", "/v2"], "when": "always"});
    if signs {
        purpose["operations"] =
            json!([{"method": "GET", "path": "/v1/{name}"}, {"method": "PUT", "path": "/v2/{+rest}"}]);
    }
    purpose
}

/// What is wrong with these credentials, and where.
fn wrong() -> Vec<(Value, Value, Vec<&'static str>)> {
    let header = |field: &str, value: Value| {
        let mut header = json!({"type": "header", "name": "x-key", "secret": SECRET});
        header[field] = value;
        header
    };
    let plain = json!({"host": "nowhere.test"});
    let oauth = |url: &str| json!({"type": "oauth", "token_url": url, "client_id": "c", "client_secret": SECRET});
    let signed = |field: &str, value: &str| {
        let mut signed =
            json!({"type": "sigv4", "service": "s3", "region": "r", "access_key_id": "A", "secret_access_key": SECRET});
        signed[field] = json!(value);
        signed
    };
    let listed = json!({"host": "nowhere.test", "operations": [{"method": "GET", "path": "/"}]});
    vec![
        (plain.clone(), header("name", json!("x key")), vec!["auth.name"]),
        (plain.clone(), header("name", json!("")), vec!["auth.name"]),
        (plain.clone(), header("name", json!("content-length")), vec!["auth.name"]),
        (plain.clone(), header("template", json!("Key")), vec!["auth.template"]),
        (plain.clone(), header("template", json!("{}{}")), vec!["auth.template"]),
        (plain.clone(), header("secret", json!("")), vec!["auth.secret"]),
        (plain.clone(), header("secret", json!("a\r\nb")), vec!["auth.secret"]),
        (plain.clone(), json!({"type": "basic", "username": "a:b", "password": SECRET}), vec!["auth.username"]),
        (plain.clone(), json!({"type": "basic", "username": "a", "password": ""}), vec!["auth.password"]),
        (listed.clone(), signed("service", "s 3"), vec!["auth.service"]),
        (listed.clone(), signed("region", "r/1"), vec!["auth.region"]),
        (listed.clone(), signed("access_key_id", ""), vec!["auth.access_key_id"]),
        (listed.clone(), signed("secret_access_key", ""), vec!["auth.secret_access_key"]),
        (listed.clone(), signed("session_token", "\u{e9}"), vec!["auth.session_token"]),
        (
            listed,
            json!({"type": "role", "service": "s3", "region": "r", "role_arn": "arn:aws:iam::1:role/other"}),
            vec!["auth.role_arn"],
        ),
        (plain.clone(), oauth("http://nowhere.test/token"), vec!["auth.token_url"]),
        (plain.clone(), oauth("https://beyond.test/token"), vec!["auth.token_url"]),
        (plain, json!({"type": "oauth", "token_url": "https://nowhere.test/token", "client_id": "c"}), vec!["auth"]),
        (json!({"host": "beyond.test"}), header("name", json!("x-key")), vec!["purpose.host"]),
    ]
}

async fn each_kind(context: &Context) -> Result<(), Failure> {
    context.secrets().add(SECRET);
    let launch = with_vaults(context)?.without_model().without_waiting();
    let deployment = context.launch(launch.set("VAULT_ROLES", ROLE)).await?;
    let api = &deployment.api;
    let tenant = context.unique("tenant");
    api.post("/api/tenants", &json!({"tenant_id": tenant})).await?.expect(201)?;
    let vaults = format!("/api/tenants/{tenant}/vaults");
    let vault = api.post(&vaults, &json!({"name": "main"})).await?.expect(201)?.json()?;
    let list = format!("{vaults}/{}/credentials", vault["vault_id"].as_str().unwrap_or("?"));
    let mut all = Vec::new();
    for (at, (kind, shown)) in kinds().into_iter().enumerate() {
        let body = json!({"name": format!("credential {at}"), "purpose": purpose(&kind), "auth": kind});
        let made = api.post(&list, &body).await?.expect(201)?.json()?;
        let expected = json!({"credential_id": made["credential_id"], "vault_id": vault["vault_id"], "name": body["name"],
            "purpose": body["purpose"], "auth": shown, "created_at": made["created_at"], "updated_at": made["created_at"]});
        check_eq(format!("what is shown of {}", kind["type"]), &made, &expected)?;
        all.push(expected);
    }
    check_eq("the credentials in the list", api.get(&list).await?.expect(200)?.json()?, json!(all))?;
    // Each is replaced by the next kind, and has nothing of what it was.
    let kinds = kinds();
    for (at, one) in all.iter_mut().enumerate() {
        let (kind, shown) = &kinds[(at + 1) % kinds.len()];
        let path = format!("{list}/{}", one["credential_id"].as_str().unwrap_or("?"));
        let body = json!({"name": format!("replaced {at}"), "purpose": purpose(kind), "auth": kind});
        let replaced = api.put(&path, &body).await?.expect(200)?.json()?;
        let mut expected = one.clone();
        (expected["name"], expected["purpose"], expected["auth"]) =
            (body["name"].clone(), body["purpose"].clone(), shown.clone());
        expected["updated_at"] = replaced["updated_at"].clone();
        check_eq(format!("what is shown of {}, which replaced another", kind["type"]), &replaced, &expected)?;
        check(replaced["updated_at"].as_str() > one["updated_at"].as_str(), format!("its time: {replaced}"))?;
        check_eq("the same, read", api.get(&path).await?.expect(200)?.json()?, replaced)?;
        *one = expected;
    }
    for (purpose, auth, places) in wrong() {
        let body = json!({"name": "wrong", "purpose": purpose, "auth": auth});
        let refused = api.post(&list, &body).await?;
        refused.expect_error(422, "VALIDATION_ERROR")?;
        let told = refused.json()?;
        let fields: Vec<&str> =
            told["error"]["details"].as_array().into_iter().flatten().filter_map(|one| one["field"].as_str()).collect();
        check_eq(format!("places of what is wrong with {body}: {told}"), fields, places)?;
    }
    check_eq("the credentials after all that was refused", api.get(&list).await?.expect(200)?.json()?, json!(all))?;
    let seen = deployment.server()?.log();
    check(!seen.contains(SECRET), "a secret is in the log")
}
