//! Tokens of an OpenID Connect issuer.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::{waiting, whole};
use crate::target::deployment::Deployment;
use crate::target::issuer::Issuer;
use crate::target::launch::Launch;

/// The operator's key in `API_KEYS`.
const OPERATOR: &str = "operators-key-0123456789";
/// How soon the keys that an issuer has changed are known: they are fetched every five seconds at most.
const FETCHED: Duration = Duration::from_secs(8);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-050",
        "A token's claims say whom it acts for and with which scopes; one that is not valid is refused with 401",
        "OIDC: issuer, audience, claims to tenant and scopes; wrong audience, expired, alg none, HS256",
        body!(tokens),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "TEN-051",
        "The issuer's new keys are accepted and its old ones are not; while it is away, known keys go on",
        "OIDC: key rotation; refetch on an unknown key, rate-limited; issuer away: known keys go on",
        body!(rotation),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "TEN-052",
        "A stream that was opened with a token ends when the token expires, and the run goes on",
        "open streams end at the token's expiry",
        body!(stream_ends),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume])
    .limit(120),
];

/// Settings of a deployment that trusts an issuer.
fn trusting(context: &Context, issuer: &Issuer) -> Launch {
    context.secrets().add(OPERATOR);
    Launch::new()
        .set("API_KEYS", OPERATOR)
        .set("RATE_LIMIT_REQUESTS", 0)
        .set("OIDC_ISSUER", &issuer.url)
        .set("OIDC_AUDIENCE", Issuer::AUDIENCE)
        .set("OIDC_TENANT_CLAIM", "org")
        .set("OIDC_SCOPES", "staff=run+read,auditors=read+metrics,root=operator+read+admin")
}

/// A client with a token.
async fn with(api: &Api, issuer: &Issuer, order: Value) -> Result<Api, Failure> {
    Ok(api.with_token(&issuer.mint(&order).await?))
}

async fn a_tenant(context: &Context, deployment: &Deployment) -> Result<(String, String), Failure> {
    let tenant = context.unique("tenant");
    let operator = deployment.api.with_key(Some(OPERATOR));
    operator.post("/api/tenants", &json!({"tenant_id": tenant})).await?.expect(201)?;
    let path = format!("/api/tenants/{tenant}");
    Ok((tenant, path))
}

