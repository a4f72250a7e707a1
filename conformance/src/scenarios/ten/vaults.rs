//! Vaults: whose credential which request gets, that nobody sees it, and that a new one reaches open workspaces.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::world::{A, B, NEEDS, Party, World, allowed, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::lockdown::places_of;
use crate::scenarios::common::trail;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-020",
        "Two tenants with credentials for one host each get their own, and no place shows either",
        "vaults are write-only: no answer, log, trail, metric, journal or workspace ever shows a secret",
        body!(own_credentials),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-084",
        "A credential replaces the client's own header of its name; a host that is denied is denied on every port",
        "the client's header never goes beside the secret; a deny rule without a port holds for every port",
        body!(own_header),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-021",
        "A rotated credential is used by the next request of an open workspace, and a deleted one by none",
        "rotation reaches open workspaces within a second",
        body!(rotation),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-022",
        "Vaults need a key: without one the answer says what to set, with an older one they are sealed again",
        "at rest AEAD with a key from a file or a command; vault with old key, wrong key, none; re-keying",
        body!(keys),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

/// Writes a key for vaults, and returns its path.
fn key_file(context: &Context, name: &str, byte: u8) -> Result<String, Failure> {
    let path = context.dir().join(name);
    std::fs::write(&path, format!("{byte:02x}").repeat(32))?;
    Ok(path.display().to_string())
}

/// A credential that adds a header with this secret to requests to `host`.
fn header(host: &str, secret: &str) -> Value {
    json!({"name": "key", "purpose": {"host": host, "when": "always"},
        "auth": {"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": secret}})
}

/// A vault of a conversation's tenant with this credential, which all its conversations use. Returns the paths of vault and credential.
async fn vault(world: &World, party: &Party, credential: &Value) -> Result<(String, String), Failure> {
    let of = format!("/api/tenants/{}", party.conversation.tenant);
    let made =
        world.deployment.api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let id = made["vault_id"].as_str().unwrap_or_default();
    let path = format!("{of}/vaults/{id}");
    let made = world.deployment.api.post(&format!("{path}/credentials"), credential).await?.expect(201)?.json()?;
    write(&world.deployment, &of, &json!({"vaults": [id]})).await?.expect(200)?;
    let credential = format!("{path}/credentials/{}", made["credential_id"].as_str().unwrap_or_default());
    Ok((path, credential))
}

/// `Authorization` as the services have seen it in the last request for this path.
async fn sent(world: &World, path: &str) -> Result<Option<String>, Failure> {
    let seen = world.seen(path).await?.pop();
    let seen = seen.ok_or_else(|| Failure::assertion(format!("no request for {path} has arrived")))?;
    Ok(seen.header("authorization").map(ToOwned::to_owned))
}

async fn own_credentials(context: &Context) -> Result<(), Failure> {
    let secrets = [context.unique("first-canary"), context.unique("second-canary")];
    secrets.iter().for_each(|secret| context.secrets().add(secret));
    let key = key_file(context, "key", 7)?;
    let world = World::start(context, 2, |launch| launch.without_model().set("VAULT_KEY_FILE", &key)).await?;
    let parties = world.parties(context, 2).await?;
    let mut answers = Vec::new();
    for (party, secret) in parties.iter().zip(&secrets) {
        let (vault, credential) = vault(&world, party, &header(A, secret)).await?;
        for path in [format!("{vault}/credentials"), credential, vault] {
            answers.push(world.deployment.api.get(&path).await?.expect(200)?.text());
        }
    }
    for (number, (party, secret)) in parties.iter().zip(&secrets).enumerate() {
        let path = format!("/own-{number}");
        // The client's own header does not go out beside it.
        let asked = party.status(&format!("-H 'Authorization: Bearer guessed' http://{A}{path}")).await?;
        check_eq("status of a request with the credential", asked, 200)?;
        check_eq(
            format!("what host {A} was sent for tenant {number}"),
            sent(&world, &path).await?,
            Some(format!("Bearer {secret}")),
        )?;
        // Another host gets nothing of it.
        let elsewhere = format!("/elsewhere-{number}");
        answers.push(party.answer(&format!("-i http://{B}{elsewhere}")).await?);
        check_eq("what another host was sent", sent(&world, &elsewhere).await?, None)?;
        // The proxy would not see a request in a tunnel.
        let tunnel = party.answer(&format!("-k -o /dev/null -w '%{{http_connect}}' https://{A}/")).await?;
        check_eq("status of a tunnel to a host with a credential", tunnel.trim(), "403")?;
        let found = places_of(&party.room, &[secret.as_str()]).await?;
        check(found.is_empty(), format!("the workspace shows the secret: {found:?}"))?;
    }
    // Another tenant's vault does not exist.
    let foreign = json!({"vaults": [vault_id(&world, &parties[0]).await?]});
    let of = format!("/api/tenants/{}", parties[1].conversation.tenant);
    write(&world.deployment, &of, &foreign).await?.expect(422)?;
    answers.push(world.deployment.api.get("/metrics").await?.text());
    answers.push(std::fs::read_to_string(&world.trail)?);
    answers.push(world.deployment.server()?.log());
    for secret in &secrets {
        let shown = answers.iter().find(|answer| answer.contains(secret.as_str()));
        check(shown.is_none(), format!("a secret is shown: {shown:?}"))?;
    }
    in_no_file(&world, &secrets)
}

