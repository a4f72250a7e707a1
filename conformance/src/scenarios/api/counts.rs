//! How many of each there may be.

use serde_json::{Value, json};

use crate::client::form::content_type;
use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::outside::bedrock;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-024",
    "A tenant has as many keys, vaults, credentials and versions of a skill as documented, and no more",
    "409 CONFLICT beyond what there may be; one that is deleted makes room",
    body!(as_many),
)
.severity(Severity::Medium)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(90)];

/// How many of each a tenant may have, and of each skill how many versions.
const MOST: usize = 100;
const MOST_VERSIONS: usize = 50;

/// Creates as many as may be; one more is refused, until one is deleted.
async fn fill(api: &Api, list: &str, id: &str, body: impl Fn(usize) -> Value) -> Result<(), Failure> {
    let mut last = String::new();
    for number in 0..MOST {
        let made = api.post(list, &body(number)).await?.expect(201)?.json()?;
        last = format!("{list}/{}", made[id].as_str().unwrap_or("?"));
    }
    api.post(list, &body(MOST)).await?.expect_error(409, "CONFLICT").map_err(|failure| failure.during(list))?;
    api.delete(&last).await?.expect(204)?;
    api.post(list, &body(MOST)).await?.expect(201)?;
    api.post(list, &body(MOST + 1)).await?.expect_error(409, "CONFLICT").map_err(|failure| failure.during(list))
}

async fn as_many(context: &Context) -> Result<(), Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let launch = Launch::new().without_model().without_waiting();
    let launch = launch.set("RATE_LIMIT_REQUESTS", 0).set("VAULT_KEY_FILE", key.display());
    let launch = launch.set("PROXY_ALLOWED_DOMAINS", format!("{},a.example", bedrock()));
    let deployment = context.launch(launch).await?;
    let api = &deployment.api;
    for tenant in ["t", "u"] {
        api.post("/api/tenants", &json!({"tenant_id": tenant})).await?.expect(201)?;
    }
    let keys = |number| json!({"name": format!("key {number}"), "scopes": ["read"]});
    let vaults = |number| json!({"name": format!("vault {number}")});
    let credentials = |number| {
        json!({"name": format!("credential {number}"), "purpose": {"host": "a.example"},
            "auth": {"type": "header", "name": "x-key", "secret": "secret-0123456789"}})
    };
    // What one tenant has does not count for another one.
    let vault = api.post("/api/tenants/u/vaults", &vaults(0)).await?.expect(201)?.json()?;
    let vault = format!("/api/tenants/u/vaults/{}/credentials", vault["vault_id"].as_str().unwrap_or("?"));
    tokio::try_join!(
        fill(api, "/api/tenants/t/keys", "key_id", keys),
        fill(api, "/api/tenants/t/vaults", "vault_id", vaults),
        fill(api, &vault, "credential_id", credentials),
        versions(api),
    )?;
    api.post("/api/tenants/u/keys", &keys(0)).await?.expect(201).map(drop)
}

async fn versions(api: &Api) -> Result<(), Failure> {
    let path = "/api/tenants/t/skills/pricing";
    let upload = async |number: usize| {
        let manifest = format!("---\nname: pricing\ndescription: How to price {number}\n---\nSay {number}.\n");
        api.upload_as(path, &content_type(), api.form().file("SKILL.md", manifest.as_bytes()).whole()).await
    };
    for number in 1..=MOST_VERSIONS {
        let made = upload(number).await?.expect(201)?.json()?;
        check_eq("the version of a skill", made["version"].as_u64(), Some(number as u64))?;
    }
    // The same again is no further version.
    let same = upload(MOST_VERSIONS).await?.expect(200)?.json()?;
    check_eq("the version of the same skill", same["version"].as_u64(), Some(MOST_VERSIONS as u64))?;
    upload(0).await?.expect_error(409, "CONFLICT")?;
    api.delete(&format!("{path}?version=1")).await?.expect(204)?;
    let next = upload(0).await?.expect(201)?.json()?;
    check_eq("the version after a deletion", next["version"].as_u64(), Some(MOST_VERSIONS as u64 + 1))
}
