//! What the model is sent: the instructions of every level, the tools, and all that was said.

use serde_json::{Value, json};

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::fixtures::ModelRequest;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TOOL-036",
    "The model is sent each level's instructions in order, the run's options alone, and everything that was said",
    "instructions of tenant, conversation, run in that order; the next run is without the run's",
    body!(sent),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn run(deployment: &Deployment, of: &Conversation, prompt: &str, own: &Value) -> Result<Vec<RunEvent>, Failure> {
    let body = json!({"user_input": prompt, "configuration": own});
    let events = deployment.api.open_stream(&of.path("/stream"), &body).await?.finish().await?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in {done}"), done["status"].as_str(), Some("success"))?;
    Ok(events)
}

/// The latest request that offers tools.
async fn latest(deployment: &Deployment) -> Result<ModelRequest, Failure> {
    let requests = deployment.model()?.requests().await?;
    let latest = requests.into_iter().rfind(ModelRequest::has_tools);
    latest.ok_or_else(|| Failure::assertion("the model was asked nothing"))
}

/// The request's instructions must have these texts in this order, each once, with nothing between them.
fn instructed(request: &ModelRequest, texts: &[&str], absent: &[&str]) -> Result<(), Failure> {
    let system = request.system();
    let joined = texts.join("\n\n");
    check(system.contains(&joined), format!("{joined:?} is not in {system}"))?;
    for text in texts {
        check_eq(format!("how often {text:?} is in {system}"), system.matches(text).count(), 1)?;
    }
    let found = absent.iter().find(|text| system.contains(**text));
    check(found.is_none(), format!("{found:?} is in {system}"))
}

const TENANTS: &str = "You are the tenant's agent.";
const TENANT: &str = "Be brief, says the tenant.";
const CONVERSATION: &str = "Be kind, says the conversation.";
const OF_RUN: &str = "Be quick, says the run.";

async fn sent(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let of_tenant = format!("/api/tenants/{}", conversation.tenant);
    deployment.api.put(&of_tenant, &json!({"system_prompt": TENANTS})).await?.expect(200)?;
    let instructions = |text: &str| json!({"version": 0, "configuration": {"agent": {"instructions": text}}});
    deployment.api.put(&format!("{of_tenant}/configuration"), &instructions(TENANT)).await?.expect(200)?;
    deployment.api.put(&conversation.path("/configuration"), &instructions(CONVERSATION)).await?.expect(200)?;

    let first = "@say One.\n@tool Bash {\"command\": \"echo seen\", \"description\": \"Look\"}\n@say Two.";
    let own = json!({"agent": {"instructions": OF_RUN}, "limits": {"max_turns": 5}});
    run(&deployment, &conversation, first, &own).await?;
    let request = latest(&deployment).await?;
    instructed(&request, &[TENANTS, TENANT, CONVERSATION, OF_RUN], &[])?;
    let mut said = vec![
        ("user", first.to_owned()),
        ("assistant", "One.\nuses Bash".to_owned()),
        ("user", "result: seen".to_owned()),
    ];
    let is = |request: &ModelRequest, said: &[(&str, String)], when: &str| {
        let sent: Vec<(&str, String)> =
            request.said().into_iter().map(|(role, text)| (role, text.to_owned())).collect();
        check_eq(format!("what the model is sent {when}"), sent, said.to_vec())
    };
    is(&request, &said, "in the first run")?;
    said.push(("assistant", "Two.".to_owned()));

    let second = "And on.\n@say Three.";
    run(&deployment, &conversation, second, &json!({})).await?;
    said.push(("user", second.to_owned()));
    let request = latest(&deployment).await?;
    instructed(&request, &[TENANTS, TENANT, CONVERSATION], &[OF_RUN])?;
    is(&request, &said, "in the second run")?;
    said.push(("assistant", "Three.".to_owned()));

    // Without the conversation's instructions, and after a restart in a new workspace.
    let none = json!({"version": 1, "configuration": {}});
    deployment.api.put(&conversation.path("/configuration"), &none).await?.expect(200)?;
    deployment.stop().await?;
    deployment.restart(context).await?;
    deployment.api.delete(&conversation.path("/workspace")).await?.expect(204)?;
    let third = "Once more.\n@say Four.";
    run(&deployment, &conversation, third, &json!({"tools": {"allowed": ["Read"]}})).await?;
    said.push(("user", third.to_owned()));
    let request = latest(&deployment).await?;
    instructed(&request, &[TENANTS, TENANT], &[CONVERSATION, OF_RUN])?;
    is(&request, &said, "in a new workspace")?;
    said.push(("assistant", "Four.".to_owned()));

    // Another conversation of the tenant has what is the tenant's, and nothing of what was said here.
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    run(&deployment, &other, "@say Hello.", &json!({})).await?;
    let request = latest(&deployment).await?;
    instructed(&request, &[TENANTS, TENANT], &[CONVERSATION, OF_RUN])?;
    is(&request, &[("user", "@say Hello.".to_owned())], "in another conversation")?;
    // And one of another tenant has neither.
    let theirs = deployment.conversation(context).await?;
    run(&deployment, &theirs, "@say Hello.", &json!({})).await?;
    let request = latest(&deployment).await?;
    instructed(&request, &[], &[TENANTS, TENANT, CONVERSATION, OF_RUN])?;
    run(&deployment, &conversation, "@say Five.", &json!({})).await?;
    said.push(("user", "@say Five.".to_owned()));
    is(&latest(&deployment).await?, &said, "in the end")
}
