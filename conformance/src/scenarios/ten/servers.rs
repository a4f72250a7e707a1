//! Policies over several servers of one deployment.

use serde_json::json;

use super::world::{A, B, Party, World, launch, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::rooms::put_mark;
use crate::target::deployment::READY_LIMIT;

const NEEDS: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Origin,
    Capability::Redis,
    Capability::Postgres,
];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-006",
    "A change of policy at one server holds in another server's workspaces, and one that is handed over keeps it",
    "policy over two servers: any update holds in all listeners, also after a hand-over",
    body!(two_servers),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

async fn two_servers(context: &Context) -> Result<(), Failure> {
    let (redis, postgres) = (context.redis().await?, context.postgres().await?);
    let services = context.services(&[A, B]).await?;
    let trail = context.dir().join("trail.jsonl");
    let launch = launch(&services, 0)
        .without_model()
        .set("REDIS_URL", redis.url())
        .set("DATABASE_URL", postgres.url().await?)
        .set("AUDIT_LOG", trail.display());
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    second.ready(READY_LIMIT).await?;
    let world = World { deployment: first, services, trail };
    let conversation = world.deployment.conversation(context).await?;
    // The second server has the workspace, the first one is told.
    put_mark(&second, &conversation).await?;
    let room = second.only_room().await?;
    let party = Party { conversation, room };
    let (to_a, to_b) = (format!("http://{A}/facts"), format!("http://{B}/facts"));
    party.statuses("the second server's", &[(&to_a, 200), (&to_b, 200)]).await?;
    let of = format!("/api/tenants/{}", party.conversation.tenant);
    write(&world.deployment, &of, &json!({"egress": {"allow": [{"host": A}]}})).await?.expect(200)?;
    party.statuses("the second server's", &[(&to_a, 200), (&to_b, 403)]).await?;
    // The first server takes the workspace over.
    put_mark(&world.deployment, &party.conversation).await?;
    check_eq("number of workspaces after the hand-over", world.deployment.all_rooms().await?.len(), 1)?;
    party.statuses("the handed-over", &[(&to_a, 200), (&to_b, 403)]).await?;
    write(&second, &of, &json!({"egress": {"allow": [{"host": B}]}})).await?.expect(200)?;
    party.statuses("the handed-over", &[(&to_a, 403), (&to_b, 200)]).await
}
