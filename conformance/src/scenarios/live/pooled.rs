//! Drivers that wait in the warm pool.

use std::time::Duration;

use serde_json::{Value, json};

use super::turns::until_drivers;
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::outside::bedrock;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::fixtures::ModelRequest;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIVE-040",
        "A conversation takes over the driver that waits in its workspace, as if it had been started for it",
        "pool rooms may hold a started CLI that is initialised at hand-over",
        body!(taken_over),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(150),
    Scenario::new(
        "LIVE-041",
        "A conversation with other options, or with files, has a driver of its own; the pool's is ended",
        "a conversation with other options gets exactly these; nothing leaks from the pool to it",
        body!(another_driver),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(180),
    Scenario::new(
        "LIVE-042",
        "A driver that has died in the pool counts no longer: a conversation's driver may wait in its place",
        "one process per conversation, counted, limited; a pool's driver that is gone takes nobody's place",
        body!(died_in_the_pool),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(150),
];

/// How long it may take until a workspace of the pool is ready.
const FILLED: Duration = Duration::from_secs(60);

/// A deployment whose pool has drivers for the model, and its tenant.
struct Pool {
    deployment: Deployment,
    tenant: String,
    model: String,
}

impl Pool {
    async fn launch(context: &Context, prompt: &str) -> Result<Self, Failure> {
        Self::launch_with(context, prompt, Launch::new()).await
    }

    async fn launch_with(context: &Context, prompt: &str, launch: Launch) -> Result<Self, Failure> {
        let (tenant, model) = (context.unique("tenant"), context.unique("model"));
        let launch = launch.set("WARM_POOL_MODEL", &model).set("WARM_POOL_MAX_SIZE", 1);
        let deployment = context.launch(launch).await?;
        for id in [&model, &format!("{model}-other")] {
            let described = json!({"model_id": id, "display_name": "Scripted", "context_window": 200_000,
                "max_output_tokens": 8192, "input_token_price": "0.003", "output_token_price": "0.015",
                "bedrock_model_id": format!("anthropic.{id}-v1:0"), "model_region": "us-east-1"});
            deployment.api.post("/api/models", &described).await?.expect(201)?;
        }
        let described = json!({"tenant_id": tenant, "model_id": model, "system_prompt": prompt});
        deployment.api.post("/api/tenants", &described).await?.expect(201)?;
        Ok(Self { deployment, tenant, model })
    }

    async fn conversation(&self, context: &Context) -> Result<Conversation, Failure> {
        self.deployment.another_conversation(context, &self.tenant, &self.model).await
    }

    /// Fills the pool with one workspace, which it keeps until it is taken. Returns it with its driver.
    async fn filled(&self) -> Result<(Room, String), Failure> {
        let before: Vec<String> = self.deployment.rooms().await?.into_iter().map(|room| room.id).collect();
        self.size(1).await?;
        self.deployment.metric("workspace_warm_pool_size", |size| size >= 1.0, FILLED).await?;
        self.size(0).await?;
        let room = self.deployment.rooms().await?.into_iter().find(|room| !before.contains(&room.id));
        let room = room.ok_or_else(|| Failure::assertion("the pool has no workspace"))?;
        let driver = until_drivers(&room, 1).await?.remove(0);
        Ok((room, driver))
    }

    async fn size(&self, min: usize) -> Result<(), Failure> {
        let size = json!({"min_size": min, "max_size": 1});
        self.deployment.api.put("/api/admin/pool", &size).await?.expect(200).map(drop)
    }

    /// The last request for an answer that the model was sent.
    async fn last_request(&self) -> Result<ModelRequest, Failure> {
        let requests = self.deployment.model()?.requests().await?;
        let last = requests.into_iter().rev().find(|request| !request.messages().is_empty());
        last.ok_or_else(|| Failure::harness("the model was asked nothing"))
    }
}

fn done(events: &[RunEvent]) -> Value {
    events.last().map(|done| done.data.clone()).unwrap_or_default()
}

/// That there is one driver in the workspace, and whether it is this one.
async fn is_driver(room: &Room, driver: &str) -> Result<bool, Failure> {
    Ok(until_drivers(room, 1).await?.remove(0) == driver)
}

async fn taken_over(context: &Context) -> Result<(), Failure> {
    let (known, word) = (context.unique("known"), context.unique("word"));
    let mut pool = Pool::launch(context, &format!("You know {known}.")).await?;
    let (room, driver) = pool.filled().await?;
    // What runs there serves nobody, and may reach nothing with the operator's credentials.
    let request =
        "curl -s -o /dev/null -w '%{http_code}' --max-time 10 -X POST -H 'Content-Type: application/json' -d '{}'";
    let asked = room.shell(&format!("{request} http://{}/model/m/invoke", bedrock())).await?;
    check_eq("status of a request to a model from the pool", asked.printed.trim(), "403")?;
    check_eq("requests of a driver that waits", pool.deployment.model()?.requests().await?.len(), 0)?;
    let prompt = format!("@recall {known}");
    let conversation = pool.conversation(context).await?;
    let first = done(&pool.deployment.run_well(&conversation, &prompt).await?);
    check_eq(
        "what the driver of the pool knows",
        first["result"].as_str(),
        Some(format!("{known}: remembered").as_str()),
    )?;
    check(is_driver(&room, &driver).await?, "the first turn was served by another driver than the pool's")?;
    let sent = pool.last_request().await?;

    // A new workspace, in which the driver is started for the conversation.
    let other = pool.conversation(context).await?;
    pool.deployment.run_well(&other, &prompt).await?;
    let cold = pool.last_request().await?;
    check_eq("messages that the model is sent", sent.messages(), cold.messages())?;
    check_eq("all else that the model is sent", sent.rest(), cold.rest())?;

    pool.deployment.run_well(&conversation, &format!("@say I know {word}.")).await?;
    check(is_driver(&room, &driver).await?, "the second turn was served by another driver")?;
    // Another workspace of the pool outlives the server with its driver.
    let (next_room, next_driver) = pool.filled().await?;
    pool.deployment.kill().await?;
    pool.deployment.restart(context).await?;
    for word in [&word, &known] {
        let last = done(&pool.deployment.run_well(&conversation, &format!("@recall {word}")).await?);
        check_eq("after a restart", last["result"].as_str(), Some(format!("{word}: remembered").as_str()))?;
        check_eq("session after a restart", &last["session_id"], &first["session_id"])?;
    }
    check(is_driver(&room, &driver).await?, "after a restart the turn was served by another driver")?;
    let third = pool.conversation(context).await?;
    pool.deployment.run_well(&third, &prompt).await?;
    check(is_driver(&next_room, &next_driver).await?, "a restarted server does not use the driver in its pool")
}

async fn another_driver(context: &Context) -> Result<(), Failure> {
    let pool = Pool::launch(context, "You are brief.").await?;
    for options in ["tools", "model", "file", "instructions"] {
        let (room, driver) = pool.filled().await?;
        let wanted = if options == "model" { format!("{}-other", pool.model) } else { pool.model.clone() };
        let conversation = pool.conversation(context).await?;
        let change = json!({"model_id": wanted});
        pool.deployment.api.put(&conversation.path(""), &change).await?.expect(200)?;
        let mut body = json!({"user_input": "@recall you-are-told"});
        match options {
            "tools" => body["configuration"] = json!({"tools": {"allowed": ["Read"]}}),
            "instructions" => body["configuration"] = json!({"agent": {"instructions": "you-are-told"}}),
            _ => {}
        }
        let path = conversation.path("/stream");
        let mut stream = match options {
            "file" => {
                let form = pool.deployment.api.form_of_run("@recall you-are-told").file("notes.txt", b"notes");
                pool.deployment.api.open_stream_of(&path, form).await?
            }
            _ => pool.deployment.api.open_stream(&path, &body).await?,
        };
        let init = stream.until("init").await?;
        let events = stream.finish().await?;
        let done = done(&events);
        check_eq(format!("status with other {options}: {done}"), done["status"].as_str(), Some("success"))?;
        let told = if options == "instructions" { "remembered" } else { "unknown" };
        check_eq(
            format!("what a driver with other {options} knows"),
            done["result"].as_str(),
            Some(format!("you-are-told: {told}").as_str()),
        )?;
        let same = is_driver(&room, &driver).await?;
        // Instructions are the one option that a driver can still be told.
        check_eq(
            format!("with other {options}, the turn is served by the driver of the pool"),
            same,
            options == "instructions",
        )?;
        let model = pool.last_request().await?.model().unwrap_or_default().to_owned();
        check_eq(format!("model with other {options}"), model, format!("anthropic.{wanted}-v1:0"))?;
        let tools = init.data["tools"].as_array().map_or(0, Vec::len);
        check_eq(format!("tools with other {options}: {}", init.data), tools == 1, options == "tools")?;
        pool.deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        eventually(FILLED, "the workspace is gone", async || {
            let left = pool.deployment.rooms().await.map_err(|failure| failure.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{} workspaces", left.len())) }
        })
        .await?;
    }
    Ok(())
}

async fn died_in_the_pool(context: &Context) -> Result<(), Failure> {
    let one = Launch::new().set("DRIVER_KEEP_ALIVE_MAX", 1);
    let pool = Pool::launch_with(context, "You are kind.", one).await?;
    let conversation = pool.conversation(context).await?;
    pool.deployment.run_well(&conversation, "@say one").await?;
    let own = pool.deployment.only_room().await?;
    until_drivers(&own, 1).await?;
    // That of the pool counts first.
    let (pooled, driver) = pool.filled().await?;
    until_drivers(&own, 0).await?;
    pooled.shell(&format!("kill -KILL {driver}")).await?;
    until_drivers(&pooled, 0).await?;
    eventually(FILLED, "the conversation's driver waits, as the pool's is gone", async || {
        let run = |say: &'static str| pool.deployment.run_well(&conversation, say);
        run("@say two").await.map_err(|failure| failure.to_string())?;
        let before = until_drivers(&own, 1).await.map_err(|failure| failure.to_string())?;
        run("@say three").await.map_err(|failure| failure.to_string())?;
        let after = until_drivers(&own, 1).await.map_err(|failure| failure.to_string())?;
        if before == after { Ok(()) } else { Err(format!("drivers {before:?}, then {after:?}")) }
    })
    .await
}
