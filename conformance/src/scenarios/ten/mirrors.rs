//! Targets that repeat what they are sent.

use serde_json::{Value, json};

use super::world::{A, B, NEEDS, World, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-083",
    "A target that repeats a request in an error page shows the workspace no credential, whatever its kind",
    "no answer or workspace ever shows a secret, also error pages of the target; canaries over every kind",
    body!(mirrors),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS)];

/// Each kind of credential: its `auth`, and the texts that nobody may see.
fn kinds(context: &Context) -> Vec<(Value, Vec<String>)> {
    let canary = |name: &str| {
        let canary = context.unique(name);
        context.secrets().add(&canary);
        canary
    };
    let (header, password) = (canary("header-canary"), canary("password-canary"));
    let (id, secret, token) = (canary("key-canary"), canary("secret-canary"), canary("session-canary"));
    vec![
        (json!({"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": header}), vec![header]),
        (json!({"type": "basic", "username": "user", "password": password}), vec![password]),
        (
            json!({"type": "sigv4", "service": "execute-api", "region": "us-east-1", "access_key_id": id,
                "secret_access_key": secret, "session_token": token}),
            vec![id, secret, token],
        ),
        (
            json!({"type": "oauth", "token_url": format!("https://{B}/oauth/token?life=600"), "client_id": "us",
                "client_secret": canary("client-canary"), "refresh_token": "refresh-0"}),
            vec!["access-1".to_owned()],
        ),
    ]
}

async fn mirrors(context: &Context) -> Result<(), Failure> {
    let key = context.dir().join("key");
    std::fs::write(&key, "07".repeat(32))?;
    let world = World::start(context, 1, |launch| launch.without_model().set("VAULT_KEY_FILE", key.display())).await?;
    let party = world.parties(context, 1).await?.remove(0);
    let api = &world.deployment.api;
    let of = format!("/api/tenants/{}", party.conversation.tenant);
    let made = api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let vault = made["vault_id"].as_str().unwrap_or_default();
    write(&world.deployment, &of, &json!({"vaults": [vault]})).await?.expect(200)?;
    for (number, (auth, hidden)) in kinds(context).into_iter().enumerate() {
        // The number is also the size of the pieces in which the page comes: 1, 3, 5, 7.
        let path = format!("/mirror/{}", 2 * number + 1);
        let kind = auth["type"].clone();
        let credential = json!({"name": format!("kind-{number}"), "auth": auth, "purpose": {"host": A, "paths": [path],
            "when": "always", "operations": [{"method": "GET", "path": path}, {"method": "GET", "path": format!("{path}/packed")}]}});
        api.post(&format!("{of}/vaults/{vault}/credentials"), &credential).await?.expect(201)?;
        // The workspace does not know the secrets; its query stands for what else the target might say of them.
        let page = party.answer(&format!("-i 'http://{A}{path}?{}'", hidden.join("."))).await?;
        check(
            page.contains("500 Internal") && page.contains("<p>The end</p>"),
            format!("the page that repeats a request with a credential of the kind {kind}: {page}"),
        )?;
        let arrived = world.seen(&path).await?.pop();
        let arrived = arrived.ok_or_else(|| Failure::assertion(format!("no request for {path} has arrived")))?;
        let authorization = arrived.header("authorization").unwrap_or_default().to_owned();
        check(
            authorization.len() > 12,
            format!("what was sent with a credential of the kind {kind}: {authorization:?}"),
        )?;
        let sent = authorization.rsplit([' ', '=']).find(|part| !part.is_empty()).unwrap_or_default().to_owned();
        for secret in hidden.iter().chain([&sent]) {
            check(!page.contains(secret.as_str()), format!("the page shows {secret} of the kind {kind}: {page}"))?;
        }
        check(page.contains("********"), format!("nothing stands for the credential of the kind {kind}: {page}"))?;
        let packed = party.answer(&format!("-i http://{A}{path}/packed")).await?;
        check(packed.contains("compressed_answer"), format!("an answer that cannot be read: {packed}"))?;
    }
    // Without a credential, answers are as they were sent, also compressed ones.
    check_eq(
        "status of an answer without a credential",
        party.status(&format!("http://{A}/mirror/2/packed")).await?,
        200,
    )
}
