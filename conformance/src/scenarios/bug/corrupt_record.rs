//! BUG-15: an unreadable record in Redis.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::shared_redis::{in_own_room, mark};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-15",
    "An unreadable record in Redis costs one conversation its workspace, is reported, and harms no other",
    "records are text, decoded once, at one place; a corrupt record harms no other",
    body!(corrupt_record),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

async fn corrupt_record(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let launch =
        Launch::new().set("REDIS_URL", redis.url()).set("SHUTDOWN_WORKSPACES", "keep").set("CONTAINER_GC_INTERVAL", 1);
    let mut deployment = context.launch(launch).await?;
    let hurt = deployment.conversation(context).await?;
    let whole = deployment.another_conversation(context, &hurt.tenant, &hurt.model).await?;
    for conversation in [&hurt, &whole] {
        mark(&deployment, conversation).await?;
    }
    deployment.stop().await?;
    // Independent of how an implementation names its keys: a value with the conversation's id is about the conversation.
    let mut spoilt = 0;
    for key in redis.command(["--scan"]).await?.lines() {
        if redis.command(["TYPE", key]).await?.trim() == "string"
            && redis.command(["GET", key]).await?.contains(&hurt.id)
        {
            redis.command(["SET", key, "{\u{1}no record", "KEEPTTL"]).await?;
            spoilt += 1;
        }
    }
    check(spoilt > 0, "no value in Redis contains the conversation's id: nothing was corrupted")?;
    deployment.restart(context).await?;
    in_own_room(&deployment, &whole).await?;
    deployment.run_well(&hurt, "@say in another room").await?;
    let server_log = deployment.server()?.log().to_lowercase();
    let reported =
        server_log.lines().any(|line| line.contains("record") && (line.contains("error") || line.contains("warn")));
    check(reported, "the log does not mention the record")?;
    for conversation in [&hurt, &whole] {
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    eventually(HEALED_LIMIT, "no workspace left", async || check_eq("rooms", deployment.all_rooms().await?.len(), 0))
        .await
}
