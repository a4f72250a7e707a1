//! The delivered alerts and dashboard against a real Prometheus.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::fixtures::{Origin, OriginKind};
use crate::target::launch::Launch;
use crate::target::prometheus::{Prometheus, RULES, lint};

/// The dashboard as it is delivered.
const DASHBOARD: &str = include_str!("../../../../deploy/grafana/dashboards/nagaya.json");
/// How long scraping and evaluation may take; both happen every second.
const SEEN_LIMIT: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "HLTH-004",
    "A real Prometheus scrapes a deployment: alerts and dashboard have data, and an alert reaches its receiver",
    "metrics that are true: alert rules and dashboard work on a real scrape",
    body!(watched),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Prometheus])
.limit(150)];

async fn watched(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new()
        .set("WARM_POOL_MIN_SIZE", 1)
        .set("WARM_POOL_MAX_SIZE", 1)
        .set("CONTAINER_MAX", 8)
        .set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, SEEN_LIMIT).await?;
    let receiver = context.origin(OriginKind::Naive).await?;
    let prometheus = context.prometheus(&deployment, &receiver).await?;
    scraped(&prometheus, "workspace_warm_pool_exhausted_total", 0.0).await?;
    let findings =
        lint(&context.run.id, context.dir(), &deployment.api.get("/metrics").await?.expect(200)?.text()).await?;
    check(findings.trim().is_empty(), format!("promtool check metrics: {findings}"))?;
    let quiet = firing(&prometheus).await?;
    check(quiet.is_empty(), format!("alerts fire without a fault: {quiet:?}"))?;

    // One conversation gets the workspace in the pool, the others find the pool empty.
    let conversations = conversations(context, &deployment, 4).await?;
    let runs = conversations.iter().map(|conversation| deployment.run_well(conversation, "@say hello"));
    futures::future::try_join_all(runs).await?;
    deployment.metric("workspace_warm_pool_exhausted_total", |times| times >= 3.0, SEEN_LIMIT).await?;
    prometheus.alerts("NagayaPoolExhausted", "firing", SEEN_LIMIT).await?;
    told(context, &receiver, "NagayaPoolExhausted").await?;

    lose_rooms(&deployment, &conversations[..2]).await?;
    deployment.metric("workspace_container_crashes_total", |crashes| crashes == 2.0, SEEN_LIMIT).await?;
    prometheus.alerts("NagayaRoomsCrash", "firing", SEEN_LIMIT).await?;
    scraped(&prometheus, "sum(workspace_requests_total)", 6.0).await?;

    let rules = check_rules(&prometheus).await?;
    let panels = check_dashboard(&prometheus).await?;
    context.note(format!("{rules} alerts, {panels} queries of the dashboard"));
    let firing = firing(&prometheus).await?;
    for other in ["NagayaDown", "NagayaUnhealthy", "NagayaGarbageCollectionFails", "NagayaAuditTrailLosesLines"] {
        check(!firing.contains(other), format!("{other} fires, too: {firing:?}"))?;
    }
    deployment.stop().await?;
    prometheus.alerts("NagayaDown", "pending", SEEN_LIMIT).await
}

/// Waits until a query has one value, and returns it.
async fn scraped(prometheus: &Prometheus, query: &str, expected: f64) -> Result<(), Failure> {
    eventually(SEEN_LIMIT, format!("{query} = {expected} in Prometheus"), async || {
        let found = prometheus.query(query).await?;
        let value = found.first().and_then(|sample| sample["value"][1].as_str()?.parse::<f64>().ok());
        check(value == Some(expected), format!("{found:?}"))
    })
    .await
}

/// Waits until the receiver has been told of an alert.
async fn told(context: &Context, receiver: &Origin, alert: &str) -> Result<(), Failure> {
    let receiver = Api::new(&format!("http://{}", receiver.address), None, context.exchanges().clone())?;
    eventually(SEEN_LIMIT, format!("a message about {alert}"), async || {
        // The bodies of all messages so far.
        let messages = receiver.get("/kept").await?.text();
        let there = messages.contains(&format!("\"alertname\":\"{alert}\"")) && messages.contains("runbook");
        check(there, if messages.is_empty() { "no message".to_owned() } else { messages })
    })
    .await
}

