//! Configurations as documents: versions, problems, what applies.

use serde_json::json;

use super::world::{A, NEEDS, World, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-010",
        "Of two who change one configuration at once, one is told that it has another version, and nothing is lost",
        "optimistic version; a document written by two at once",
        body!(at_once),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-011",
        "What applies to a conversation is shown, each value with the level that decided it",
        "GET effective of each tenant and conversation, every value with where it came from",
        body!(effective),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-012",
        "A configuration with problems is refused with all of them and their places, at every depth",
        "unknown fields refused at every depth; a rule that can never match is 422 with the reason and the place",
        body!(problems),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

async fn at_once(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 0, Launch::without_model).await?;
    let conversation = world.deployment.conversation(context).await?;
    for of in [format!("/api/tenants/{}", conversation.tenant), conversation.path("")] {
        let path = format!("{of}/configuration");
        for version in 0..3 {
            let writes = (0..8).map(|number| {
                let limits = json!({"version": version, "configuration": {"limits": {"max_turns": number + 1}}});
                let (api, path) = (&world.deployment.api, &path);
                async move { Ok::<_, Failure>((number, api.put(path, &limits).await?)) }
            });
            let replies = futures::future::try_join_all(writes).await?;
            let (won, lost): (Vec<_>, Vec<_>) = replies.into_iter().partition(|(_, reply)| reply.status == 200);
            check_eq(format!("number of eight writers of version {version} that succeeded"), won.len(), 1)?;
            for (_, reply) in lost {
                let reply = reply.expect(409)?;
                check(
                    reply.text().contains("CONFLICT"),
                    format!("answer to a writer that came too late: {}", reply.text()),
                )?;
            }
            let now = world.deployment.api.get(&path).await?.expect(200)?.json()?;
            check_eq(format!("version in {now}"), now["version"].as_i64(), Some(version + 1))?;
            let kept = now["configuration"]["limits"]["max_turns"].as_i64();
            check_eq(format!("what was kept of {now}"), kept, won.first().map(|(number, _)| number + 1))?;
        }
    }
    Ok(())
}

async fn effective(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 0, Launch::without_model).await?;
    let conversation = world.deployment.conversation(context).await?;
    let of_tenant = format!("/api/tenants/{}", conversation.tenant);
    let tenants = json!({"limits": {"run_seconds": 60}, "tools": {"allowed": ["Bash", "Read"]}, "egress": {"allow": [{"host": A}]}});
    write(&world.deployment, &of_tenant, &tenants).await?.expect(200)?;
    let own = json!({"limits": {"max_turns": 3}, "tools": {"allowed": ["Read"]}});
    write(&world.deployment, &conversation.path(""), &own).await?.expect(200)?;
    let shown = world.deployment.api.get(&conversation.path("/effective")).await?.expect(200)?.json()?;
    for (field, value, from) in [
        ("run_seconds", json!(60), "tenant"),
        ("max_turns", json!(3), "conversation"),
        ("tools", json!(["Read"]), "conversation"),
        ("requests_per_second", json!(null), "operator"),
        ("models", json!([conversation.model]), "operator"),
    ] {
        check_eq(format!("{field} in {shown}"), &shown[field]["value"], &value)?;
        check_eq(format!("where {field} comes from in {shown}"), shown[field]["from"].as_str(), Some(from))?;
    }
    check_eq(format!("egress in {shown}"), shown["egress"][0]["from"].as_str(), Some("tenant"))?;
    let tenant = world.deployment.api.get(&format!("{of_tenant}/effective")).await?.expect(200)?.json()?;
    check_eq(format!("tools of the tenant in {tenant}"), &tenant["tools"]["value"], &json!(["Bash", "Read"]))
}

async fn problems(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 0, Launch::without_model).await?;
    let conversation = world.deployment.conversation(context).await?;
    let of = format!("/api/tenants/{}", conversation.tenant);
    let schema = world.deployment.api.get("/api/schemas/configuration").await?.expect(200)?.json()?;
    check(
        schema["$schema"].is_string() && schema["properties"]["egress"].is_object(),
        format!("the schema: {schema}"),
    )?;
    check_eq("whether the schema has further properties", &schema["additionalProperties"], &json!(false))?;
    for (configuration, places) in [
        (json!({"color": 1}), vec!["configuration.color"]),
        (json!({"egress": {"allow": [{"host": A, "path": "/"}]}}), vec!["configuration.egress.allow[0].path"]),
        (json!({"egress": {"allow": [{"host": "http://a.test"}]}}), vec!["egress.allow[0].host"]),
        (json!({"egress": {"allow": [{"host": A, "methods": ["get"]}]}}), vec!["egress.allow[0].methods[0]"]),
        (json!({"egress": {"allow": [{"host": A, "paths": ["/a/../b"]}]}}), vec!["egress.allow[0].paths[0]"]),
        (json!({"egress": {"deny": ["*"]}}), vec!["egress.deny[0]"]),
        (
            json!({"egress": {"allow": [{"host": "*"}], "deny": [A, "*"]}}),
            vec!["egress.allow[0].host", "egress.deny[1]"],
        ),
        (json!({"vaults": ["none"]}), vec!["vaults[0]"]),
        (json!({"models": {"allowed": ["none"]}}), vec!["models.allowed[0]"]),
        (json!({"tools": {"provider": ["web_search"]}}), vec!["tools.provider[0]"]),
        (
            json!({"limits": {"run_seconds": 0, "max_turns": 0}, "egress": {"requests_per_second": 0}}),
            vec!["egress.requests_per_second", "limits.run_seconds", "limits.max_turns"],
        ),
    ] {
        let reply = write(&world.deployment, &of, &configuration).await?.expect(422)?.json()?;
        let details = reply["error"]["details"].as_array().cloned().unwrap_or_default();
        let told: Vec<&str> = details.iter().filter_map(|detail| detail["field"].as_str()).collect();
        check_eq(format!("places of the problems of {configuration} in {reply}"), told, places)?;
    }
    let now = world.deployment.api.get(&format!("{of}/configuration")).await?.json()?;
    check_eq("the configuration after all refusals", &now["version"], &json!(0))
}