async fn tokens(context: &Context) -> Result<(), Failure> {
    let issuer = context.issuer().await?;
    let deployment = context.launch(trusting(context, &issuer).without_model().without_waiting()).await?;
    let (tenant, path) = a_tenant(context, &deployment).await?;
    let (_, other) = a_tenant(context, &deployment).await?;
    let api = &deployment.api;
    let staff = with(api, &issuer, json!({"claims": {"org": tenant, "scope": "staff openid"}})).await?;
    staff.get(&path).await?.expect(200)?;
    staff.get(&other).await?.expect_error(404, "NOT_FOUND")?;
    staff.get("/api/tenants").await?.expect_error(403, "FORBIDDEN")?;
    let files = format!("{path}/conversations/any/files");
    let refused = staff.get(&files).await?;
    refused.expect_error(403, "FORBIDDEN")?;
    check(refused.text().contains("files"), format!("the refusal does not name the scope: {}", refused.text()))?;
    let root =
        with(api, &issuer, json!({"header": {"alg": "ES256"}, "claims": {"scope": ["root"], "sub": "grace"}})).await?;
    root.get("/api/tenants").await?.expect(200)?;
    let created = root.post("/api/models", &json!({})).await?;
    check_eq("status of a model without fields", created.status.as_u16(), 422)?;
    let trail = std::fs::read_to_string(format!(
        "{}/audit.jsonl",
        deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default()
    ));
    check(trail.unwrap_or_default().contains("\"subject\":\"grace\""), "the trail does not name the token's owner")?;
    for (order, status) in [
        (json!({"claims": {"scope": "staff"}}), 403),
        (json!({"claims": {"org": tenant}}), 403),
        (json!({"claims": {"org": "no/tenant", "scope": "staff"}}), 403),
    ] {
        let reply = with(api, &issuer, order.clone()).await?.get(&path).await?;
        check_eq(format!("status with {order}"), reply.status.as_u16(), status)?;
    }
    let now = Timestamp::now().as_second();
    for (header, claims) in [
        (json!({}), json!({"aud": "another"})),
        (json!({}), json!({"iss": "http://127.0.0.1"})),
        (json!({}), json!({"exp": now - 60})),
        (json!({}), json!({"nbf": now + 300})),
        (json!({}), json!({"exp": null})),
        (json!({"alg": "none"}), json!({})),
        (json!({"alg": "HS256"}), json!({})),
        (json!({"alg": "HS256", "kid": "secret"}), json!({})),
        (json!({"alg": "ES256", "kid": "rsa-1"}), json!({})),
    ] {
        let mut order = json!({"header": header, "claims": {"org": tenant, "scope": "staff"}});
        order["claims"]
            .as_object_mut()
            .into_iter()
            .for_each(|all| all.extend(claims.as_object().cloned().unwrap_or_default()));
        let reply = with(api, &issuer, order.clone()).await?.get(&path).await?;
        reply.expect_error(401, "UNAUTHORIZED").map_err(|failure| failure.during(order.to_string()))?;
    }
    let foreign = json!({"foreign": true, "header": {"alg": "EdDSA"}, "claims": {"org": tenant, "scope": "staff"}});
    with(api, &issuer, foreign).await?.get(&path).await?.expect_error(401, "UNAUTHORIZED")?;
    // Keys go on beside tokens, and nobody is an operator without either.
    api.with_key(Some(OPERATOR)).get("/api/tenants").await?.expect(200)?;
    api.with_key(None).get("/api/tenants").await?.expect_error(401, "UNAUTHORIZED")
}

async fn rotation(context: &Context) -> Result<(), Failure> {
    let issuer = context.issuer().await?;
    let deployment = context.launch(trusting(context, &issuer).without_model().without_waiting()).await?;
    let (tenant, path) = a_tenant(context, &deployment).await?;
    let order = json!({"header": {"alg": "EdDSA"}, "claims": {"org": tenant, "scope": "staff"}});
    let old = with(&deployment.api, &issuer, order.clone()).await?;
    old.get(&path).await?.expect(200)?;
    issuer.rotate().await?;
    let new = with(&deployment.api, &issuer, order).await?;
    eventually(FETCHED, "a token of the new key", async || new.get(&path).await?.expect(200).map(drop)).await?;
    old.get(&path).await?.expect_error(401, "UNAUTHORIZED")?;
    issuer.process.kill().await?;
    new.get(&path).await?.expect(200)?;
    old.get(&path).await?.expect_error(401, "UNAUTHORIZED")
}

async fn stream_ends(context: &Context) -> Result<(), Failure> {
    let issuer = context.issuer().await?;
    let mut deployment = context.launch(trusting(context, &issuer)).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    // Times in tokens are whole seconds.
    let end = Timestamp::now().as_second() + 3;
    let claims = json!({"org": conversation.tenant, "scope": "staff", "exp": end});
    let short = with(&deployment.api, &issuer, json!({ "claims": claims })).await?;
    let reader = short.follow_stream(&conversation.path("/stream"), "0").await?;
    let read = tokio::time::timeout(FETCHED, reader.rest()).await;
    let events = read.map_err(|_| Failure::assertion("the stream is open long after its token has expired"))??;
    let late = Timestamp::now().as_millisecond() - end * 1000;
    check((-500..1500).contains(&late), format!("the stream ended {late} ms after the token"))?;
    let last = events.last().ok_or_else(|| Failure::assertion("the stream had no events"))?;
    check_eq("the last event", (last.name.as_str(), last.text("reason")), ("closed", "key_expired"))?;
    deployment.only_room().await?.shell("touch /workspace/go").await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))
}
