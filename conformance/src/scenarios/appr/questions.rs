//! Questions that the model asks the user.

use serde_json::{Value, json};

use super::asked::{decide, of, resolution, status, tool_result};
use crate::client::stream::EventStream;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "APPR-020",
    "The model's question reaches the user, and the user's answer the model; without one in time there is none",
    "AskUserQuestion is a question, answered the same way; on timeout it is answered \"no answer\"",
    body!(answered),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

const QUESTION: &str = "Which colour?";

async fn ask(deployment: &Deployment, conversation: &Conversation, may: bool) -> Result<EventStream, Failure> {
    let option = |label: &str| json!({"label": label, "description": label});
    let question = json!({"questions": [{"question": QUESTION, "header": "Colour", "multiSelect": false,
        "options": [option("Red"), option("Blue")]}]});
    let prompt = format!("@tool AskUserQuestion {question}\n@say Thank you.");
    let body = json!({"user_input": prompt, "configuration": {"permissions": {"questions": may}}});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await
}

async fn answered(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("APPROVAL_TIMEOUT", "8s")).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = ask(&deployment, &conversation, true).await?;
    let asked = stream.until("question").await?;
    check_eq("the question", asked.data["input"]["questions"][0]["question"].as_str(), Some(QUESTION))?;
    let id = asked.text("request_id").to_owned();
    let listed = deployment.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
    check_eq("kind in the list", listed["approvals"][0]["kind"].as_str(), Some("question"))?;
    let answer = |given: Value| json!({"decision": "allow", "answers": given});
    for bad in [answer(json!({})), answer(json!({"Another?": "Red"})), json!({"decision": "allow"})] {
        decide(&deployment, &conversation, &id, &bad).await?.expect(422)?;
    }
    decide(&deployment, &conversation, &id, &answer(json!({QUESTION: "Blue"}))).await?.expect(200)?;
    let events = stream.finish().await?;
    check_eq("status", status(&events), "success")?;
    let result = tool_result(&events)?;
    check(result.text("content").contains("Blue"), format!("what the model is told: {result:?}"))?;
    // Nobody answers.
    let events = ask(&deployment, &conversation, true).await?.finish().await?;
    check_eq("decision in approval_resolved", resolution(&events)?, "timeout".to_owned())?;
    let result = tool_result(&events)?;
    check(result.text("content").contains("no answer"), format!("what the model is told: {result:?}"))?;
    // An answer that comes later is too late, whatever it says.
    let id = of(&events, "question").first().map(|asked| asked.text("request_id").to_owned()).unwrap_or_default();
    for late in [answer(json!({QUESTION: "Blue"})), json!({"decision": "deny"})] {
        decide(&deployment, &conversation, &id, &late).await?.expect_error(409, "CONFLICT")?;
    }
    // Whoever has not agreed to questions is not asked any.
    let events = ask(&deployment, &conversation, false).await?.finish().await?;
    check(of(&events, "question").is_empty(), "the model asks although it may not")
}
