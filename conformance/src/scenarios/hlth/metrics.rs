//! Every metric of the contract, with its type and labels.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::client::metrics::Metrics;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "HLTH-003",
    "After a run every metric of the contract exists with its type and labels, from closed sets and without ids",
    "section 5: gauges, histograms, counters; labels come from closed sets; no id is ever a label",
    body!(whole_page),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin])
.limit(90)];

/// The allowed values of a label.
#[derive(Debug, Clone, Copy)]
enum Values {
    /// Exactly these, all present from the start.
    All(&'static [&'static str]),
    /// Some of these.
    Among(&'static [&'static str]),
    /// A word of lower-case letters and `_`.
    Word,
    /// An HTTP status.
    Status,
    /// A route of the description, or a word for requests without a route.
    Route,
}

const METHODS: Values =
    Values::Among(&["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "OTHER"]);

const DIRECTIONS: Values = Values::All(&["in", "out"]);

/// A metric's labels with their allowed values.
type Labels = &'static [(&'static str, Values)];

/// Section 5 of the contract: name, type, labels.
const CONTRACT: &[(&str, &str, Labels)] = &[
    ("workspace_active_containers", "gauge", &[]),
    ("workspace_warm_pool_size", "gauge", &[]),
    ("workspace_proxies", "gauge", &[]),
    ("workspace_host_cpu_percent", "gauge", &[]),
    ("workspace_host_memory_percent", "gauge", &[]),
    ("workspace_container_startup_seconds", "histogram", &[("source", Values::All(&["cold", "warm"]))]),
    ("workspace_warm_pool_acquire_seconds", "histogram", &[]),
    ("workspace_proxy_request_duration_seconds", "histogram", &[("method", METHODS)]),
    ("workspace_s3_sync_duration_seconds", "histogram", &[("direction", DIRECTIONS)]),
    (
        "http_request_duration_seconds",
        "histogram",
        &[("method", METHODS), ("route", Values::Route), ("status", Values::Status)],
    ),
    ("workspace_requests_total", "counter", &[("status", Values::All(&["cancelled", "error", "success", "timeout"]))]),
    ("workspace_container_crashes_total", "counter", &[]),
    ("driver_unknown_frames_total", "counter", &[("kind", Values::All(&["malformed", "other", "request", "system"]))]),
    ("driver_untested_turns_total", "counter", &[]),
    ("workspace_s3_sync_errors_total", "counter", &[("direction", DIRECTIONS)]),
    ("workspace_proxy_blocked_total", "counter", &[("reason", Values::Word)]),
    ("workspace_warm_pool_exhausted_total", "counter", &[]),
    ("workspace_gc_cycles_total", "counter", &[("result", Values::All(&["error", "success"]))]),
    ("workspace_gc_reclaimed_total", "counter", &[("reason", Values::Word)]),
];

