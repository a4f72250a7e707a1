//! Servers that do not do right by what callers bring along.

use http::Method;
use serde_json::json;

use super::mutant::{Mutant, answers, asks, red};
use super::run::cli;
use crate::target::defects::Defect;
use crate::target::tamper::Answer;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "callers-tools-one-by-one",
        title: "The driver does not know that calls of the caller's tools may run side by side",
        defects: &[cli!("exec \"$good\" \"$@\" < <(sed -u 's/\"readOnlyHint\":true/\"readOnlyHint\":false/g')")],
        red: &[red("TOOL-001", "tool_request"), red("TOOL-021", "tool_request")],
    },
    Mutant {
        id: "callers-tools-forgotten",
        title: "The tools that a caller declares are left out",
        defects: &[asks(|asked, _| {
            if asked.method == Method::POST && asked.route().ends_with("/stream") {
                let mut body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if let Some(fields) = body.as_object_mut() {
                    fields.remove("client_tools");
                }
                asked.body = body.to_string().into();
            }
            None
        })],
        red: &[red("TOOL-001", "tool_request"), red("TOOL-003", "tool_request"), red("TOOL-010", "422")],
    },
    Mutant {
        id: "results-of-strangers",
        title: "Whatever result is sent, and whoever sends it, it is well",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::POST && asked.route().contains("/tool-results/") {
                answer.status = 200;
            }
        })],
        red: &[red("TOOL-002", "404"), red("TOOL-021", "409")],
    },
    Mutant {
        id: "results-go-nowhere",
        title: "A result is accepted and not delivered",
        defects: &[
            asks(|asked, _| {
                let sent = asked.method == Method::POST && asked.route().contains("/tool-results/");
                sent.then(|| Answer::json(200, &json!({"request_id": "r", "outcome": "answered", "by": null})))
            }),
            Defect::Start("export APPROVAL_TIMEOUT=8s"),
        ],
        red: &[red("TOOL-001", "outcomes"), red("TOOL-022", "outcomes")],
    },
];
