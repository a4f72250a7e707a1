//! Servers with defects in keys, tokens and repeated requests.

use http::Method;
use serde_json::{Value, json};

use super::mutant::{Mutant, answers, asks, red};
use crate::target::defects::Defect;
use crate::target::tamper::{Answer, Tamper, event_text};

/// Whether a path is that of one key.
fn is_key(path: &str) -> bool {
    path.rsplit('/').nth(1) == Some("keys")
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "revoked-in-name-only",
        title: "The revocation of a key is confirmed, and the key stays valid",
        defects: &[asks(|asked, _| {
            let ends = asked.method == Method::DELETE && is_key(asked.route());
            ends.then(|| Answer::json(204, &Value::Null))
        })],
        red: &[red("TEN-040", "status of GET"), red("TEN-042", "the stream on the same server")],
    },
    Mutant {
        id: "key-shown-again",
        title: "The key is in every answer about it",
        defects: &[answers(|asked, answer, memory| {
            if answer.value()["key"].is_string() {
                memory.set("key", answer.value()["key"].as_str().unwrap_or_default());
            } else if is_key(asked.route()) && answer.status == 200 {
                let key = memory.get("key");
                answer.edit(|body| body["key"] = json!(key));
            }
        })],
        red: &[red("TEN-040", "shown again")],
    },
    Mutant {
        id: "missing-scope-unnamed",
        title: "A refusal does not say which scope is missing",
        defects: &[answers(|_, answer, _| {
            if answer.status == 403 {
                answer.edit(|body| body["error"]["message"] = json!("no"));
            }
        })],
        red: &[red("TEN-041", "does not name the scope"), red("TEN-050", "does not name the scope")],
    },
    Mutant {
        id: "open-with-keys",
        title: "A server that had no key stays open to everybody after the first operator's key was created",
        defects: &[answers(|asked, answer, _| {
            if asked.headers.get("x-api-key").is_none() && answer.status == 401 {
                *answer = Answer::json(200, &json!([]));
            }
        })],
        red: &[red("TEN-045", "status of GET")],
    },
    Mutant {
        id: "away-is-invalid",
        title: "While the database is away, a key that is not known yet counts as invalid",
        defects: &[answers(|asked, answer, _| {
            if asked.headers.get("x-api-key").is_some() && answer.status == 503 {
                *answer = Answer::json(
                    401,
                    &json!({"error": {"code": "UNAUTHORIZED", "message": "no such key", "details": []}}),
                );
            }
        })],
        red: &[red("TEN-046", "status of GET")],
    },
    Mutant {
        id: "overlap-always",
        title: "A rotated key stays valid for a while, whatever was asked for",
        defects: &[asks(|asked, _| {
            if asked.is(Method::POST, "/rotate") {
                asked.body = json!({"overlap_seconds": 60}).to_string().into();
                asked.headers.remove("content-length");
            }
            None
        })],
        red: &[red("TEN-043", "status of")],
    },
    Mutant {
        id: "cut-without-a-word",
        title: "A stream whose key has ended is cut without an event that tells why",
        defects: &[Defect::Http(Tamper {
            ask: None,
            answer: None,
            event: Some(|event, _| (event.name != "closed").then(|| event_text(&event))),
        })],
        red: &[red("TEN-042", "the last event"), red("TEN-052", "the last event")],
    },
    Mutant {
        id: "repeated-work",
        title: "Idempotency-Key is ignored, and a repeated request is carried out again",
        defects: &[asks(|asked, _| {
            asked.headers.remove("idempotency-key");
            None
        })],
        red: &[
            red("TEN-060", "status of POST"),
            red("TEN-061", "POST"),
            red("TEN-062", "conversations that were created"),
            red("TEN-063", "repeated"),
        ],
    },
    Mutant {
        id: "any-body-repeats",
        title: "A request with a used Idempotency-Key gets the first answer, whatever its body",
        defects: &[answers(|asked, answer, memory| {
            let Some(key) = asked.headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else { return };
            if answer.status == 201 {
                memory.set(key, String::from_utf8_lossy(&answer.body));
            } else if let (422, Some(first)) = (answer.status, memory.get(key)) {
                *answer = Answer::json(201, &serde_json::from_str(&first).unwrap_or_default());
            }
        })],
        red: &[red("TEN-060", "status of POST")],
    },
    Mutant {
        id: "tokens-unchecked",
        title: "A token is accepted, whatever it says and whoever has signed it",
        defects: &[answers(|asked, answer, _| {
            let token = asked.headers.get("authorization").is_some();
            if token && answer.status == 401 {
                *answer = Answer::json(200, &json!({}));
            }
        })],
        red: &[red("TEN-050", "status of GET"), red("TEN-051", "status of GET")],
    },
];
