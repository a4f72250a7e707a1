//! What a user types is text, and what a client asks for is there.

use bytes::Bytes;
use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::files::upload;
use crate::scenarios::common::needs::RUN;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-045",
    "Slash commands and @path are text, tools for later are off, and prompts of white space are refused",
    "user_input is plain text for the model",
    body!(plain),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

async fn plain(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    upload(&deployment, &conversation, "note.txt", Bytes::from(word.clone())).await?.expect(204)?;
    let events = deployment.run_well(&conversation, &format!("Look at @note.txt\n@recall {word}")).await?;
    let result = events.last().map_or("", |done| done.text("result"));
    check_eq("the model about a file that the user mentioned", result, format!("{word}: unknown"))?;
    let tools =
        events.iter().find(|event| event.name == "init").map(|init| init.data["tools"].to_string()).unwrap_or_default();
    for tool in ["ScheduleWakeup", "CronCreate", "Monitor"] {
        check(!tools.contains(tool), format!("{tool} is among the tools: {tools}"))?;
    }
    for command in ["/cost", "/clear", "/compact"] {
        let events = deployment.run_well(&conversation, &format!("{command}\n@say heard")).await?;
        check_eq(format!("the answer to {command}"), events.last().map_or("", |done| done.text("result")), "heard")?;
    }
    let read = format!(
        "@tool Bash {{\"command\": \"printf {PIXEL} | base64 -d > pixel.png\", \"description\": \"Draw\"}}\n\
         @tool Read {{\"file_path\": \"/workspace/pixel.png\"}}\n@say seen"
    );
    let events = deployment.run_well(&conversation, &read).await?;
    let image = events.iter().find(|event| event.name == "tool_result" && event.text("tool_name") == "Read");
    let content = image.map_or("", |result| result.text("content"));
    check(content.contains("[image"), format!("the result of reading an image: {content:?}"))?;

    let last = events.last().map(|done| done.id.clone()).unwrap_or_default();
    let beyond = format!("{last}99");
    let stream = conversation.path("/stream");
    let refused = deployment.api.get(&format!("{stream}?after={beyond}")).await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;
    let blank = deployment.api.post(&stream, &json!({"user_input": " \n\t "})).await?;
    blank.expect_error(422, "VALIDATION_ERROR")?;
    let escaped = format!("{{\"user_input\": \"@say long\\n{}\"}}", "\\u00e9".repeat(199_000));
    let long = deployment.api.post_bytes(&stream, Bytes::from(escaped)).await?;
    check_eq("status of a prompt of 199,000 escapes", long.status.as_u16(), 200)
}