/// Checks that no file of the server's state has one of these secrets.
async fn own_header(context: &Context) -> Result<(), Failure> {
    const NAME: &str = "x-service-token";
    let secret = context.unique("token-canary");
    context.secrets().add(&secret);
    let key = key_file(context, "key", 7)?;
    let services = context.services(&[A]).await?;
    let world = World::start(context, 1, |launch| {
        launch
            .without_model()
            .set("VAULT_KEY_FILE", &key)
            .set("PROXY_ALLOWED_DOMAINS", format!("{},{B}:8081", allowed()))
            .pin_services(B, 8081, &services)
    })
    .await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let credential = json!({"name": "key", "purpose": {"host": A, "when": "always"},
        "auth": {"type": "header", "name": "X-Service-Token", "template": "{}", "secret": secret}});
    let (_, stored) = vault(&world, party, &credential).await?;
    let guessed = format!("-H 'X-Service-Token: guessed' -H 'X-SERVICE-TOKEN: again' http://{A}/replaced");
    check_eq("status of a request with the client's own header", party.status(&guessed).await?, 200)?;
    let seen = world.seen("/replaced").await?.pop();
    let seen = seen.ok_or_else(|| Failure::assertion("no request has arrived"))?;
    let values: Vec<&str> =
        seen.headers.iter().filter(|(name, _)| name == NAME).map(|(_, value)| value.as_str()).collect();
    check_eq(format!("values of {NAME} that arrived"), values, vec![secret.as_str()])?;

    let entries = trail::entries(&world.trail)?;
    let entry = entries.into_iter().rfind(|entry| entry["event"] == "egress" && entry["host"] == A).unwrap_or_default();
    let added = entry["credential"].as_str();
    check_eq(format!("the credential that was added, by {entry}"), added, stored.rsplit('/').next())?;
    // A credential that is for runs is not added between them, and nothing goes out without it.
    let mut for_runs = credential.clone();
    for_runs["purpose"]["when"] = json!("run");
    world.deployment.api.put(&stored, &for_runs).await?.expect(200)?;
    check_eq("status between runs", party.status(&format!("http://{A}/between")).await?, 403)?;
    check_eq("requests that arrived between runs", world.seen("/between").await?.len(), 0)?;

    let (usual, other) = (format!("http://{B}/facts"), format!("http://{B}:8081/facts"));
    // The control.
    party.statuses("the", &[(&usual, 200), (&other, 200)]).await?;
    world.configure(&party.conversation.tenant, &json!({"egress": {"deny": [B]}})).await?;
    party.statuses("the denied", &[(&usual, 403), (&other, 403)]).await
}

fn in_no_file(world: &World, secrets: &[String]) -> Result<(), Failure> {
    let state = world.deployment.server()?.program.env.get("STATE_DIR").cloned();
    let state = state.ok_or_else(|| Failure::harness("the server has no STATE_DIR"))?;
    let mut left = vec![PathBuf::from(state)];
    let mut files = 0;
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else if entry.file_type()?.is_file() {
                files += 1;
                let bytes = std::fs::read(entry.path())?;
                for secret in secrets {
                    let has = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    check(!has, format!("{} has a secret in the clear", entry.path().display()))?;
                }
            }
        }
    }
    check(files > 0, "the server has no state")
}

async fn vault_id(world: &World, party: &Party) -> Result<String, Failure> {
    let listed = format!("/api/tenants/{}/vaults", party.conversation.tenant);
    let listed = world.deployment.api.get(&listed).await?.expect(200)?.json()?;
    Ok(listed[0]["vault_id"].as_str().unwrap_or_default().to_owned())
}