async fn firing(prometheus: &Prometheus) -> Result<BTreeSet<String>, Failure> {
    let alerts = prometheus.query("ALERTS{alertstate=\"firing\"}").await?;
    Ok(alerts.iter().filter_map(|alert| alert["metric"]["alertname"].as_str()).map(str::to_owned).collect())
}

async fn conversations(
    context: &Context,
    deployment: &Deployment,
    number: usize,
) -> Result<Vec<Conversation>, Failure> {
    let first = deployment.conversation(context).await?;
    let (tenant, model) = (first.tenant.clone(), first.model.clone());
    let mut all = vec![first];
    while all.len() < number {
        all.push(deployment.another_conversation(context, &tenant, &model).await?);
    }
    Ok(all)
}

/// Kills every workspace while runs are active in these conversations.
async fn lose_rooms(deployment: &Deployment, conversations: &[Conversation]) -> Result<(), Failure> {
    let tool = json!({"command": "tail -f /dev/null", "description": "Wait"});
    let mut streams = Vec::new();
    for conversation in conversations {
        let mut stream = deployment.start(conversation, &format!("@tool Bash {tool}\n@say never said")).await?;
        stream.until("tool_call").await?;
        streams.push(stream);
    }
    for room in deployment.rooms().await? {
        room.kill("SIGKILL").await?;
    }
    for stream in streams {
        let events = stream.finish().await?;
        let done = events.last().map(|done| done.text("status").to_owned());
        check_eq("status of a run whose workspace was killed", done.as_deref(), Some("error"))?;
    }
    Ok(())
}

/// Checks that every alert is evaluated without an error and has data.
async fn check_rules(prometheus: &Prometheus) -> Result<usize, Failure> {
    let rules = prometheus.rules().await?;
    check_eq("number of alerts", rules.len(), RULES.matches("- alert: ").count())?;
    for rule in &rules {
        let name = rule["name"].as_str().unwrap_or_default();
        let evaluated = eventually(SEEN_LIMIT, format!("{name} evaluated"), async || {
            let rules = prometheus.rules().await?;
            let health = rules.iter().find(|rule| rule["name"] == name).map(|rule| rule["health"].clone());
            check(health == Some(json!("ok")), format!("{health:?}"))
        });
        evaluated.await?;
        let query = rule["query"].as_str().unwrap_or_default();
        let looked_at = selectors(query);
        check(!looked_at.is_empty(), format!("{name} looks at no metric: {query}"))?;
        for selector in looked_at {
            // No request has failed here; it is enough that requests are counted by status.
            let selector = selector.replace("status=~\"5..\"", "status=~\"...\"");
            let found = prometheus.query(&format!("count({selector})")).await?;
            check(!found.is_empty(), format!("{name} looks at {selector}, and there is no such thing"))?;
        }
    }
    Ok(rules.len())
}

/// Checks that every query of the dashboard has data.
async fn check_dashboard(prometheus: &Prometheus) -> Result<usize, Failure> {
    let dashboard: Value =
        serde_json::from_str(DASHBOARD).map_err(|error| Failure::assertion(format!("the dashboard: {error}")))?;
    let mut number = 0;
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap_or_default();
            let query = query.replace("$instance", ".+").replace("$__rate_interval", "1m");
            let found = prometheus.query(&query).await?;
            check(!found.is_empty(), format!("the panel {} has no data: {query}", panel["title"]))?;
            number += 1;
        }
    }
    check(number > 0, "the dashboard has no query")?;
    Ok(number)
}

/// The metrics of a query, each with its matchers.
fn selectors(query: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = query;
    while let Some(at) = ["workspace_", "http_request_", "up{"].iter().filter_map(|name| rest.find(name)).min() {
        let from = &rest[at..];
        let name = from.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(from.len());
        let end = match from[name..].strip_prefix('{').and_then(|matchers| matchers.find('}')) {
            Some(length) => name + length + 2,
            None => name,
        };
        found.insert(from[..end].to_owned());
        rest = &from[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_found() {
        let query =
            "sum by (instance) (rate(workspace_a_total{x=\"1\"}[5m])) > 2 * workspace_b or absent(up{job=\"n\"})";
        let expected = ["up{job=\"n\"}", "workspace_a_total{x=\"1\"}", "workspace_b"].map(str::to_owned);
        assert_eq!(selectors(query), BTreeSet::from(expected));
    }
}
