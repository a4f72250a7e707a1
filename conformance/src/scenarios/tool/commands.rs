//! Commands of the driver's own.

use serde_json::json;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-050",
        "A command of the driver's runs where the caller asks for one, and is plain text anywhere else",
        "slash commands are listed and run only where the caller asks for one",
        body!(asked_for),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-051",
        "A command that is unknown, has another field beside it, or would change how the driver was started is refused",
        "slash commands run only where the caller asks for one; unknown ones 422",
        body!(refused),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .limit(60),
];

fn result(events: &[RunEvent]) -> String {
    events.last().map(|done| done.text("result").to_owned()).unwrap_or_default()
}

async fn asked_for(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let ask = async |command: &str| {
        let body = json!({"command": command});
        deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await
    };
    // There is nothing yet that it could be about.
    let early = ask("/compact").await?;
    check_eq("status of a command before any message", early.last().map(|done| done.text("status")), Some("error"))?;
    let word = context.unique("word");
    let first = deployment.run_well(&conversation, &format!("@say I know {word}.")).await?;
    let init = first.iter().find(|event| event.name == "init").map(|init| init.data["commands"].to_string());
    let listed = init.unwrap_or_default();
    check(listed.contains("\"/compact\""), format!("commands in init: {listed}"))?;
    for hidden in ["/clear", "/model", "/config", "/mcp"] {
        check(!listed.contains(&format!("\"{hidden}\"")), format!("{hidden} is offered: {listed}"))?;
    }
    let requests = async || Ok::<_, Failure>(deployment.model()?.requests().await?.len());
    let before = requests().await?;
    let events = ask("/context").await?;
    check_eq("status of /context", events.last().map(|done| done.text("status")), Some("success"))?;
    check_eq("requests to the model for /context", requests().await?, before)?;
    // As a message it is what the user says.
    let typed = deployment.run_well(&conversation, "/context").await?;
    check_eq("the model about a message that looks like a command", result(&typed).as_str(), "You said: /context")?;
    let compacted = ask("/compact keep the colours").await?;
    check_eq("status of /compact", compacted.last().map(|done| done.text("status")), Some("success"))?;
    let told = compacted.iter().find(|event| event.name == "compacted").map_or("", |event| event.text("message"));
    check(told.contains("asked") && !told.contains("full"), format!("why it was compacted: {told:?}"))?;
    let after = deployment.run_well(&conversation, &format!("@recall {word}")).await?;
    check_eq("what the model was sent after the conversation was summed up", result(&after), format!("{word}: unknown"))
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation_without_model(context).await?;
    for body in [
        json!({"command": "/clear"}),
        json!({"command": "/model opus"}),
        json!({"command": "/nonsense"}),
        json!({"command": "compact"}),
        json!({"command": "/compact\nand more"}),
        json!({"command": "/compact keep\nand more"}),
        json!({"command": ""}),
        json!({"command": "/compact", "user_input": "and this"}),
        json!({"command": "/compact", "content": [{"type": "text", "text": "x"}]}),
    ] {
        for route in ["/stream", "/messages"] {
            let reply = deployment.api.post(&conversation.path(route), &body).await?;
            check_eq(format!("status of POST {route} with {body}"), reply.status.as_u16(), 422)?;
            check(reply.text().contains("command"), format!("the answer does not name the field: {}", reply.text()))?;
        }
    }
    for body in [json!({}), json!({"user_input": " "})] {
        let reply = deployment.api.post(&conversation.path("/messages"), &body).await?.expect(422)?;
        check(reply.text().contains("user_input"), format!("the answer does not name the field: {}", reply.text()))?;
    }
    Ok(())
}