async fn rotation(context: &Context) -> Result<(), Failure> {
    let secrets = [context.unique("old-canary"), context.unique("new-canary")];
    secrets.iter().for_each(|secret| context.secrets().add(secret));
    let key = key_file(context, "key", 7)?;
    let world = World::start(context, 1, |launch| launch.without_model().set("VAULT_KEY_FILE", &key)).await?;
    let parties = world.parties(context, 1).await?;
    let (vault, credential) = vault(&world, &parties[0], &header(A, &secrets[0])).await?;
    let ask = async |path: &str| {
        parties[0].answer(&format!("http://{A}{path}")).await?;
        sent(&world, path).await
    };
    check_eq("what was sent before the rotation", ask("/before").await?, Some(format!("Bearer {}", secrets[0])))?;
    world.deployment.api.put(&credential, &header(A, &secrets[1])).await?.expect(200)?;
    check_eq("what was sent after the rotation", ask("/after").await?, Some(format!("Bearer {}", secrets[1])))?;
    // Only what the credential is for gets it.
    let mut narrow = header(A, &secrets[1]);
    narrow["purpose"] = json!({"host": A, "paths": ["/only"], "methods": ["GET"], "when": "always"});
    world.deployment.api.put(&credential, &narrow).await?.expect(200)?;
    check_eq(
        "what was sent for a path that it is for",
        ask("/only/this").await?,
        Some(format!("Bearer {}", secrets[1])),
    )?;
    check_eq("what was sent for another path", ask("/other").await?, None)?;
    // Between runs, a credential that is for runs is not added.
    narrow["purpose"] = json!({"host": A, "when": "run"});
    world.deployment.api.put(&credential, &narrow).await?.expect(200)?;
    parties[0].statuses("the idle", &[(&format!("http://{A}/idle"), 403)]).await?;
    check(world.seen("/idle").await?.is_empty(), "a request that needs a run has reached its target")?;
    world.deployment.api.put(&credential, &header(A, &secrets[1])).await?.expect(200)?;
    world.deployment.api.delete(&credential).await?.expect(204)?;
    check_eq("what was sent after the deletion", ask("/deleted").await?, None)?;
    world.deployment.api.delete(&vault).await?.expect(204)?;
    check_eq("what was sent without the vault", ask("/without").await?, None)
}

async fn keys(context: &Context) -> Result<(), Failure> {
    let secret = context.unique("canary");
    context.secrets().add(&secret);
    let (old, new) = (key_file(context, "old", 7)?, key_file(context, "new", 8)?);
    let keep = |launch: Launch| launch.without_model().set("SHUTDOWN_WORKSPACES", "keep");
    let mut world = World::start(context, 1, keep).await?;
    let mut parties = world.parties(context, 1).await?;
    let vaults = format!("/api/tenants/{}/vaults", parties[0].conversation.tenant);
    let refused = world.deployment.api.post(&vaults, &json!({"name": "main"})).await?.expect(409)?;
    check(refused.text().contains("VAULT_KEY_FILE"), format!("an answer without a key: {}", refused.text()))?;
    let with = async |world: &mut World, settings: &[(&str, &str)]| {
        world.deployment.stop().await?;
        if let Some(server) = &mut world.deployment.server {
            server.program.env.remove("VAULT_KEY_FILE");
            server.program.env.remove("VAULT_OLD_KEY_FILES");
            server.program.env.extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        }
        world.deployment.restart(context).await?;
        world.deployment.ready(crate::target::deployment::READY_LIMIT).await
    };
    with(&mut world, &[("VAULT_KEY_FILE", &old)]).await?;
    parties[0].moved(&world.deployment).await?;
    let (_, credential) = vault(&world, &parties[0], &header(A, &secret)).await?;
    let credential = credential.rsplit('/').next().unwrap_or_default();
    let ask = async |world: &World, party: &Party, path: &str| {
        party.answer(&format!("http://{A}{path}")).await?;
        sent(world, path).await
    };
    let bearer = Some(format!("Bearer {secret}"));
    check_eq("what was sent with the key", ask(&world, &parties[0], "/with").await?, bearer.clone())?;
    // With another key alone, the secret cannot be opened: the request is refused, and the log says why.
    with(&mut world, &[("VAULT_KEY_FILE", &new)]).await?;
    let status = parties[0].status(&format!("http://{A}/another")).await?;
    check(status >= 400, format!("a request whose credential cannot be opened was answered with {status}"))?;
    check(
        world.seen("/another").await?.is_empty(),
        "a request whose credential cannot be opened has reached its target",
    )?;
    let log = world.deployment.server()?.log();
    check(log.contains("VAULT_OLD_KEY_FILES"), "the log does not say what to do about a secret that cannot be opened")?;
    let rekeyed = world.deployment.api.post("/api/admin/vaults/rekey", &json!({})).await?.expect(200)?.json()?;
    let cannot = (&rekeyed["sealed"], &rekeyed["unreadable"]);
    check_eq(format!("what cannot be sealed again in {rekeyed}"), cannot, (&json!(0), &json!([credential])))?;
    with(&mut world, &[("VAULT_KEY_FILE", &new), ("VAULT_OLD_KEY_FILES", &old)]).await?;
    check_eq("what was sent with both keys", ask(&world, &parties[0], "/both").await?, bearer.clone())?;
    let rekeyed = world.deployment.api.post("/api/admin/vaults/rekey", &json!({})).await?.expect(200)?.json()?;
    check_eq(
        format!("what is sealed again in {rekeyed}"),
        (&rekeyed["sealed"], &rekeyed["unreadable"]),
        (&json!(1), &json!([])),
    )?;
    with(&mut world, &[("VAULT_KEY_FILE", &new), ("SHUTDOWN_WORKSPACES", "destroy")]).await?;
    check_eq("what was sent with the new key", ask(&world, &parties[0], "/new").await?, bearer)
}
