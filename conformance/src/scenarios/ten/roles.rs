//! Roles that the server assumes for a tenant's vault.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{A, NEEDS, Party, World, launch, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::lockdown::places_of;
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::REGION;
use crate::target::services::Assumed;

const ROLE: &str = "arn:aws:iam::123456789012:role/tenants";
const UNLISTED: &str = "arn:aws:iam::123456789012:role/admin";
/// How long keys are valid that are soon renewed, in seconds: they are a minute before they expire.
const SHORT: u64 = 62;
/// How long other keys are valid, in seconds.
const LONG: u64 = 3600;
/// How long it may take until keys that are about to expire are replaced.
const RENEWED_LIMIT: Duration = Duration::from_secs(15);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-024",
    "A vault's role is assumed with its tenant's external id, its keys sign, are renewed, and are never shown",
    "SigV4 (keys, or a role to assume: operator's list and external id); write-only",
    body!(roles),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

fn role(arn: &str) -> Value {
    json!({"name": "role",
        "purpose": {"host": A, "when": "always", "operations": [{"method": "GET", "path": "/signed/{+rest}"}]},
        "auth": {"type": "role", "service": "execute-api", "region": REGION, "role_arn": arn}})
}

async fn roles(context: &Context) -> Result<(), Failure> {
    let services = context.services(&[A]).await?;
    let (own, trail, key) = (context.credentials(), context.dir().join("trail.jsonl"), context.dir().join("key"));
    std::fs::write(&key, "07".repeat(32))?;
    let launch = launch(&services, 2)
        .without_model()
        .set("AUDIT_LOG", trail.display())
        .set("VAULT_KEY_FILE", key.display())
        .set("VAULT_ROLES", ROLE)
        .set("AWS_ENDPOINT_URL_STS", services.sts())
        .set("AWS_ACCESS_KEY_ID", &own.id)
        .set("AWS_SECRET_ACCESS_KEY", &own.secret);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= 2.0, READY_LIMIT).await?;
    let world = World { deployment, services, trail };
    let parties = world.parties(context, 2).await?;
    let external = |party: &Party| format!("nagaya:{}", party.conversation.tenant);
    world.services.trust(&own, ROLE, &external(&parties[0]), LONG).await?;
    let credential = with_role(&world, &parties[0]).await?;
    let mut shown = vec![world.deployment.api.get(&credential).await?.expect(200)?.text()];
    with_role(&world, &parties[1]).await?;

    // Its own tenant's requests are signed with the role's keys, which are kept.
    for path in ["/signed/first", "/signed/second"] {
        check_eq("id of the keys", ask(&world, &parties[0], path).await?, Some(id(1)))?;
    }
    check_requests(&world, &[(external(&parties[0]), Some(id(1)))]).await?;

    // Another tenant asks with an external id of its own, and the role does not trust it.
    let status = parties[1].status(&format!("http://{A}/signed/foreign")).await?;
    check_eq("status of a request whose role is refused", status, 401)?;
    shown.push(parties[1].answer(&format!("-i http://{A}/signed/foreign")).await?);
    check(world.seen("/signed/foreign").await?.is_empty(), "a request whose role is refused has reached its target")?;
    // A refusal may be the answer to further requests for a moment.
    check_requests(&world, &[(external(&parties[0]), Some(id(1))), (external(&parties[1]), None)]).await?;
    let log = world.deployment.server()?.log();
    for word in ["AccessDenied", ROLE, &external(&parties[1])] {
        check(log.contains(word), format!("the log does not say why a role is refused: {word} is missing"))?;
    }

    // Keys that are about to expire are replaced.
    world.services.trust(&own, ROLE, &external(&parties[0]), SHORT).await?;
    world.deployment.api.put(&credential, &role(ROLE)).await?.expect(200)?;
    let short = ask(&world, &parties[0], "/signed/short").await?;
    eventually(RENEWED_LIMIT, "a request with the next keys", async || {
        let sent = ask(&world, &parties[0], "/signed/renewed").await.map_err(|failure| failure.to_string())?;
        if sent == short { Err(format!("still {sent:?}")) } else { Ok(()) }
    })
    .await?;

    // Once the role trusts the other tenant, its next request is signed.
    world.services.trust(&own, ROLE, &external(&parties[1]), LONG).await?;
    let known = eventually(RENEWED_LIMIT, "a signed request of the tenant that is trusted by now", async || {
        let sent = ask(&world, &parties[1], "/signed/own").await.map_err(|failure| failure.to_string())?;
        sent.map(Some).ok_or_else(|| "it is not signed".to_owned())
    })
    .await?;
    let last = world.services.assumed().await?.pop();
    let last = last.map(|one| (one.external_id, one.access_key_id));
    check_eq("the last request for the role", last, Some((external(&parties[1]), known)))?;

    let given: Vec<String> = world.services.assumed().await?.into_iter().filter_map(|one| one.access_key_id).collect();
    let hidden: Vec<String> =
        given.iter().flat_map(|id| [format!("assumed-secret-of-{id}"), format!("assumed-token-of-{id}")]).collect();
    shown.extend([world.deployment.server()?.log(), std::fs::read_to_string(&world.trail)?]);
    shown.push(world.deployment.api.get("/metrics").await?.text());
    for secret in hidden.iter().chain([&own.secret]) {
        check(!shown.iter().any(|text| text.contains(secret.as_str())), format!("{secret} is shown"))?;
        for party in &parties {
            let found = places_of(&party.room, &[secret.as_str()]).await?;
            check(found.is_empty(), format!("a workspace shows a role's keys: {found:?}"))?;
        }
    }
    Ok(())
}

