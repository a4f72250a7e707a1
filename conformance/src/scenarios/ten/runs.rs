//! What narrows a single run.

use serde_json::{Value, json};

use super::world::World;
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-013",
    "A run has only the tools, time and models that operator, tenant, conversation and its request all allow",
    "one function intersects operator, tenant, conversation and run; nobody else decides",
    body!(narrowed),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

/// Names of the tools that the driver says it has.
fn tools(events: &[RunEvent]) -> Result<Vec<String>, Failure> {
    let init = events.iter().find(|event| event.name == "init");
    let init = init.ok_or_else(|| Failure::assertion("no event init"))?;
    let tools = init.data["tools"].as_array().cloned().unwrap_or_default();
    Ok(tools.iter().filter_map(|tool| tool.as_str().map(ToOwned::to_owned)).collect())
}

async fn narrowed(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, |launch| launch).await?;
    let conversation = world.deployment.conversation(context).await?;
    // The control: without a configuration the driver has many tools.
    let all = tools(&world.deployment.run_well(&conversation, "@say hello").await?)?;
    check(all.len() > 3 && all.contains(&"Bash".to_owned()), format!("tools of an unrestricted run: {all:?}"))?;
    let own = json!({"tools": {"allowed": ["Bash", "Read", "Write"]}, "limits": {"run_seconds": 100}});
    world.configure(&conversation.tenant, &own).await?;
    let run = async |configuration: Value, prompt: &str| {
        let body = json!({"user_input": prompt, "configuration": configuration});
        world.deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await
    };
    let mut left = tools(&run(json!({"tools": {"allowed": ["Read", "Write"]}}), "@say hello").await?)?;
    left.sort();
    check_eq(
        "tools of a run that its tenant and its request restrict",
        left,
        vec!["Read".to_owned(), "Write".to_owned()],
    )?;
    let slow = json!({"limits": {"run_seconds": 1}});
    let sleep = "@tool Bash {\"command\": \"sleep 60\", \"description\": \"Sleep\"}\n@say never";
    let events = run(slow, sleep).await?;
    ended_badly(&events)?;
    let told = events.iter().any(|event| event.name == "error" && event.data.to_string().contains("run_seconds"));
    check(told, format!("the events of a run that took too long: {events:?}"))?;
    let twice = "@tool Bash {\"command\": \"echo one\", \"description\": \"One\"}\n\
        @tool Bash {\"command\": \"echo two\", \"description\": \"Two\"}\n@say never";
    let events = run(json!({"limits": {"max_turns": 1}}), twice).await?;
    ended_badly(&events)?;
    let told = events.iter().any(|event| event.name == "error" && event.data.to_string().contains("max_turns"));
    check(told, format!("the events of a run of too many turns: {events:?}"))?;
    let calls = events.iter().filter(|event| event.name == "tool_result").count();
    check(calls < 2, format!("a run of one turn has used {calls} tools"))?;
    for (wider, place) in [
        (json!({"tools": {"allowed": ["Edit"]}}), "tools.allowed[0]"),
        (json!({"limits": {"run_seconds": 101}}), "limits.run_seconds"),
        (json!({"models": {"allowed": ["another"]}}), "models.allowed[0]"),
        (json!({"egress": {"deny": ["a.test"]}}), "egress"),
        (json!({"vaults": []}), "vaults"),
    ] {
        let body = json!({"user_input": "@say no", "configuration": wider});
        let reply = world.deployment.api.post(&conversation.path("/stream"), &body).await?.expect(422)?.json()?;
        check_eq(format!("place in {reply}"), reply["error"]["details"][0]["field"].as_str(), Some(place))?;
    }
    Ok(())
}
