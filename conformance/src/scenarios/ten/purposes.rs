//! Which requests get which credential: hosts, methods, paths, operations, and the order of vaults and of what they have.

use serde_json::{Value, json};

use super::world::{A, B, NEEDS, Party, World};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-026",
    "Of a tenant's credentials each request gets the first whose purpose it fits, in the vaults' order, or none",
    "host, methods, paths and operations of a purpose; vaults in the configuration's order; others go without",
    body!(each_purpose),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

/// Headers that the credentials of this scenario add.
const ADDED: [&str; 5] = ["x-one", "x-two", "x-three", "x-five", "authorization"];

fn credential(name: &str, purpose: &Value, auth: &Value) -> Value {
    let mut purpose = purpose.clone();
    purpose["when"] = json!("always");
    json!({"name": name, "purpose": purpose, "auth": auth})
}

fn header(name: &str) -> Value {
    json!({"type": "header", "name": name, "secret": format!("secret-of-{name}")})
}

/// The credentials of two vaults.
fn vaults() -> [Vec<Value>; 2] {
    let one = json!({"type": "header", "name": "x-one", "template": "One {}!", "secret": "secret-of-x-one"});
    let basic = json!({"type": "basic", "username": "ada", "password": "a-password"});
    let operations = json!([{"method": "GET", "path": "/items/{id}"}, {"method": "PUT", "path": "/files/{+rest}"}]);
    [
        vec![
            credential("one", &json!({"host": A, "methods": ["GET"], "paths": ["/v1"]}), &one),
            credential("two", &json!({"host": A, "methods": ["POST", "PUT"]}), &header("x-two")),
        ],
        vec![
            credential("three", &json!({"host": A, "paths": ["/v1", "/c"]}), &header("x-three")),
            credential("four", &json!({"host": "*.tenancy.test", "paths": ["/basic"]}), &basic),
            credential(
                "five",
                &json!({"host": B, "paths": ["/items", "/files"], "operations": operations}),
                &header("x-five"),
            ),
        ],
    ]
}

const ONE: Option<(&str, &str)> = Some(("x-one", "One secret-of-x-one!"));
const TWO: Option<(&str, &str)> = Some(("x-two", "secret-of-x-two"));
const THREE: Option<(&str, &str)> = Some(("x-three", "secret-of-x-three"));
const FOUR: Option<(&str, &str)> = Some(("authorization", "Basic YWRhOmEtcGFzc3dvcmQ="));
const FIVE: Option<(&str, &str)> = Some(("x-five", "secret-of-x-five"));

/// Method, host, path, and what is added; `Err` is the status of a request that is refused.
type Row = (&'static str, &'static str, &'static str, Result<Option<(&'static str, &'static str)>, u16>);

const BOTH: &[Row] = &[
    ("GET", A, "/v1", Ok(ONE)),
    ("GET", A, "/v1/more", Ok(ONE)),
    ("GET", A, "/v10", Ok(None)),
    ("POST", A, "/v1", Ok(TWO)),
    ("PUT", A, "/elsewhere", Ok(TWO)),
    ("DELETE", A, "/v1", Ok(THREE)),
    ("GET", A, "/c", Ok(THREE)),
    ("GET", A, "/d", Ok(None)),
    ("GET", A, "/basic", Ok(FOUR)),
    ("GET", B, "/basic/more", Ok(FOUR)),
    ("GET", B, "/items/7", Ok(FIVE)),
    ("PUT", B, "/files/a/b", Ok(FIVE)),
    ("DELETE", B, "/items/7", Err(403)),
    ("GET", B, "/items/7/more", Err(403)),
    ("GET", B, "/v1", Ok(None)),
];
const OTHER_ORDER: &[Row] = &[
    ("GET", A, "/v1", Ok(THREE)),
    ("POST", A, "/v1", Ok(THREE)),
    ("POST", A, "/d", Ok(TWO)),
    ("GET", A, "/basic", Ok(FOUR)),
];
const FIRST_ALONE: &[Row] =
    &[("GET", A, "/v1", Ok(ONE)), ("DELETE", A, "/v1", Ok(None)), ("GET", B, "/items/7", Ok(None))];
const NONE: &[Row] = &[("GET", A, "/v1", Ok(None)), ("POST", A, "/v1", Ok(None)), ("GET", A, "/basic", Ok(None))];

async fn asked(world: &World, party: &Party, when: &str, rows: &[Row]) -> Result<(), Failure> {
    for (at, (method, host, path, expected)) in rows.iter().enumerate() {
        let what = format!("{method} {host}{path} {when}");
        let mark = format!("{}-{at}", when.replace(' ', "-"));
        let status = party.status(&format!("-X {method} 'http://{host}{path}?mark={mark}'")).await?;
        let seen: Vec<_> =
            world.services.requests().await?.into_iter().filter(|one| one.path.ends_with(&mark)).collect();
        match expected {
            Err(refused) => {
                check_eq(format!("status of {what}"), status, *refused)?;
                check(seen.is_empty(), format!("{what} has reached its target"))?;
            }
            Ok(added) => {
                let [seen] = &seen[..] else { return Err(Failure::assertion(format!("{what} arrived: {seen:?}"))) };
                check_eq(format!("status of {what}"), status, seen.status)?;
                let found: Vec<(&str, &str)> =
                    ADDED.iter().filter_map(|name| Some((*name, seen.header(name)?))).collect();
                check_eq(format!("what was added to {what}"), found, added.iter().copied().collect::<Vec<_>>())?;
                check_eq(
                    format!("method and path of {what}"),
                    (&*seen.method, &*seen.path),
                    (*method, &*format!("{path}?mark={mark}")),
                )?;
                check(
                    added.is_none() || seen.scheme == "https",
                    format!("{what} with a credential left by {}", seen.scheme),
                )?;
            }
        }
    }
    Ok(())
}

async fn each_purpose(context: &Context) -> Result<(), Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let world = World::start(context, 1, |launch| launch.without_model().set("VAULT_KEY_FILE", key.display())).await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let tenant = &party.conversation.tenant;
    let api = &world.deployment.api;
    let mut ids = Vec::new();
    for (at, credentials) in vaults().into_iter().enumerate() {
        let path = format!("/api/tenants/{tenant}/vaults");
        let vault = api.post(&path, &json!({"name": format!("vault {at}")})).await?.expect(201)?.json()?;
        let id = vault["vault_id"].as_str().unwrap_or("?").to_owned();
        for credential in credentials {
            api.post(&format!("{path}/{id}/credentials"), &credential).await?.expect(201)?;
        }
        ids.push(id);
    }
    // Vaults that no configuration lists are not used.
    asked(&world, party, "without a list", NONE).await?;
    world.configure(tenant, &json!({"vaults": ids})).await?;
    asked(&world, party, "with both vaults", BOTH).await?;
    ids.reverse();
    world.configure(tenant, &json!({"vaults": ids})).await?;
    asked(&world, party, "in the other order", OTHER_ORDER).await?;
    // A conversation chooses among its tenant's.
    let own = json!({"version": 0, "configuration": {"vaults": [ids[1]]}});
    api.put(&party.conversation.path("/configuration"), &own).await?.expect(200)?;
    asked(&world, party, "with the first alone", FIRST_ALONE).await?;
    let own = json!({"version": 1, "configuration": {"vaults": []}});
    api.put(&party.conversation.path("/configuration"), &own).await?.expect(200)?;
    asked(&world, party, "with none", NONE).await
}
