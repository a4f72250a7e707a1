//! The report for machines. [`SCHEMA`] changes its number when a field changes its meaning or goes; new fields may come.

use serde_json::{Map, Value, json};

use super::RunReport;
use crate::outcome::Outcome;
use crate::runner::Report;
use crate::scenario::Listing;

/// Names the form of the document.
pub const SCHEMA: &str = "nagaya-conformance-report/1";

/// The whole document.
#[must_use]
pub fn document(report: &RunReport<'_>) -> Value {
    let counts: Map<String, Value> =
        Outcome::ALL.iter().map(|outcome| (outcome.name().to_owned(), report.count(*outcome).into())).collect();
    let missing: Map<String, Value> =
        report.run.capabilities.missing().map(|(capability, why)| (capability.name().to_owned(), why.into())).collect();
    json!({
        "schema": SCHEMA,
        "suite_version": env!("CARGO_PKG_VERSION"),
        "run": report.run.id,
        "verdict": report.verdict(),
        "exit_code": report.verdict().exit() as u8,
        "strict": report.strict,
        "profile": report.profile,
        "filter": report.filter,
        "target": report.run.options.target,
        "launch": report.run.options.target.is_none().then_some(report.run.options.launch),
        "seed": report.run.options.seed,
        "started_at": report.started_at.to_string(),
        "duration_seconds": report.took.as_secs_f64(),
        "counts": counts,
        "missing_capabilities": missing,
        "missing_scenarios": report.missing,
        "scenarios": report.reports.iter().map(scenario).collect::<Vec<_>>(),
    })
}

fn scenario(report: &Report) -> Value {
    let mut value = serde_json::to_value(Listing::from(report.scenario)).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        let ended = json!({
            "outcome": report.outcome,
            "duration_seconds": report.took.as_secs_f64(),
            "message": report.message,
            "expected": report.expected,
            "actual": report.actual,
            "notes": report.notes,
            "evidence": report.evidence,
            "reproduce": report.reproduce,
        });
        fields.extend(ended.as_object().cloned().unwrap_or_default());
    }
    value
}
