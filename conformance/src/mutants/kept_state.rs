//! Servers that lose or mix up what they should keep: of a run, of a tenant, of a conversation.

use http::Method;
use serde_json::{Value, json};

use super::mutant::{Mutant, answers, asks, red};
use crate::target::defects::Defect;
use crate::target::tamper::{Answer, Asked, Tamper, event_text};

/// The body of a request that changes something.
fn body(asked: &Asked) -> Value {
    serde_json::from_slice(&asked.body).unwrap_or_default()
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "runs-of-last-events-ignored",
        title: "Whichever run Last-Event-ID names, its number counts for the present one",
        defects: &[asks(|asked, _| {
            let id = asked.headers.get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
            let number = id.rsplit_once(':').and_then(|(_, number)| number.parse().ok());
            if let Some(number) = number {
                asked.headers.insert("last-event-id", number);
            }
            None
        })],
        red: &[red("RUN-027", "after an event of an earlier run")],
    },
    Mutant {
        id: "errors-missing-in-done",
        title: "The last event of a run does not have the errors that the run has reported",
        defects: &[Defect::Http(Tamper {
            ask: None,
            answer: None,
            event: Some(|mut event, _| {
                if event.name == "done" {
                    let mut data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                    data["errors"] = json!([]);
                    event.data = data.to_string();
                }
                Some(event_text(&event))
            }),
        })],
        red: &[red("RUN-026", "what was reported before the restart")],
    },
    Mutant {
        id: "titles-cleared",
        title: "A change of a conversation that names no title clears it",
        defects: &[asks(|asked, _| {
            if asked.method == Method::PUT && asked.route().rsplit('/').nth(1) == Some("conversations") {
                let mut body = body(asked);
                if let Some(fields) = body.as_object_mut() {
                    fields.entry("title").or_insert(json!(""));
                }
                asked.body = body.to_string().into();
            }
            None
        })],
        red: &[red("API-018", "title after")],
    },
    Mutant {
        id: "inactive-in-name-only",
        title: "A tenant is said to be inactive, and stays active",
        defects: &[asks(|asked, _| {
            let is_tenant = asked.method == Method::PUT && asked.route().rsplit('/').nth(1) == Some("tenants");
            (is_tenant && body(asked)["status"] == "inactive")
                .then(|| Answer::json(200, &json!({"status": "inactive"})))
        })],
        red: &[red("API-017", "status of POST")],
    },
    Mutant {
        id: "usage-forgotten",
        title: "What a tenant has used is forgotten with its conversations",
        defects: &[
            asks(|asked, memory| {
                if asked.method == Method::DELETE && asked.route().contains("/conversations/") {
                    memory.set("deleted", "yes");
                }
                None
            }),
            answers(|asked, answer, memory| {
                if asked.is(Method::GET, "/usage") && memory.get("deleted").is_some() {
                    *answer = Answer::json(200, &json!([]));
                }
            }),
        ],
        red: &[red("API-019", "runs and tokens without the first")],
    },
    Mutant {
        id: "losses-untold",
        title: "A run whose conversation has lost its workspace is not told so",
        defects: &[Defect::Http(Tamper {
            ask: None,
            answer: None,
            event: Some(|mut event, _| {
                if event.name == "container_recovered" {
                    event.name = "progress".to_owned();
                }
                Some(event_text(&event))
            }),
        })],
        red: &[red("LIFE-012", "container_recovered")],
    },
];
