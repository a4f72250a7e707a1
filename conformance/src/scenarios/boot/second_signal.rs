//! A second SIGTERM during a shutdown.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::{ended_badly, endless};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::STOP_LIMIT;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BOOT-001",
    "A second SIGTERM ends the wait for runs, and nothing is left behind",
    "shutdown drains runs up to SHUTDOWN_TIMEOUT; a second SIGTERM hastens",
    body!(second_sigterm),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn second_sigterm(context: &Context) -> Result<(), Failure> {
    // Longer than the suite waits for a stop: only the second signal can end it in time.
    let deployment = context.launch(Launch::new().set("SHUTDOWN_TIMEOUT", 600)).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let process = &deployment.server()?.process;
    process.ask_to_stop().await?;
    // It drains: new requests are refused while the run continues.
    eventually(HEALED_LIMIT, "a new run to be refused", async || {
        let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no"})).await?;
        refused.expect_error(503, "SERVICE_UNAVAILABLE").map(|_| ())
    })
    .await?;
    deployment.api.get("/health/live").await?.expect(200)?;
    check_eq("whether the server has ended after one signal", process.ended().await.is_some(), false)?;
    process.ask_to_stop().await?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    let status = process.wait(STOP_LIMIT).await?;
    check_eq("exit status", status.code(), Some(0))?;
    check_eq("containers left", deployment.all_rooms().await?.len(), 0)?;
    check_eq("directories left", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)
}
