//! Servers with defects in authentication and authorisation.

use http::HeaderValue;
use serde_json::json;

use super::mutant::{Mutant, answers, asks, red};
use crate::target::memory::Memory;
use crate::target::tamper::Asked;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "key-not-needed",
        title: "A client without a key is treated as the operator",
        defects: &[asks(|asked, memory| {
            let named = asked.headers.contains_key(KEY) || asked.headers.contains_key("authorization");
            if let Some(key) = operators(asked, memory).filter(|_| !named) {
                asked.headers.insert(KEY, key);
            }
            None
        })],
        red: &[red("API-010", "401")],
    },
    Mutant {
        id: "tenants-are-operators",
        title: "A tenant's key opens the operator's routes",
        defects: &[asks(|asked, memory| {
            if let Some(key) = operators(asked, memory) {
                asked.headers.insert(KEY, key);
            }
            None
        })],
        red: &[
            red("API-011", "status of"),
            red("API-012", "status of GET /api/tenants"),
            red("API-010", "401"),
            red("TEN-044", "status of POST"),
        ],
    },
    Mutant {
        id: "others-are-forbidden",
        title: "Another tenant's resources are answered with 403, which reveals that they exist",
        defects: &[answers(|asked, answer, _| {
            if asked.path.starts_with("/api/tenants/") && answer.status == 404 {
                answer.status = 403;
                answer.edit(|body| body["error"]["code"] = json!("FORBIDDEN"));
            }
        })],
        red: &[red("API-011", "status of")],
    },
    Mutant {
        id: "when-to-come-again-untold",
        title: "No response carries Retry-After",
        defects: &[answers(|_, answer, _| _ = answer.headers.remove("retry-after"))],
        red: &[
            red("API-013", "no number in retry-after"),
            red("STATE-001", "without Retry-After"),
            red("STATE-014", "Retry-After of a 409"),
            red("STATE-014-STOPPED", "Retry-After of a 409"),
        ],
    },
    Mutant {
        id: "one-limit-for-all",
        title: "One key over its rate limit blocks all clients",
        defects: &[answers(|asked, answer, memory| {
            if answer.status == 429 {
                memory.set("too often", "");
            } else if memory.get("too often").is_some() && asked.path.starts_with("/api/") {
                answer.status = 429;
            }
        })],
        red: &[red("API-013", "GET /api/models")],
    },
    Mutant {
        id: "answers-undescribed",
        title: "A missing resource is answered with a status that the description does not list",
        defects: &[answers(|_, answer, _| {
            if answer.status == 404 {
                answer.status = 410;
            }
        })],
        red: &[red("API-020", "responses differ from /openapi.json")],
    },
];

/// The header that carries the key.
const KEY: &str = "x-api-key";

/// The first key that was ever used belongs to the operator, who sets the deployment up.
fn operators(asked: &Asked, memory: &Memory) -> Option<HeaderValue> {
    if let Some(key) = asked.headers.get(KEY).and_then(|key| key.to_str().ok()) {
        memory.first("operator", key);
    }
    memory.get("operator")?.parse().ok()
}
