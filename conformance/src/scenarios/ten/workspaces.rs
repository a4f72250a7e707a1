//! What tenants decide about their workspaces and agents: image, size, permissions, integrations.

use bollard::query_parameters::TagImageOptionsBuilder;
use serde_json::{Value, json};

use super::world::{A, BEYOND, NEEDS, World, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

const RUN: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// Size of a workspace directory, in bytes.
const DISK: u64 = 64 << 20;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-081",
        "A conversation chooses an image and a smaller disk; its workspace is replaced before the next run",
        "image: a name of the operator's list; disk within the operator's; warm rooms have the default only",
        body!(image_and_disk),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TEN-082",
        "Levels add to what is asked and denied, and choose among the MCP servers that their tenant registers",
        "permissions and integrations are resolved like the other fields; what goes beyond is 422 with its place",
        body!(permissions_and_integrations),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

async fn image_and_disk(context: &Context) -> Result<(), Failure> {
    // Another name of the same image.
    let engine = context.engine()?.clone();
    let tag = context.new_image_tag("image", &engine)?;
    let (name, version) = tag.split_once(':').unwrap_or((&tag, "latest"));
    let named = TagImageOptionsBuilder::new().repo(name).tag(version).build();
    engine.docker().tag_image(&context.run.capabilities.image, Some(named)).await?;
    let world =
        World::start(context, 1, |launch: Launch| launch.set("CONTAINER_IMAGES", format!("tools={tag}"))).await?;
    let (deployment, conversation) = (&world.deployment, world.deployment.conversation(context).await?);
    let mut party = world.settle(vec![conversation]).await?.remove(0);
    let conversation = party.conversation.clone();
    let first = party.room.inspect_json().await?;
    check_eq(
        "image of a workspace of the pool",
        first["Config"]["Image"].as_str(),
        Some(&*context.run.capabilities.image),
    )?;

    let own = json!({"image": "tools", "disk": DISK});
    write(deployment, &conversation.path(""), &own).await?.expect(200)?;
    deployment.run_well(&conversation, "@say in another one").await?;
    party = world.settle(vec![conversation.clone()]).await?.remove(0);
    let second = party.room.inspect_json().await?;
    check_eq("image of the workspace of the next run", second["Config"]["Image"].as_str(), Some(&*tag))?;
    let size = party.room.shell("df -B1 --output=size /workspace | tail -n 1").await?.printed;
    check_eq("size of the workspace directory", size.trim(), DISK.to_string().as_str())?;
    let filled = party.room.shell("head -c 100000000 /dev/zero > /workspace/big; stat -c %s /workspace/big").await?;
    let written = filled.printed.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
    check(written.is_some_and(|bytes| bytes <= DISK), format!("bytes written beyond the limit: {}", filled.printed))?;
    party.room.shell("rm /workspace/big").await?;
    let effective = deployment.api.get(&conversation.path("/effective")).await?.expect(200)?.json()?;
    for (field, value) in [("image", json!("tools")), ("disk", json!(DISK))] {
        let expected = json!({"value": value, "from": "conversation"});
        check_eq(format!("{field} that applies"), &effective[field], &expected)?;
    }
    deployment.run_well(&conversation, "@say in the same one").await?;
    party = world.settle(vec![conversation.clone()]).await?.remove(0);
    check_eq("the workspace of the run after", &party.room.inspect_json().await?["Id"], &second["Id"])?;
    for (wrong, place) in [(json!({"image": "none"}), "image"), (json!({"disk": 1_u64 << 50}), "disk")] {
        let refused = write(deployment, &conversation.path(""), &wrong).await?.expect(422)?.json()?;
        check_eq(format!("place in {refused}"), refused["error"]["details"][0]["field"].as_str(), Some(place))?;
    }
    let run = json!({"user_input": "@say no", "configuration": {"image": "default"}});
    deployment.api.post(&conversation.path("/stream"), &run).await?.expect(422)?;

    write(deployment, &conversation.path(""), &json!({})).await?.expect(200)?;
    deployment.run_well(&conversation, "@say back").await?;
    party = world.settle(vec![conversation.clone()]).await?.remove(0);
    let last = party.room.inspect_json().await?;
    check_eq("image afterwards", last["Config"]["Image"].as_str(), Some(&*context.run.capabilities.image))
}

/// The places of the problems of a configuration that is refused.
fn places(refused: &Value) -> Vec<&str> {
    let details = refused["error"]["details"].as_array();
    details.into_iter().flatten().filter_map(|detail| detail["field"].as_str()).collect()
}

async fn permissions_and_integrations(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, Launch::without_model).await?;
    let (deployment, conversation) = (&world.deployment, world.deployment.conversation(context).await?);
    let (tenant, own) = (format!("/api/tenants/{}", conversation.tenant), conversation.path(""));
    let server = |host: &str| json!({"url": format!("https://{host}/mcp")});
    let wrong = json!({
        "permissions": {"ask": ["Bash(", "Bash, Edit"]},
        "integrations": {"mcp_servers": {"a__b": server(A), "plain": {"url": format!("http://{A}/mcp")}}},
    });
    let refused = write(deployment, &tenant, &wrong).await?.expect(422)?.json()?;
    check_eq(
        "places of what is wrong",
        places(&refused),
        vec![
            "permissions.ask[0]",
            "permissions.ask[1]",
            "integrations.mcp_servers.a__b",
            "integrations.mcp_servers.plain.url",
        ],
    )?;
    let beyond = json!({"integrations": {"mcp_servers": {"far": server(BEYOND)}, "mcp_servers_allowed": ["near"]}});
    let refused = write(deployment, &tenant, &beyond).await?.expect(422)?.json()?;
    check_eq(
        "places of what goes beyond the operator",
        places(&refused),
        vec!["integrations.mcp_servers_allowed[0]", "integrations.mcp_servers.far.url"],
    )?;
    let tenants = json!({
        "permissions": {"ask": ["Bash"], "deny": ["WebFetch"], "questions": false},
        "integrations": {"mcp_servers": {"one": server(A), "two": server(A)}},
    });
    write(deployment, &tenant, &tenants).await?.expect(200)?;
    let wider = json!({
        "permissions": {"questions": true},
        "integrations": {"mcp_servers": {"three": server(A)}, "mcp_servers_allowed": ["three"]},
    });
    let refused = write(deployment, &own, &wider).await?.expect(422)?.json()?;
    check(
        ["permissions.questions", "integrations.mcp_servers"].iter().all(|place| places(&refused).contains(place)),
        format!("places of what goes beyond the tenant: {refused}"),
    )?;
    let narrower = json!({
        "permissions": {"ask": ["Edit(/src/**)"], "deny": ["mcp__one"]},
        "integrations": {"mcp_servers_allowed": ["two"]},
    });
    write(deployment, &own, &narrower).await?.expect(200)?;
    let effective = deployment.api.get(&conversation.path("/effective")).await?.expect(200)?.json()?;
    let conversations = |value: Value| json!({"value": value, "from": "conversation"});
    check_eq(
        "permissions that apply",
        &effective["permissions"],
        &json!({
            "ask": conversations(json!(["Bash", "Edit(/src/**)"])),
            "deny": conversations(json!(["WebFetch", "mcp__one"])),
            "questions": {"value": false, "from": "tenant"},
        }),
    )?;
    let two = conversations(json!({"two": format!("https://{A}/mcp")}));
    check_eq("servers that apply", &effective["mcp_servers"], &two)
}