/// Id of the keys for the nth request for a role.
fn id(number: usize) -> String {
    format!("ASIAFIXTURE{number:09}")
}

/// Gives a tenant a vault with the role, and checks that no other role is accepted. Returns the path of the credential.
async fn with_role(world: &World, party: &Party) -> Result<String, Failure> {
    let (api, of) = (&world.deployment.api, format!("/api/tenants/{}", party.conversation.tenant));
    let made = api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let vault = made["vault_id"].as_str().unwrap_or_default();
    write(&world.deployment, &of, &json!({"vaults": [vault]})).await?.expect(200)?;
    let credentials = format!("{of}/vaults/{vault}/credentials");
    let made = api.post(&credentials, &role(ROLE)).await?.expect(201)?.json()?;
    let refused = api.post(&credentials, &role(UNLISTED)).await?.expect(422)?.json()?;
    let problem = &refused["error"]["details"][0];
    check_eq(format!("place in {refused}"), problem["field"].as_str(), Some("auth.role_arn"))?;
    check(problem.to_string().contains("VAULT_ROLES"), format!("the refusal does not name the setting: {refused}"))?;
    Ok(format!("{credentials}/{}", made["credential_id"].as_str().unwrap_or_default()))
}

/// Id of the keys that have signed a request that the workspace makes for this path; its target verifies the signature.
async fn ask(world: &World, party: &Party, path: &str) -> Result<Option<String>, Failure> {
    let answer = party.answer(&format!("-i http://{A}{path}")).await?;
    check(answer.starts_with("HTTP/1.1 200"), format!("the answer to a request for {path}: {answer}"))?;
    let seen = world.seen(path).await?.pop().ok_or_else(|| Failure::assertion(format!("no request for {path}")))?;
    let scope = seen.header("authorization").and_then(|value| Some(value.split_once("Credential=")?.1));
    let scope: Vec<&str> = scope.into_iter().flat_map(|scope| scope.split(['/', ','])).collect();
    let signed_for = scope.get(2..4);
    check(
        signed_for.is_none_or(|signed_for| signed_for == [REGION, "execute-api"]),
        format!("region and service that a request is signed for: {signed_for:?}"),
    )?;
    let id = scope.first().copied();
    let token = id.map(|id| format!("assumed-token-of-{id}"));
    check_eq("the session token", seen.header("x-amz-security-token"), token.as_deref())?;
    check(token.is_none_or(|token| !answer.contains(&token)), format!("the answer shows the session token: {answer}"))?;
    Ok(id.map(ToOwned::to_owned))
}

/// Checks with which external ids the role was asked for, and which keys were given.
async fn check_requests(world: &World, expected: &[(String, Option<String>)]) -> Result<(), Failure> {
    let asked = world.services.assumed().await?;
    check(asked.iter().all(|one| one.role_arn == ROLE), format!("another role was asked for: {asked:?}"))?;
    let mut asked: Vec<_> =
        asked.into_iter().map(|Assumed { external_id, access_key_id, .. }| (external_id, access_key_id)).collect();
    // Each answer has keys of its own, so only refusals are alike.
    asked.dedup();
    check_eq("external ids of the requests for the role", &asked[..], expected)
}
