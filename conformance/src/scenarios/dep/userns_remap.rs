//! An engine with `userns-remap`.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "DEP-004",
    "On an engine with userns-remap, workspaces are remapped, work and leave nothing behind",
    "userns-remap: what is to be set, and that it works",
    body!(numbers_are_remapped),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Mount,
    Capability::OwnEngine,
])
.limit(180)];

async fn numbers_are_remapped(context: &Context) -> Result<(), Failure> {
    let (_own, engine) = context.remapping_engine().await?;
    check(engine.remaps().await?, "the engine does not remap")?;
    let deployment = context.launch(Launch::new().on(&engine)).await?;
    let conversation = deployment.conversation(context).await?;
    let tool = json!({"command": "id -u; touch /workspace/mine && echo made", "description": "Look"});
    let events = deployment.run_well(&conversation, &format!("@tool Bash {tool}\n@say done")).await?;
    let seen: String = events
        .iter()
        .filter(|event| event.name == "tool_result")
        .map(|event| event.text("content").to_owned())
        .collect();
    let room = deployment.only_room().await?;
    let user = room.inspect().await?.config.and_then(|config| config.user).unwrap_or_default();
    let uid = user.split(':').next().unwrap_or_default();
    check(seen.contains(uid) && seen.contains("made"), format!("what the workspace of user {uid} prints: {seen}"))?;
    let map = room.shell("cat /proc/self/uid_map").await?;
    let outside = map.printed.split_ascii_whitespace().nth(1).unwrap_or_default();
    check(outside != "0" && !outside.is_empty(), format!("the workspace's users are not remapped: {}", map.printed))?;
    crate::scenarios::common::lockdown::check_locked(&deployment, &room).await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)?;
    deployment.stop().await
}
