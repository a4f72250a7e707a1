//! Keys that are created at run time.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::trail;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

/// The operator's key in `API_KEYS`.
pub(super) const OPERATOR: &str = "operators-key-0123456789";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-040",
        "A key is shown once, works at once, is nowhere in clear, and is known in the audit trail by its id",
        "keys at run time: shown once, hashed at rest, name, scopes, expiry, last use",
        body!(shown_once),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "TEN-043",
        "A rotated key stays valid for its overlap, or not at all, and the new one has the same scopes",
        "overlap for rotation",
        body!(rotation),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "TEN-044",
        "A tenant's key manages the tenant's keys, with no scope that it lacks, and no other keys",
        "a tenant's key never creates a key with more scopes than its own, nor an operator's",
        body!(no_more_than_its_own),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "TEN-046",
        "While PostgreSQL is away, keys that are known stay valid until they expire, and others are answered 503",
        "if the database is away, known keys stay valid until their expiry",
        body!(database_away),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Postgres, Capability::Admin])
    .limit(120),
];

/// A deployment with an operator's key and a tenant, and the path of the tenant's keys.
pub(super) async fn with_tenant(context: &Context, launch: Launch) -> Result<(Deployment, String), Failure> {
    context.secrets().add(OPERATOR);
    let launch = launch.without_model().without_waiting().set("API_KEYS", OPERATOR).set("RATE_LIMIT_REQUESTS", 0);
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let tenant = context.unique("tenant");
    deployment.api.post("/api/tenants", &json!({"tenant_id": tenant})).await?.expect(201)?;
    Ok((deployment, format!("/api/tenants/{tenant}/keys")))
}

/// Creates a key; returns it and its description.
pub(super) async fn create(
    context: &Context,
    api: &Api,
    path: &str,
    scopes: &[&str],
) -> Result<(String, Value), Failure> {
    let created = api.post(path, &json!({"name": "a key", "scopes": scopes})).await?.expect(201)?.json()?;
    taken(context, created)
}

/// The key in the answer to its creation.
fn taken(context: &Context, created: Value) -> Result<(String, Value), Failure> {
    let key = created["key"].as_str().unwrap_or_default().to_owned();
    check(key.len() >= 36 && key.starts_with("nag_"), format!("not a key: {created}"))?;
    context.secrets().add(&key);
    Ok((key, created))
}

fn of(path: &str, created: &Value) -> String {
    format!("{path}/{}", created["key_id"].as_str().unwrap_or("?"))
}

