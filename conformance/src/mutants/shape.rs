//! Shapes that differ from the contract's, in deployments that otherwise behave as it says.

use http::Method;
use serde_json::{Value, json};

use super::mutant::{Mutant, answers, asks, red};
use crate::target::tamper::Answer;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "every-run-is-invalid",
        title: "No run is accepted, in whatever conversation",
        defects: &[asks(|asked, _| {
            let error = json!({
                "code": "VALIDATION_ERROR", "message": "no", "details": [], "request_id": "r", "timestamp": "2026-01-01T00:00:00Z",
            });
            asked.is(Method::POST, "/stream").then(|| Answer::json(422, &json!({"error": error})))
        })],
        red: &[red("API-003", "is refused as well")],
    },
    Mutant {
        id: "tenants-without-times",
        title: "Tenants have no time of their creation",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::GET
                && asked.route().starts_with("/api/tenants/")
                && !asked.route().contains("/conv")
            {
                answer.edit(|body| body["created_at"] = Value::Null);
            }
        })],
        red: &[red("SHAPE-003", "created_at of a tenant is null")],
    },
    Mutant {
        id: "prices-are-numbers",
        title: "Prices are floating-point numbers",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::GET && asked.route().starts_with("/api/models/") {
                answer.edit(|body| body["input_token_price"] = json!(0.003));
            }
        })],
        red: &[red("SHAPE-004", "input_token_price of a model is 0.003")],
    },
    Mutant {
        id: "counts-are-texts",
        title: "A conversation's count of tokens is a text",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::POST && asked.route().ends_with("/conversations") {
                answer.edit(|body| body["total_input_tokens"] = json!("0"));
            }
        })],
        red: &[red("SHAPE-005", "total_input_tokens of a new conversation is \"0\"")],
    },
];
