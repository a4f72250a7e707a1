//! Questions that the model asks the user.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::asked::{decide, of, resolution, status, tool_result};
use crate::client::http::Reply;
use crate::client::stream::EventStream;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "APPR-020",
        "The model's question reaches the user, and the user's answer the model; without one in time there is none",
        "AskUserQuestion is a question, answered the same way; on timeout it is answered \"no answer\"",
        body!(answered),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "APPR-021",
        "After its server's death a question takes an answer until its time is up, and refuses any from then on",
        "late answers: 200 in time and alike again, 409 otherwise, or when the time is up, also after the run",
        body!(answered_late),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(150),
];

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
    let given = |answers: Value| json!({"decision": "allow", "answers": answers});
    for bad in [given(json!({})), given(json!({"Another?": "Red"})), json!({"decision": "allow"})] {
        decide(&deployment, &conversation, &id, &bad).await?.expect(422)?;
    }
    decide(&deployment, &conversation, &id, &answer("Blue")).await?.expect(200)?;
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
    for late in [answer("Blue"), json!({"decision": "deny"})] {
        decide(&deployment, &conversation, &id, &late).await?.expect_error(409, "CONFLICT")?;
    }
    // Whoever has not agreed to questions is not asked any.
    let events = ask(&deployment, &conversation, false).await?.finish().await?;
    check(of(&events, "question").is_empty(), "the model asks although it may not")
}

/// An answer to the question.
fn answer(colour: &str) -> Value {
    json!({"decision": "allow", "answers": {QUESTION: colour}})
}

/// A refusal, because the time was up.
fn too_late(reply: &Reply, when: &str) -> Result<(), Failure> {
    reply.expect_error(409, "CONFLICT").map_err(|failure| failure.during(when))
}

async fn answered_late(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new().set("APPROVAL_TIMEOUT", "15s")).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = ask(&deployment, &conversation, true).await?;
    let asked = stream.until("question").await?;
    drop(stream);
    deployment.kill().await?;
    let expires: Timestamp = asked.text("expires_at").parse().map_err(Failure::assertion)?;
    // Otherwise the server itself has seen that the time was up.
    if Timestamp::now() >= expires {
        return Err(Failure::could_not_run("the question's time was up before the server was dead"));
    }
    eventually(Duration::from_secs(30), "the question's time is up", async || {
        let now = Timestamp::now();
        if now > expires { Ok(()) } else { Err(format!("it is {now}, and it expires at {expires}")) }
    })
    .await?;
    deployment.restart(context).await?;
    let id = asked.text("request_id");
    let sent = async |given: Value| decide(&deployment, &conversation, id, &given).await;
    too_late(&sent(answer("Blue")).await?, "an answer to a server that was dead when the time was up")?;
    let events = deployment.follow(&conversation, &asked.id).await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "timeout".to_owned())?;
    let result = tool_result(&events)?;
    check(!result.text("content").contains("Blue"), format!("what the model is told: {result:?}"))?;
    too_late(&sent(answer("Blue")).await?, "an answer after the run")?;
    too_late(&sent(json!({"decision": "deny"})).await?, "a refusal after the run")?;

    // A server that returns in time.
    let server = deployment.server.as_mut().ok_or_else(|| Failure::could_not_run("not launched by this suite"))?;
    server.program.env.insert("APPROVAL_TIMEOUT".into(), "120s".into());
    deployment.kill().await?;
    deployment.restart(context).await?;
    let mut stream = ask(&deployment, &conversation, true).await?;
    let asked = stream.until("question").await?;
    drop(stream);
    deployment.kill().await?;
    deployment.restart(context).await?;
    let id = asked.text("request_id");
    let sent = async |given: Value| decide(&deployment, &conversation, id, &given).await;
    let counts = sent(answer("Blue")).await?.expect(200)?.json()?;
    check_eq("decision in the answer", counts["decision"].as_str(), Some("allow"))?;
    let again = async |when: &str| {
        check_eq(format!("the same answer {when}"), sent(answer("Blue")).await?.expect(200)?.json()?, counts.clone())?;
        for other in [answer("Red"), json!({"decision": "deny"})] {
            sent(other).await?.expect_error(409, "CONFLICT").map_err(|failure| failure.during(when))?;
        }
        Ok::<_, Failure>(())
    };
    again("during the run").await?;
    let events = deployment.follow(&conversation, &asked.id).await?;
    check_eq("status", status(&events), "success")?;
    check_eq("decision in approval_resolved", resolution(&events)?, "allow".to_owned())?;
    check(tool_result(&events)?.text("content").contains("Blue"), "the model is not told the answer")?;
    again("after the run").await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    let last = decide(&deployment, &conversation, id, &answer("Blue")).await?.expect(200)?.json()?;
    check_eq("the same answer after another restart", last, counts)
}
