//! Credentials that are fetched: OAuth clients of a vault, and where the server itself connects for a tenant.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{A, B, BEYOND, NEEDS, Party, World, allowed, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};

/// How long it may take until a token that has ended is replaced.
const RENEWED_LIMIT: Duration = Duration::from_secs(10);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-023",
    "An OAuth client's tokens are fetched under the tenant's rules, refreshed before they end, and never shown",
    "OAuth client with refresh; URLs that tenants give and the server itself calls pass the proxy's address rules",
    body!(oauth),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)];

fn client(token_url: &str) -> Value {
    json!({"name": "client", "purpose": {"host": A, "when": "always"},
        "auth": {"type": "oauth", "token_url": token_url, "client_id": "us", "client_secret": "client-canary", "refresh_token": "refresh-0"}})
}

async fn oauth(context: &Context) -> Result<(), Failure> {
    context.secrets().add("client-canary");
    let inward = context.outsider("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    let key = context.dir().join("key");
    std::fs::write(&key, "07".repeat(32))?;
    let port = inward.address.rsplit(':').next().unwrap_or_default().to_owned();
    let world = World::start(context, 1, |launch| {
        launch
            .without_model()
            .set("VAULT_KEY_FILE", key.display())
            .set("PROXY_ALLOWED_DOMAINS", format!("{},127.0.0.1:{port}", allowed()))
    })
    .await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let of = format!("/api/tenants/{}", party.conversation.tenant);
    let made =
        world.deployment.api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let vault = made["vault_id"].as_str().unwrap_or_default();
    write(&world.deployment, &of, &json!({"vaults": [vault]})).await?.expect(200)?;
    let credentials = format!("{of}/vaults/{vault}/credentials");

    // A token endpoint that the tenant's workspaces may not reach is refused at once.
    let beyond = world.deployment.api.post(&credentials, &client(&format!("https://{BEYOND}/oauth/token"))).await?;
    let beyond = beyond.expect(422)?.json()?;
    check_eq(format!("place in {beyond}"), beyond["error"]["details"][0]["field"].as_str(), Some("auth.token_url"))?;

    let mut made = client(&format!("https://{B}/oauth/token?life=2&scope=read+write:all"));
    made["auth"]["scope"] = json!("read write:all");
    let made = world.deployment.api.post(&credentials, &made).await?.expect(201)?.json()?;
    let credential = format!("{credentials}/{}", made["credential_id"].as_str().unwrap_or_default());
    check_eq(
        "what was sent with the first token",
        ask(&world, party, "/first").await?,
        Some("Bearer access-1".into()),
    )?;
    check_eq("what was sent right after it", ask(&world, party, "/second").await?, Some("Bearer access-1".into()))?;
    // Each refresh token serves once, so that the endpoint would refuse a second request with the same.
    eventually(RENEWED_LIMIT, "a request with the next token", async || {
        let sent = ask(&world, party, "/renewed").await.map_err(|failure| failure.to_string())?;
        if sent.as_deref() == Some("Bearer access-2") { Ok(()) } else { Err(format!("{sent:?}")) }
    })
    .await?;
    let asked = world.seen("/oauth/token").await?;
    check(asked.iter().all(|seen| seen.status == 200), format!("requests to the token endpoint: {asked:?}"))?;

    // The tenant's rules of the moment hold for the token endpoint, not those under which the credential was written.
    let narrower = json!({"vaults": [vault], "egress": {"allow": [{"host": A}]}});
    write(&world.deployment, &of, &narrower).await?.expect(200)?;
    let asked = world.seen("/oauth/token").await?.len();
    eventually(RENEWED_LIMIT, "a request that needs a token from where the tenant may no longer go", async || {
        let status = party.status(&format!("http://{A}/narrowed")).await.map_err(|failure| failure.to_string())?;
        if status >= 400 { Ok(()) } else { Err(format!("status {status}")) }
    })
    .await?;
    check_eq("requests to a token endpoint after that was forbidden", world.seen("/oauth/token").await?.len(), asked)?;
    write(&world.deployment, &of, &json!({"vaults": [vault]})).await?.expect(200)?;
    eventually(RENEWED_LIMIT, "a request with a token once that is allowed again", async || {
        let status = party.status(&format!("http://{A}/wider")).await.map_err(|failure| failure.to_string())?;
        if status == 200 { Ok(()) } else { Err(format!("status {status}")) }
    })
    .await?;

    // An address that is allowed and leads inwards is not connected to.
    let inwards = client(&format!("https://127.0.0.1:{port}/token"));
    world.deployment.api.put(&credential, &inwards).await?.expect(200)?;
    let status = party.status(&format!("http://{A}/inwards")).await?;
    check(status >= 400, format!("a request whose token cannot be fetched was answered with {status}"))?;
    check(world.seen("/inwards").await?.is_empty(), "a request whose token cannot be fetched has reached its target")?;
    check_eq("connections to an inward address", inward.connections(), 0)?;
    let log = world.deployment.server()?.log();
    for secret in ["client-canary", "access-1", "refresh-1"] {
        check(!log.contains(secret), format!("the log has {secret}"))?;
    }
    Ok(())
}

/// `Authorization` of a request that the workspace makes for this path.
async fn ask(world: &World, party: &Party, path: &str) -> Result<Option<String>, Failure> {
    check_eq(format!("status of a request for {path}"), party.status(&format!("http://{A}{path}")).await?, 200)?;
    let seen = world.seen(path).await?.pop();
    Ok(seen.and_then(|seen| seen.header("authorization").map(ToOwned::to_owned)))
}
