//! Servers with defects in their API.

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::mutant::{Mutant, answers, asks, red};
use crate::target::memory::Memory;
use crate::target::tamper::{Answer, Asked};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "ready-whatever-is",
        title: "/health/ready answers 200 as soon as the server listens",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health/ready" {
                *answer = Answer::json(200, &json!({"status": "ready"}));
            }
        })],
        red: &[red("BUG-07-WRONG", "a reason in /health/ready")],
    },
    Mutant {
        id: "download-loses-its-end",
        title: "A download lacks the last byte of the file",
        defects: &[answers(|asked, answer, _| {
            if asked.route().ends_with("/files/download") && answer.status == 200 {
                answer.body.truncate(answer.body.len().saturating_sub(1));
            }
        })],
        red: &[red("FILE-001", "bytes came back")],
    },
    Mutant {
        id: "traversal-is-not-found",
        title: "A path that leads out of the workspace is looked up instead of refused",
        defects: &[answers(|asked, answer, _| {
            if asked.route().ends_with("/files/download") && answer.status == 403 {
                *answer = Answer::json(404, &json!({"error": {"code": "NOT_FOUND"}}));
            }
        })],
        red: &[red("FILE-002", "status of GET")],
    },
    Mutant {
        id: "offset-ignored",
        title: "Every page of a list is the first page",
        defects: &[asks(|asked, _| {
            if let Some((rest, _)) = asked.path.split_once("&offset=") {
                asked.path = rest.to_owned();
            }
            None
        })],
        red: &[red("API-007", "conversations on all pages of 1")],
    },
    Mutant {
        id: "too-large-is-invalid",
        title: "A body that is too large is reported as invalid",
        defects: &[answers(|_, answer, _| {
            if answer.status == 413 {
                answer.status = 422;
                answer.edit(|body| body["error"]["code"] = json!("VALIDATION_ERROR"));
            }
        })],
        red: &[red("API-008", "status of POST")],
    },
    Mutant {
        id: "inside-told",
        title: "Errors name the place in the server's source that they come from",
        defects: &[answers(|_, answer, _| {
            if answer.status >= 400 {
                answer.edit(|body| body["error"]["message"] = json!("thread 'main' panicked at src/api/mod.rs:7"));
            }
        })],
        red: &[red("API-009", "reveals internals")],
    },
    Mutant {
        id: "filter-ignored",
        title: "The query parameter status is ignored",
        defects: &[asks(|asked, _| {
            if asked.path.contains("?status=") {
                asked.path = asked.route().to_owned();
            }
            None
        })],
        red: &[red("BUG-14", "conversations with ?status=active")],
    },
    Mutant {
        id: "bad-filter-crashes",
        title: "An invalid query parameter status causes a 500",
        defects: &[answers(|asked, answer, _| {
            if asked.path.contains("?status=bogus") {
                answer.status = 500;
            }
        })],
        red: &[red("BUG-14", "500")],
    },
    Mutant {
        id: "health-crashes-without-docker",
        title: "/health answers 500 while Docker is down",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health" && answer.value()["checks"]["docker"]["status"] == "unhealthy" {
                answer.status = 500;
            }
        })],
        red: &[red("BUG-03", "docker unhealthy in /health")],
    },
    Mutant {
        id: "redis-is-critical",
        title: "/health reports unhealthy while Redis is down",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health" && answer.value()["status"] == "degraded" {
                answer.edit(|health| health["status"] = json!("unhealthy"));
            }
        })],
        red: &[red("BUG-03-REDIS", "status with Redis down"), red("BUG-03-S3", "status with fault")],
    },
    Mutant {
        id: "health-without-latency",
        title: "/health does not report the latency of the database",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health" {
                answer.edit(|health| health["checks"]["database"]["latency_ms"] = Value::Null);
            }
        })],
        red: &[red("SHAPE-002", "latency_ms of checks.database")],
    },
    Mutant {
        id: "health-is-no-json",
        title: "/health is sent as plain text",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health" {
                answer.headers.insert("content-type", HeaderValue::from_static("text/plain"));
            }
        })],
        red: &[red("HLTH-001", "the content type is text/plain")],
    },
    Mutant {
        id: "id-as-label",
        title: "A metric has a label with an id in it",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/metrics" {
                append(
                    answer,
                    "http_request_duration_seconds_count{route=\"/api/models/conformance-asks-for-no-such-model\"} 1\n",
                );
            }
        })],
        red: &[red("HLTH-002", "an id is a label")],
    },
    Mutant {
        id: "metric-missing",
        title: "The counter of garbage collections is missing",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/metrics" {
                let page = String::from_utf8_lossy(&answer.body).into_owned();
                let lines = page.lines().filter(|line| !line.contains("workspace_gc_cycles_total"));
                answer.body = lines.map(|line| format!("{line}\n")).collect::<String>().into();
            }
        })],
        red: &[red("HLTH-003", "type of workspace_gc_cycles_total"), red("HLTH-004", "and there is no such thing")],
    },
    Mutant {
        id: "gauge-as-counter",
        title: "The gauge of active containers is declared as a counter",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/metrics" {
                let (gauge, counter) = ("workspace_active_containers gauge", "workspace_active_containers counter");
                answer.body = String::from_utf8_lossy(&answer.body).replace(gauge, counter).into();
            }
        })],
        red: &[red("HLTH-002", "type of workspace_active_containers")],
    },
    Mutant {
        id: "gauge-only-grows",
        title: "The gauge of active containers does not decrease when a container is removed",
        defects: &[answers(|asked, answer, memory| only_grows(asked, answer, memory, "workspace_active_containers"))],
        red: &[
            red("BUG-13-HOST", "workspace_active_containers equal to `docker ps`"),
            red("BUG-13", "workspace_active_containers equal to `docker ps`"),
        ],
    },
    Mutant {
        id: "proxies-stay-open",
        title: "The metrics report that a workspace's proxy stays open when the workspace is released",
        defects: &[answers(|asked, answer, memory| only_grows(asked, answer, memory, "workspace_proxies"))],
        red: &[red("BUG-12", "workspace_proxies"), red("BUG-12-DELETE", "workspace_proxies")],
    },
    Mutant {
        id: "errors-without-envelope",
        title: "404 responses lack the error envelope",
        defects: &[answers(|_, answer, _| {
            if answer.status == 404 {
                answer.set(&json!({"detail": "Not Found"}));
            }
        })],
        red: &[red("SHAPE-001", "error.code is null in place of NOT_FOUND")],
    },
    Mutant {
        id: "no-such-route-is-200",
        title: "An unknown route answers 200",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/api/no-such-route" {
                answer.status = 200;
            }
        })],
        red: &[red("API-002", "status of GET /api/no-such-route")],
    },
    Mutant {
        id: "bad-body-is-400",
        title: "An invalid body is answered with 400 in place of 422",
        defects: &[answers(|_, answer, _| {
            if answer.status == 422 {
                answer.status = 400;
            }
        })],
        red: &[red("SHAPE-001", "status is 400 in place of 422")],
    },
    Mutant {
        id: "bad-body-crashes",
        title: "A body that is not an object causes a 500",
        defects: &[answers(|asked, answer, _| {
            if asked.body.starts_with(b"[") {
                answer.status = 500;
            }
        })],
        red: &[red("API-001", "a body of an array")],
    },
    Mutant {
        id: "archive-forgets",
        title: "Archiving a conversation is confirmed, but not done",
        defects: &[asks(|asked, _| {
            asked.is(Method::POST, "/archive").then(|| Answer::json(200, &json!({"status": "archived"})))
        })],
        red: &[red("API-003", "status after archiving"), red("BUG-14", "conversations with")],
    },
    Mutant {
        id: "second-run-is-a-conflict",
        title: "A second run is refused with another error code",
        defects: &[answers(|_, answer, _| {
            if answer.status == 409 {
                answer.edit(|body| body["error"]["code"] = json!("CONFLICT"));
            }
        })],
        red: &[red("API-004", "RESOURCE_LOCKED"), red("STATE-002", "RESOURCE_LOCKED")],
    },
    Mutant {
        id: "twice-is-fine",
        title: "Creating something that exists already succeeds",
        defects: &[answers(|_, answer, _| {
            if answer.status == 409 {
                answer.status = 201;
            }
        })],
        red: &[red("API-005", "status of POST /api/models")],
    },
    Mutant {
        id: "request-id-not-taken",
        title: "A client's X-Request-ID is not used for the request",
        defects: &[asks(|asked, _| {
            asked.headers.remove("x-request-id");
            None
        })],
        red: &[red("RUN-034", "X-Request-ID of the answer")],
    },
    Mutant {
        id: "request-id-lost",
        title: "Responses have no X-Request-ID",
        defects: &[answers(|_, answer, _| _ = answer.headers.remove("x-request-id"))],
        red: &[red("API-006", "X-Request-ID of /")],
    },
    Mutant {
        id: "request-id-unchecked",
        title: "A client's X-Request-ID is echoed, whatever its length",
        defects: &[answers(|asked, answer, _| {
            if let Some(id) = asked.headers.get("x-request-id") {
                answer.headers.insert("x-request-id", id.clone());
            }
        })],
        red: &[red("API-006", "gives back an id of 5,000 bytes")],
    },
    Mutant {
        id: "deletes-nothing",
        title: "Deleting a conversation is confirmed, but not done",
        defects: &[asks(|asked, _| {
            let conversation = asked.method == Method::DELETE && asked.path.contains("/conversations/");
            conversation.then(|| Answer::json(204, &Value::Null))
        })],
        red: &[red("BUG-11", "status of GET"), red("BUG-12-DELETE", "no container"), red("FILE-104", "left of it")],
    },
    Mutant {
        id: "one-room-for-all",
        title: "All conversations run in the workspace of the first one",
        defects: &[asks(|asked, memory| {
            if asked.is(Method::POST, "/stream") {
                asked.path = memory.first("stream", &asked.path);
            }
            None
        })],
        red: &[red("LIFE-003", "workspaces besides the first conversation's")],
    },
    Mutant {
        id: "messages-lost",
        title: "Messages are not stored",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/messages") {
                answer.set(&json!([]));
            }
        })],
        red: &[
            red("RUN-001", "messages of the conversation"),
            red("RUN-020", "messages"),
            red("DEP-002", "messages"),
            red("DEP-003", "messages"),
        ],
    },
    Mutant {
        id: "messages-end-after-a-page",
        title: "A page of messages does not say that there are more",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/messages") {
                answer.headers.remove("link");
            }
        })],
        red: &[red("RUN-035", "messages on all pages of 1")],
    },
    Mutant {
        id: "health-probes-each-time",
        title: "Every request to /health probes the dependencies",
        defects: &[answers(|asked, answer, memory| {
            if asked.route() == "/health" {
                let probe = memory.count("probes");
                answer.edit(|body| body["checks"]["docker"]["latency_ms"] = json!(probe));
            }
        })],
        red: &[red("HLTH-006", "requests caused")],
    },
    Mutant {
        id: "tenants-see-prices",
        title: "A tenant's key reads the prices of models",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/api/models") && answer.status == 200 {
                answer.edit(|models| {
                    models
                        .as_array_mut()
                        .into_iter()
                        .flatten()
                        .for_each(|model| model["input_token_price"] = json!("1"));
                });
            }
        })],
        red: &[red("API-012", "shows prices to a tenant")],
    },
    Mutant {
        id: "resume-from-the-start",
        title: "A reader that reconnects receives every event again",
        defects: &[asks(|asked, _| {
            asked.headers.remove("last-event-id");
            None
        })],
        red: &[red("RUN-002", "seq of event 0 after the one seen"), red("RUN-023", "after event")],
    },
    Mutant {
        id: "ready-without-docker",
        title: "/health/ready answers 200 whatever is missing",
        defects: &[asks(|asked, _| {
            (asked.route() == "/health/ready").then(|| Answer::json(200, &json!({"status": "ready"})))
        })],
        red: &[red("BUG-02-LATE", "status of GET /health/ready"), red("CHAOS-003", "status of GET /health/ready")],
    },
    Mutant {
        id: "unavailable-is-500",
        title: "Requests refused during a shutdown are answered with 500",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::POST, "/stream") && answer.status == 503 {
                answer.status = 500;
            }
        })],
        red: &[red("BOOT-001", "a new run to be refused"), red("STATE-001", "status of POST")],
    },
    Mutant {
        id: "pool-size-forgotten",
        title: "A new pool size is confirmed, but not set",
        defects: &[asks(|asked, _| {
            let set = asked.is(Method::PUT, "/api/admin/pool");
            set.then(|| Answer::json(200, &serde_json::from_slice(&asked.body).unwrap_or_default()))
        })],
        red: &[red("STATE-003", "the size that was set on the other server")],
    },
];

fn append(answer: &mut Answer, line: &str) {
    answer.body = [&answer.body, line.as_bytes()].concat().into();
}

/// A sample without labels never falls.
fn only_grows(asked: &Asked, answer: &mut Answer, memory: &Memory, name: &str) {
    if asked.route() != "/metrics" {
        return;
    }
    let page = String::from_utf8_lossy(&answer.body).into_owned();
    let grown =
        page.lines().map(|line| match line.strip_prefix(name).and_then(|rest| rest.trim().parse::<f64>().ok()) {
            Some(value) => format!("{name} {}\n", memory.highest(name, value)),
            None => format!("{line}\n"),
        });
    answer.body = grown.collect::<String>().into();
}