async fn shown_once(context: &Context) -> Result<(), Failure> {
    let (deployment, path) = with_tenant(context, Launch::new()).await?;
    let api = &deployment.api;
    let (key, created) = create(context, api, &path, &["run", "read"]).await?;
    check_eq("scopes", &created["scopes"], &json!(["run", "read"]))?;
    let prefix = created["prefix"].as_str().unwrap_or_default();
    check(prefix.len() >= 8 && prefix.len() <= 12 && key.starts_with(prefix), format!("prefix: {created}"))?;
    let tenant = path.trim_end_matches("/keys");
    let owner = api.with_key(Some(&key));
    owner.get(tenant).await?.expect(200)?;
    owner.get("/api/tenants").await?.expect_error(403, "FORBIDDEN")?;
    owner.post("/api/tenants", &json!({"tenant_id": "another"})).await?.expect_error(403, "FORBIDDEN")?;

    let one = of(&path, &created);
    eventually(HEALED_LIMIT, "the time of its last use", async || {
        let shown = api.get(&one).await?.expect(200)?.json()?;
        check(shown["last_used_at"].is_string(), format!("last_used_at: {shown}"))
    })
    .await?;
    let shown = [api.get(&one).await?.expect(200)?.text(), api.get(&path).await?.expect(200)?.text()];
    let renamed = api.put(&one, &json!({"name": "another name"})).await?.expect(200)?.json()?;
    check_eq("name", renamed["name"].as_str(), Some("another name"))?;
    check(renamed["last_used_at"].is_string(), format!("the time of its last use after a change: {renamed}"))?;
    api.delete(&one).await?.expect(204)?;
    owner.get(tenant).await?.expect_error(401, "UNAUTHORIZED")?;
    api.get("/api/admin/pool").await?.expect(200)?;
    let server = deployment.server()?;
    let mut kept = shown.to_vec();
    kept.push(server.log());
    let state = std::path::PathBuf::from(server.program.env.get("STATE_DIR").cloned().unwrap_or_default());
    let mut trail = String::new();
    for entry in std::fs::read_dir(&state)?.flatten().filter(|entry| entry.path().is_file()) {
        let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
        if entry.file_name() == "audit.jsonl" {
            trail.clone_from(&text);
        }
        kept.push(text);
    }
    check(kept.len() > 4, format!("{} files and answers", kept.len()))?;
    check(!kept.iter().any(|text| text.contains(&key)), "the key is stored, logged or shown again")?;
    let id = created["key_id"].as_str().unwrap_or("?");
    let lines = trail::parse(&trail)?;
    for change in ["created", "changed", "revoked"] {
        let told = lines.iter().any(|line| line["event"] == "key" && line["change"] == change && line["key_id"] == id);
        check(told, format!("the trail lacks {change:?} of {id}: {trail}"))?;
    }
    let attempt = lines.iter().find(|line| line["event"] == "operator" && line["key_id"] == id);
    check_eq(
        format!("status of what the key has attempted, in {trail}"),
        attempt.map(|line| &line["status"]),
        Some(&json!(403)),
    )?;
    check(lines.iter().any(|line| line["event"] == "operator" && line["key"] == 1), trail)?;
    check(server.log().contains(id), "the log does not name the key by its id")?;

    for (body, field) in [
        (json!({"name": "n", "scopes": ["read"], "colour": "red"}), "colour"),
        (json!({"name": "", "scopes": ["read"]}), "name"),
        (json!({"name": "n", "scopes": []}), "scopes"),
        (json!({"name": "n", "scopes": ["metrics"]}), "scopes"),
        (json!({"name": "n", "scopes": ["everything"]}), "scopes"),
        (json!({"name": "n", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
    ] {
        let refused = api.post(&path, &body).await?;
        refused.expect_error(422, "VALIDATION_ERROR")?;
        check(refused.text().contains(field), format!("the answer does not name {field}: {}", refused.text()))?;
    }
    Ok(())
}

async fn rotation(context: &Context) -> Result<(), Failure> {
    let (deployment, path) = with_tenant(context, Launch::new()).await?;
    let api = &deployment.api;
    let tenant = path.trim_end_matches("/keys");
    let (old, created) = create(context, api, &path, &["read"]).await?;
    let rotate = format!("{}/rotate", of(&path, &created));
    let rotated = api.post(&rotate, &json!({"overlap_seconds": 3600})).await?.expect(201)?.json()?;
    let (new, rotated) = taken(context, rotated)?;
    check(new != old && rotated["key_id"] != created["key_id"], "the key is the same")?;
    check_eq("scopes of the new key", &rotated["scopes"], &created["scopes"])?;
    for key in [&old, &new] {
        api.with_key(Some(key)).get(tenant).await?.expect(200)?;
    }
    let end = api.get(&of(&path, &created)).await?.expect(200)?.json()?;
    check(end["expires_at"].is_string(), format!("the old key has no end: {end}"))?;
    api.post(&rotate, &json!({"overlap_seconds": 99_999_999})).await?.expect_error(422, "VALIDATION_ERROR")?;

    let again = format!("{}/rotate", of(&path, &rotated));
    let third = api.post(&again, &json!({"overlap_seconds": 0})).await?.expect(201)?.json()?;
    let (newest, _) = taken(context, third)?;
    api.with_key(Some(&new)).get(tenant).await?.expect_error(401, "UNAUTHORIZED")?;
    api.with_key(Some(&newest)).get(tenant).await?.expect(200)?;
    api.post(&again, &json!({"overlap_seconds": 0})).await?.expect_error(409, "CONFLICT")
}

async fn no_more_than_its_own(context: &Context) -> Result<(), Failure> {
    let (deployment, path) = with_tenant(context, Launch::new()).await?;
    let other = context.unique("other");
    deployment.api.post("/api/tenants", &json!({"tenant_id": other})).await?.expect(201)?;
    let (key, own) = create(context, &deployment.api, &path, &["admin", "read"]).await?;
    let (_, stronger) = create(context, &deployment.api, &path, &["run", "read"]).await?;
    let (_, theirs) = create(context, &deployment.api, &format!("/api/tenants/{other}/keys"), &["read"]).await?;
    let (_, operators) = create(context, &deployment.api, "/api/admin/keys", &["read"]).await?;
    let api = deployment.api.with_key(Some(&key));

    create(context, &api, &path, &["read"]).await?;
    let more = json!({"name": "more", "scopes": ["read", "run"]});
    api.post(&path, &more).await?.expect_error(403, "FORBIDDEN")?;
    api.put(&of(&path, &own), &json!({"scopes": ["admin", "run"]})).await?.expect_error(403, "FORBIDDEN")?;
    // Nor may it change one that may do more, in whatever way.
    api.put(&of(&path, &stronger), &json!({"name": "renamed"})).await?.expect_error(403, "FORBIDDEN")?;
    let rotate = format!("{}/rotate", of(&path, &stronger));
    api.post(&rotate, &json!({"overlap_seconds": 0})).await?.expect_error(403, "FORBIDDEN")?;
    api.post("/api/admin/keys", &json!({"name": "n", "scopes": ["read"]})).await?.expect_error(403, "FORBIDDEN")?;
    for (method, path) in [
        (Method::GET, of("/api/admin/keys", &operators)),
        (Method::DELETE, of("/api/admin/keys", &operators)),
        (Method::DELETE, of("/api/admin/keys", &own)),
    ] {
        api.send(method, &path, None, &[]).await?.expect_error(403, "FORBIDDEN")?;
    }
    // Neither in another tenant, nor of another owner in its own.
    for path in [of(&format!("/api/tenants/{other}/keys"), &theirs), of(&path, &theirs), of(&path, &operators)] {
        for method in [Method::GET, Method::DELETE] {
            api.send(method, &path, None, &[]).await?.expect_error(404, "NOT_FOUND")?;
        }
    }
    deployment.api.get(&of("/api/admin/keys", &own)).await?.expect_error(404, "NOT_FOUND")?;
    // A key that it can see, it can end, whatever that key may do.
    api.delete(&of(&path, &stronger)).await?.expect(204)?;
    let listed = api.get(&path).await?.expect(200)?.json()?;
    check_eq("keys of the tenant", listed.as_array().map(Vec::len), Some(3))
}

async fn database_away(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let (deployment, path) = with_tenant(context, Launch::new().set("DATABASE_URL", postgres.url().await?)).await?;
    let api = &deployment.api;
    let (known, created) = create(context, api, "/api/admin/keys", &["read"]).await?;
    let end = jiff::Timestamp::now() + Duration::from_secs(2);
    let short = json!({"name": "short", "scopes": ["read"], "expires_at": end});
    let (short, _) = taken(context, api.post("/api/admin/keys", &short).await?.expect(201)?.json()?)?;
    // Another server's, as far as this one can tell.
    let (forgotten, gone) = create(context, api, &path, &["read"]).await?;
    api.delete(&of(&path, &gone)).await?.expect(204)?;
    postgres.stop().await?;
    // This route needs no database.
    let pool = "/api/admin/pool";
    api.with_key(Some(&known)).get(pool).await?.expect(200)?;
    api.with_key(Some(&forgotten)).get(pool).await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    eventually(HEALED_LIMIT, "the end of the key that expires", async || {
        api.with_key(Some(&short)).get(pool).await?.expect_error(401, "UNAUTHORIZED")
    })
    .await?;
    api.with_key(Some(&known)).get(pool).await?.expect(200)?;
    postgres.restart().await?;
    eventually(HEALED_LIMIT, "the database", async || {
        api.with_key(Some(&forgotten)).get(pool).await?.expect_error(401, "UNAUTHORIZED")
    })
    .await?;
    api.delete(&of("/api/admin/keys", &created)).await?.expect(204)?;
    api.with_key(Some(&known)).get(pool).await?.expect_error(401, "UNAUTHORIZED")
}