async fn whole_page(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1)).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let conversation = deployment.conversation(context).await?;
    let command = "curl -s -o /dev/null -w '%{http_code}' http://denied.example/; echo";
    let tool = json!({"command": command, "description": "Ask for what is not allowed"});
    let events = deployment.run_well(&conversation, &format!("@tool Bash {tool}\n@say done")).await?;
    let refusal = events.iter().find(|event| event.name == "tool_result").map(|event| event.data.to_string());
    check(
        refusal.as_ref().is_some_and(|refusal| refusal.contains("403")),
        format!("the workspace was not refused: {refusal:?}"),
    )?;
    deployment.api.post("/api/admin/gc", &json!({})).await?.expect(200)?;

    let page = deployment.api.metrics().await?;
    let description = deployment.api.get("/openapi.json").await?.expect(200)?.json()?;
    let routes: BTreeSet<String> =
        description["paths"].as_object().into_iter().flatten().map(|(path, _)| path.clone()).collect();
    for (name, kind, labels) in CONTRACT {
        check_eq(format!("type of {name}"), page.types.get(*name).map(String::as_str), Some(*kind))?;
        check_labels(&page, name, kind, labels, &routes)?;
    }
    // The events of this scenario have been counted.
    for (name, labels) in [
        ("workspace_requests_total", &[("status", "success")][..]),
        ("workspace_container_startup_seconds_count", &[("source", "warm")]),
        ("workspace_warm_pool_acquire_seconds_count", &[]),
        ("workspace_proxy_request_duration_seconds_count", &[("method", "POST")]),
        ("workspace_proxy_blocked_total", &[("reason", "not_allowed")]),
        ("workspace_gc_cycles_total", &[("result", "success")]),
    ] {
        let value = page.get(name, labels);
        check(value.is_some_and(|value| value >= 1.0), format!("{name}{labels:?} is {value:?} after a run"))?;
    }
    // And each once: one run, in one workspace, which came from the pool.
    for (name, labels) in [
        ("workspace_requests_total", &[("status", "success")][..]),
        ("workspace_container_startup_seconds_count", &[("source", "warm")]),
        ("workspace_warm_pool_acquire_seconds_count", &[]),
    ] {
        check_eq(format!("{name}{labels:?} after one run"), page.get(name, labels), Some(1.0))?;
    }
    for (name, labels) in [
        ("workspace_requests_total", &[("status", "error")][..]),
        ("workspace_requests_total", &[("status", "timeout")]),
        ("workspace_requests_total", &[("status", "cancelled")]),
        ("workspace_container_crashes_total", &[]),
        ("workspace_container_startup_seconds_count", &[("source", "cold")]),
        ("workspace_warm_pool_exhausted_total", &[]),
        ("workspace_s3_sync_errors_total", &[("direction", "out")]),
        ("driver_unknown_frames_total", &[("kind", "malformed")]),
        ("workspace_gc_cycles_total", &[("result", "error")]),
    ] {
        check_eq(format!("{name}{labels:?}, of which there was none"), page.get(name, labels), Some(0.0))?;
    }
    for name in ["workspace_host_cpu_percent", "workspace_host_memory_percent"] {
        let value = page.sum(name).unwrap_or(f64::NAN);
        check((0.0..=100.0).contains(&value), format!("{name} is {value}"))?;
    }
    let memory = page.sum("workspace_host_memory_percent").unwrap_or_default();
    check(memory > 0.0, "no memory of the host is in use")?;

    let run = events.first().map_or("", |event| event.id.split(':').next().unwrap_or_default());
    let mut ids = vec![conversation.id.as_str(), &conversation.tenant, &conversation.model, run];
    let rooms = deployment.rooms().await?;
    ids.extend(rooms.iter().filter_map(|room| room.workspace.as_deref()));
    ids.extend(deployment.id.as_deref());
    check(ids.len() >= 6 && ids.iter().all(|id| id.len() > 5), format!("not all ids are known: {ids:?}"))?;
    let holds_id = |value: &String| ids.iter().any(|id| value.contains(id)) || value.contains("denied.example");
    let leaked = page.samples.iter().find(|sample| sample.labels.values().any(holds_id));
    check(leaked.is_none(), format!("an id is a label: {leaked:?}"))
}

/// Checks that a metric's samples have exactly these labels, with allowed values.
fn check_labels(
    page: &Metrics,
    name: &str,
    kind: &str,
    labels: Labels,
    routes: &BTreeSet<String>,
) -> Result<(), Failure> {
    let sample_name = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
    let samples: Vec<_> = page.named(&sample_name).collect();
    check(!samples.is_empty(), format!("{name} has no sample, not even of 0"))?;
    let expected: BTreeSet<&str> = labels.iter().map(|(label, _)| *label).collect();
    for sample in &samples {
        let have: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
        check_eq(format!("labels of {name}"), have, expected.clone())?;
    }
    for (label, values) in labels {
        let have: BTreeSet<&str> = samples.iter().map(|sample| sample.labels[*label].as_str()).collect();
        let is_word = |value: &&str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let fits = match values {
            Values::All(all) => have.iter().eq(all.iter()),
            Values::Among(some) => have.iter().all(|value| some.contains(value)),
            Values::Word => have.iter().all(is_word),
            Values::Status => have.iter().all(|value| value.len() == 3 && value.parse::<u16>().is_ok()),
            Values::Route => have.iter().all(|value| {
                routes.contains(*value) || is_word(value) || *value == "/docs" || *value == "/openapi.json"
            }),
        };
        check(fits, format!("values of {label} in {name}: {have:?}, expected {values:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_contract_has_these_metrics_with_their_types() {
        let page = include_str!("../../../../docs/contract/metrics.md");
        let mut written = 0;
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = row.split(" | ");
            let (names, kind) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            for name in names.split('`').skip(1).step_by(2) {
                let known = CONTRACT.iter().any(|(known, its_kind, _)| *known == name && *its_kind == kind);
                assert!(known, "{name}, a {kind}, is not checked");
                written += 1;
            }
        }
        assert_eq!(written, CONTRACT.len(), "metrics of docs/contract/metrics.md and of this scenario");
    }
}
