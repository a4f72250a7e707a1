//! Conversations whose workspace a run has damaged or filled: the next run works, or is told what to do.

use bytes::Bytes;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::{ended_badly, endless};
use crate::scenarios::common::files::{upload, url};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-043",
        "A run works and remembers although the driver's session or settings are junk, or /workspace is closed",
        "a session that cannot be continued is replaced by the history; the agent repairs its directories",
        body!(damaged),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "RUN-044",
        "Files leave the driver its memory, what uses it up is named, and a tenant gets a new workspace",
        "uploads leave the driver its memory (413); DELETE …/workspace",
        body!(filled),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

async fn damaged(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    deployment.run_well(&conversation, &format!("Remember {word}.\n@say Yes.")).await?;
    let room = deployment.only_room().await?;
    let sessions = "find \"$HOME/.claude/projects\" -name '*.jsonl'";
    for (what, damage) in [
        ("without the session's file", format!("{sessions} -delete")),
        ("with junk in the session's file", format!("{sessions} -exec sh -c 'echo junk >\"$1\"' - {{}} \\;")),
        ("with a session's file that cannot be read", format!("{sessions} -exec chmod 000 {{}} \\;")),
        ("with junk in the settings", "echo 'junk{{' >\"$HOME/.claude.json\"".to_owned()),
        ("with a closed directory", "chmod 000 /workspace".to_owned()),
    ] {
        let done = room.shell(&format!("{damage} && echo done")).await?;
        check_eq(format!("damage {what}"), done.printed.trim(), "done")?;
        let events =
            deployment.run_well(&conversation, &format!("@recall {word}")).await.map_err(|error| error.during(what))?;
        let result = events.last().map_or("", |done| done.text("result"));
        check_eq(format!("the answer {what}"), result, format!("{word}: remembered"))?;
    }
    check_eq("the workspace in the end", deployment.only_room().await?.id, room.id)
}

async fn filled(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_MEMORY", "640MiB")).await?;
    let conversation = deployment.conversation(context).await?;
    // Of 640 MiB the driver keeps half.
    let mib = |count: usize| Bytes::from(vec![b'x'; count << 20]);
    upload(&deployment, &conversation, "fits", mib(200)).await?.expect(204)?;
    let refused = upload(&deployment, &conversation, "too much", mib(150)).await?;
    refused.expect_error(413, "PAYLOAD_TOO_LARGE")?;
    let why = refused.text();
    check(why.contains("320 MiB") && why.contains("CONTAINER_MEMORY"), format!("the numbers are not in: {why}"))?;
    deployment.run_well(&conversation, "@say there is room to work").await?;

    let first = deployment.only_room().await?;
    let workspace = conversation.path("/workspace");
    let stream = endless(&deployment, &conversation).await?;
    deployment.api.delete(&workspace).await?.expect_error(409, "RESOURCE_LOCKED")?;
    deployment.api.post(&conversation.path("/cancel"), &serde_json::json!({})).await?.expect(202)?;
    let events = stream.rest().await?;
    let usage = events.last().map(|done| done.data["usage"].clone()).unwrap_or_default();
    let counted = usage["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0);
    check(counted, format!("the tokens of a cancelled run are not counted: {usage}"))?;
    deployment.api.delete(&workspace).await?.expect(204)?;
    deployment.api.delete(&workspace).await?.expect(204)?;
    deployment.run_well(&conversation, "@say in a new one").await?;
    let second = deployment.only_room().await?;
    check(second.id != first.id, "the workspace is still the old one")?;

    let fill = "@tool Bash {\"command\": \"head -c 900m /dev/zero >big\", \"description\": \"Fill\"}\n@say never said";
    let events = deployment.run(&conversation, fill).await?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map(|error| error.data.clone()).unwrap_or_default();
    check_eq(format!("error_type in {error}"), error["error_type"].as_str(), Some("out_of_memory"))?;
    check_eq(format!("recoverable in {error}"), error["recoverable"].as_bool(), Some(false))?;
    deployment.api.delete(&url(&conversation, "files", "big")).await?.expect(204)?;
    deployment.run_well(&conversation, "@say after the file is gone").await?;

    // A tool that was killed in one turn says nothing of how the driver ends in a later one.
    let tool = "@tool Bash {\"command\": \"python3 -c 'bytearray(900 << 20)'\", \"description\": \"Use memory up\"}\n@say it goes on";
    deployment.run_well(&conversation, tool).await?;
    let stream = endless(&deployment, &conversation).await?;
    second.shell("pid=$(cat /proc/1/task/1/children) && kill -KILL ${pid%% *}").await?;
    let events = stream.rest().await?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map(|error| error.data.clone()).unwrap_or_default();
    check_eq(format!("error_type in {error}"), error["error_type"].as_str(), Some("execution_error"))?;
    deployment.run_well(&conversation, "@say after the driver was killed").await?;
    check_eq("the workspace in the end", deployment.only_room().await?.id, second.id)
}
