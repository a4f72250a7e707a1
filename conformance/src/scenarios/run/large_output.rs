//! Outputs of tools that are not text, or too long for the model.

use serde_json::json;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::files::{listed, url};
use crate::scenarios::common::needs::RUN;

/// The smallest picture: one pixel, as PNG.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// How many lines the long output has: some 590 kB.
const LINES: usize = 100_000;
/// Directory of the conversation's files.
const WORKSPACE: &str = "/workspace/";

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-046",
    "A tool's output that is too long is a file of the conversation, and an image is mentioned in the result",
    "tool_result says what the tool returned; what the CLI saves aside can be downloaded",
    body!(outputs),
)
.severity(Severity::Medium)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

async fn outputs(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let draw = json!({"command": format!("echo {PICTURE} | base64 -d > /workspace/p.png"), "description": "Draw"});
    let count = json!({"command": format!("seq 1 {LINES}"), "description": "Count"});
    let prompt = format!(
        "@tool Bash {draw}\n@tool Read {{\"file_path\": \"/workspace/p.png\"}}\n@tool Bash {count}\n@say looked"
    );
    let events = deployment.run_well(&conversation, &prompt).await?;
    let results: Vec<&RunEvent> = events.iter().filter(|event| event.name == "tool_result").collect();
    check_eq(format!("results of tools in {results:?}"), results.len(), 3)?;
    check(text(results[1]).contains("image"), format!("the result of reading an image: {}", results[1].data))?;

    let told = text(results[2]);
    let path = told.split_whitespace().find_map(|word| word.strip_prefix(WORKSPACE));
    let path = path.ok_or_else(|| {
        Failure::assertion(format!("the result of a long output names no file of the workspace: {told:.1000}"))
    })?;
    let whole = deployment.api.get(&url(&conversation, "files/download", path)).await?.expect(200)?.text();
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    // Without `check_eq`, which would print both.
    check(
        whole.trim_end() == expected.trim_end(),
        format!("the file has {} bytes instead of {}, or others", whole.len(), expected.len()),
    )?;
    let (paths, _) = listed(&deployment, &conversation, "").await?;
    check(paths.iter().any(|listed| listed == path), format!("{path} is not listed: {paths:?}"))
}

fn text(result: &RunEvent) -> String {
    match result.data["content"].as_str() {
        Some(text) => text.to_owned(),
        None => result.data["content"].to_string(),
    }
}
