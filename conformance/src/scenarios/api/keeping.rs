//! What a change, a list and a sum leave out, and what they must not.

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-018",
        "A change of a conversation leaves what it does not name; a list includes its first and its last moment",
        "PUT: absent fields stay; from_date, to_date: at or after, at or before",
        body!(left_alone),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(&[Capability::Launch]),
    Scenario::new(
        "API-019",
        "What a tenant has used stays the sum of its runs, also when their conversations are deleted",
        "GET …/usage: per day and model, deleted conversations included",
        body!(usage_stays),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN),
];

async fn left_alone(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().without_model().without_waiting()).await?;
    let first = deployment.conversation(context).await?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let third = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let put = async |change: Value| deployment.api.put(&second.path(""), &change).await?.expect(200)?.json();
    // The control.
    check_eq("title that was set", put(json!({"title": "Named"})).await?["title"].as_str(), Some("Named"))?;
    for change in
        [json!({"status": "archived"}), json!({"status": "active"}), json!({"model_id": second.model}), json!({})]
    {
        let changed = put(change.clone()).await?;
        check_eq(format!("title after {change}"), changed["title"].as_str(), Some("Named"))?;
    }
    let archived = put(json!({"status": "archived"})).await?;
    let titled = put(json!({"title": "Renamed"})).await?;
    check_eq("status after a change of the title", &titled["status"], &archived["status"])?;
    let moment = second.created["created_at"].as_str().unwrap_or_default();
    let listed = async |query: String| {
        let path = format!("/api/tenants/{}/conversations?{query}", first.tenant);
        let page = deployment.api.get(&path).await?.expect(200)?.json()?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        check_eq(format!("total of {path}"), page["total"].as_u64(), Some(items.len() as u64))?;
        Ok::<_, Failure>(
            items.iter().filter_map(|one| one["conversation_id"].as_str()).map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    check_eq(
        "from and to the second one's moment",
        listed(format!("from_date={moment}&to_date={moment}")).await?,
        vec![second.id.clone()],
    )?;
    check_eq(
        "from the second one's moment on",
        listed(format!("from_date={moment}")).await?,
        vec![third.id.clone(), second.id.clone()],
    )?;
    check_eq(
        "up to the second one's moment",
        listed(format!("to_date={moment}")).await?,
        vec![second.id.clone(), first.id.clone()],
    )
}

/// Runs, tokens and cost of a tenant, over all its days and models.
async fn usage(api: &crate::client::http::Api, tenant: &str) -> Result<(u64, u64, f64), Failure> {
    let usage = api.get(&format!("/api/tenants/{tenant}/usage")).await?.expect(200)?.json()?;
    let days = usage.as_array().cloned().unwrap_or_default();
    let sum = |field: &str| days.iter().filter_map(|day| day[field].as_u64()).sum();
    let cost = days.iter().filter_map(|day| day["cost_usd"].as_str()?.parse::<f64>().ok()).sum();
    Ok((sum("runs"), sum("output_tokens"), cost))
}

async fn usage_stays(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let first = deployment.conversation(context).await?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let (mut tokens, mut cost) = (0, 0.0);
    for conversation in [&first, &first, &second] {
        let events = deployment.run_well(conversation, "@say The same.").await?;
        let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
        tokens += done["usage"]["output_tokens"].as_u64().unwrap_or(0);
        cost += done["cost_usd"].as_str().and_then(|cost| cost.parse::<f64>().ok()).unwrap_or(0.0);
    }
    check(tokens > 0 && cost > 0.0, format!("the runs have used {tokens} tokens for {cost} USD"))?;
    let steps = [("after three runs", None), ("without the first", Some(&first)), ("without any", Some(&second))];
    for (when, deleted) in steps {
        if let Some(conversation) = deleted {
            deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        }
        let (runs, output, costs) = usage(&deployment.api, &first.tenant).await?;
        check_eq(format!("runs and tokens {when}"), (runs, output), (3, tokens))?;
        check((costs - cost).abs() < 1e-9, format!("cost {when}: {costs}, the runs said {cost}"))?;
    }
    Ok(())
}
