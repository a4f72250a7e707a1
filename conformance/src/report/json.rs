//! The report for programs. The number in [`SCHEMA`] changes when a field changes its meaning or is removed; fields may be added.

use serde_json::{Map, Value, json};
use strum::VariantArray as _;

use super::model::RunReport;
use crate::contract;
use crate::harness::outcome::Outcome;
use crate::harness::runner::Report;
use crate::harness::scenario::Listing;

/// Identifies the format of the document.
pub const SCHEMA: &str = "nagaya-conformance-report/1";

/// The whole document.
#[must_use]
pub fn document(report: &RunReport<'_>) -> Value {
    let counts: Map<String, Value> =
        Outcome::VARIANTS.iter().map(|outcome| (outcome.to_string(), report.count(*outcome).into())).collect();
    let missing: Map<String, Value> =
        report.run.capabilities.missing().map(|(capability, why)| (capability.to_string(), why.into())).collect();
    json!({
        "schema": SCHEMA,
        "suite_version": env!("CARGO_PKG_VERSION"),
        "contract_version": contract::version(),
        "scenarios_version": contract::SCENARIOS_VERSION,
        "run": report.run.id,
        "verdict": report.verdict(),
        "exit_code": report.verdict().exit() as u8,
        "strict": report.strict,
        "profile": report.profile,
        "filter": report.filter,
        "target": report.run.options.target,
        "launch": report.run.options.target.is_none().then_some(report.run.options.launch),
        "seed": report.run.options.seed,
        "rounds": report.rounds,
        "target_changes": report.run.target_changes(),
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
