//! A workspace image that is removed and comes back.

use bollard::query_parameters::TagImageOptionsBuilder;
use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::image;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "LIFE-005",
    "A removed image prevents new workspaces with an error that says so, until the image is back",
    "image gone: degrades and heals without a restart; a create that fails half-way leaves nothing",
    body!(image_gone),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn image_gone(context: &Context) -> Result<(), Failure> {
    // A tag of its own for the image, which is removed and restored.
    let engine = context.engine()?.clone();
    let tag = context.new_image_tag("image", &engine)?;
    let (name, version) = tag.split_once(':').unwrap_or((&tag, "latest"));
    let named = TagImageOptionsBuilder::new().repo(name).tag(version).build();
    engine.docker().tag_image(&context.run.capabilities.image, Some(named.clone())).await?;

    let launch = Launch::new().set("CONTAINER_IMAGE", &tag).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    deployment.run_well(&first, "@say before").await?;
    image::remove(&engine, &tag).await?;

    let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let reply = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    let reply = if reply.status == 503 {
        check(reply.header("retry-after").is_some(), "503 without Retry-After")?;
        reply.text()
    } else {
        let events = reply.expect(200)?.text();
        check(
            events.contains("\"status\":\"error\""),
            format!("the run without an image did not end with an error: {events}"),
        )?;
        events
    };
    check(reply.contains(&tag), format!("the error does not name the image {tag}: {reply}"))?;
    check_eq("containers: that of the first conversation", deployment.all_rooms().await?.len(), 1)?;
    check_eq("socket directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 1)?;
    deployment.run_well(&first, "@say a room that is there needs no image").await?;

    engine.docker().tag_image(&context.run.capabilities.image, Some(named)).await?;
    deployment.run_well(&other, "@say after").await.map(|_| ())
}
