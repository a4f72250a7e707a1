//! A server without keys, and the first one that is created.

use serde_json::json;

use super::keys::create;
use crate::harness::context::Context;
use crate::harness::failure::Failure;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-045",
    "Without keys all are operators; once an operator's key was created, all need one, and the last one stays",
    "creating the first key locks nobody out by surprise; a revoked key never opens a server",
    body!(first_key),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Admin])];

async fn first_key(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new().without_model()).await?;
    let tenant = context.unique("tenant");
    deployment.api.post("/api/tenants", &json!({"tenant_id": tenant})).await?.expect(201)?;
    let path = format!("/api/tenants/{tenant}/keys");
    // A tenant's key makes no other necessary; its owner is the tenant, and nobody once it is revoked.
    let (key, created) = create(context, &deployment.api, &path, &["read"]).await?;
    let theirs = deployment.api.with_key(Some(&key));
    theirs.get("/api/tenants").await?.expect_error(403, "FORBIDDEN")?;
    let id = created["key_id"].as_str().unwrap_or("?");
    deployment.api.delete(&format!("{path}/{id}")).await?.expect(204)?;
    theirs.get(&format!("/api/tenants/{tenant}")).await?.expect_error(401, "UNAUTHORIZED")?;

    let keys = "/api/admin/keys";
    for body in [
        json!({"name": "n", "scopes": ["read"]}),
        json!({"name": "n", "scopes": ["admin"], "expires_at": "2999-01-01T00:00:00Z"}),
    ] {
        deployment.api.post(keys, &body).await?.expect_error(409, "CONFLICT")?;
    }
    deployment.api.get("/api/tenants").await?.expect(200)?;
    let (key, created) = create(context, &deployment.api, keys, &["admin", "read"]).await?;
    let last = format!("{keys}/{}", created["key_id"].as_str().unwrap_or("?"));
    for restarted in [false, true] {
        if restarted {
            deployment.stop().await?;
            deployment.restart(context).await?;
        }
        deployment.api.get("/api/tenants").await?.expect_error(401, "UNAUTHORIZED")?;
        let operator = deployment.api.with_key(Some(&key));
        operator.get("/api/tenants").await?.expect(200)?;
        operator.delete(&last).await?.expect_error(409, "CONFLICT")?;
        operator.put(&last, &json!({"scopes": ["read"]})).await?.expect_error(409, "CONFLICT")?;
    }
    let operator = deployment.api.with_key(Some(&key));
    let (other, _) = create(context, &operator, keys, &["admin"]).await?;
    operator.delete(&last).await?.expect(204)?;
    operator.get("/api/tenants").await?.expect_error(401, "UNAUTHORIZED")?;
    deployment.api.with_key(Some(&other)).get(keys).await?.expect(200).map(drop)
}
