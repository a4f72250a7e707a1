//! Servers with defects in what tenants decide: configurations, policies, vaults.

use http::Method;
use serde_json::{Value, json};

use super::mutant::{Mutant, answers, asks, red};
use crate::target::defects::Defect;
use crate::target::tamper::{Answer, Asked};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "configurations-unheeded",
        title: "A configuration is accepted and has no effect",
        defects: &[asks(|asked, _| {
            let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            changes(asked).then(|| Answer::json(200, &json!({"version": 1, "configuration": body["configuration"]})))
        })],
        red: &[
            red("TEN-001", "first tenant's workspace"),
            red("TEN-002", "after the change"),
            red("TEN-004", "was answered with"),
            red("TEN-006", "the second server's workspace"),
            red("TEN-080", "which it lists"),
            red("TEN-081", "image of the workspace of the next run"),
        ],
    },
    Mutant {
        id: "models-stay",
        title: "The change of a conversation's model is accepted, and its workspace asks the former one",
        defects: &[
            asks(|asked, memory| {
                let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                let model = body.as_object_mut().and_then(|fields| fields.remove("model_id"));
                if asked.method == Method::PUT && asked.route().contains("/conversations/") && model.is_some() {
                    memory.set("model", model.as_ref().and_then(Value::as_str).unwrap_or_default());
                    asked.body = body.to_string().into();
                }
                None
            }),
            answers(|asked, answer, memory| {
                if asked.method == Method::PUT && asked.route().contains("/conversations/") {
                    answer.edit(|body| body["model_id"] = json!(memory.get("model")));
                }
            }),
        ],
        red: &[red("TEN-080", "after the change")],
    },
    Mutant {
        id: "policies-forgotten",
        title: "A server that starts again has forgotten the configurations of its tenants",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || [ ! -e "${STATE_DIR:-}/nagaya.sqlite" ] || python3 -c 'import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db: db.execute("UPDATE tenant_configurations SET document = ?", ("{}",))' "$STATE_DIR/nagaya.sqlite""#,
        )],
        red: &[red("TEN-005", "the adopted workspace")],
    },
    Mutant {
        id: "always-running",
        title: "What would happen between runs is explained as during a run",
        defects: &[asks(|asked, _| {
            if asked.route().ends_with("/egress/explain") {
                asked.path = asked.path.replace("run=false", "run=true");
            }
            None
        })],
        red: &[red("TEN-030", "reason in")],
    },
    Mutant {
        id: "wider-configurations-accepted",
        title: "A configuration that goes beyond the level above is accepted, without what goes beyond it",
        defects: &[answers(|asked, answer, _| {
            if changes(asked) && answer.status == 422 {
                *answer = Answer::json(200, &json!({"version": 1, "configuration": {}}));
            }
        })],
        red: &[red("TEN-003", "status"), red("TEN-012", "status"), red("TEN-082", "status")],
    },
    Mutant {
        id: "late-writers-believed",
        title: "A writer whose version is too old is told that its configuration was written",
        defects: &[answers(|asked, answer, _| {
            if changes(asked) && answer.status == 409 {
                let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                *answer = Answer::json(200, &json!({"version": body["version"].as_i64().unwrap_or(0) + 1}));
            }
        })],
        red: &[red("TEN-010", "number of eight writers")],
    },
    Mutant {
        id: "levels-untold",
        title: "Every value that applies is said to come from the operator",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/effective") {
                answer.edit(|body| {
                    for value in body.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
                        if value["from"].is_string() {
                            value["from"] = json!("operator");
                        }
                    }
                });
            }
        })],
        red: &[red("TEN-011", "comes from")],
    },
    Mutant {
        id: "secrets-answered",
        title: "The answer with a credential has its secret",
        defects: &[
            asks(|asked, memory| {
                if asked.is(Method::POST, "/credentials") {
                    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                    memory.set("secret", body["auth"]["secret"].as_str().unwrap_or_default());
                }
                None
            }),
            answers(|asked, answer, memory| {
                if asked.method == Method::GET && asked.route().contains("/credentials/") {
                    answer.edit(|body| body["auth"]["secret"] = json!(memory.get("secret")));
                }
            }),
        ],
        red: &[red("TEN-020", "a secret is shown")],
    },
    Mutant {
        id: "rotation-lost",
        title: "A credential that replaces another one is accepted, and the old one stays",
        defects: &[asks(|asked, _| {
            let replaces = asked.method == Method::PUT && asked.route().contains("/credentials/");
            replaces.then(|| Answer::json(200, &json!({})))
        })],
        red: &[red("TEN-021", "what was sent after the rotation")],
    },
    Mutant {
        id: "runs-not-narrowed",
        title: "What a request narrows for its run is not looked at",
        defects: &[asks(|asked, _| {
            if asked.is(Method::POST, "/stream") {
                let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if let Some(fields) = body.as_object_mut() {
                    fields.remove("configuration");
                }
                asked.body = body.to_string().into();
            }
            None
        })],
        red: &[red("TEN-013", "tools of a run that its tenant and its request restrict")],
    },
    Mutant {
        id: "token-endpoints-unchecked",
        title: "A token endpoint that the tenant's workspaces may not reach is accepted",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::POST, "/credentials") && answer.status == 422 {
                *answer = Answer::json(201, &json!({"credential_id": "none"}));
            }
        })],
        red: &[red("TEN-023", "status"), red("TEN-024", "status")],
    },
    Mutant {
        id: "roles-not-assumed",
        title: "A vault's role is accepted and not assumed: requests are signed with other keys",
        defects: &[asks(|asked, _| {
            let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let listed = body["auth"]["role_arn"].as_str().is_some_and(|arn| arn.ends_with(":role/tenants"));
            if asked.is(Method::POST, "/credentials") && listed {
                let (service, region) = (body["auth"]["service"].take(), body["auth"]["region"].take());
                body["auth"] = json!({"type": "sigv4", "service": service, "region": region,
                    "access_key_id": "AKIDOTHER", "secret_access_key": "another"});
                asked.body = body.to_string().into();
                asked.headers.remove("content-length");
            }
            None
        })],
        red: &[red("TEN-024", "the answer to a request for /signed/first")],
    },
    Mutant {
        id: "rekeying-pretended",
        title: "Secrets are said to be sealed again and are not",
        defects: &[asks(|asked, _| {
            asked.is(Method::POST, "/vaults/rekey").then(|| Answer::json(200, &json!({"sealed": 1, "unreadable": []})))
        })],
        red: &[red("TEN-022", "no request for /new has arrived")],
    },
];

/// Whether a request replaces a configuration.
fn changes(asked: &Asked) -> bool {
    asked.is(Method::PUT, "/configuration")
}
