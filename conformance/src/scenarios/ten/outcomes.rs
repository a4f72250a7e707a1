//! The line of the audit trail for each way in which a request ends.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{A, B, BEYOND, NEEDS, World, allowed};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::ask_once;
use crate::scenarios::common::outside::breaking_off;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-007",
    "However a request ends, one line of the trail says who asked for what, how it ended, and what that rests on",
    "the trail has one line per request: decision, reason, rule, layer, policy, credential, status, bytes",
    body!(each_outcome),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)];

/// Hosts that the operator allows: at one a response breaks off, at the other nobody listens.
const CUT: &str = "cut.tenancy.test";
const GONE: &str = "gone.tenancy.test";

/// A path whose answer repeats the request, and thus is as long as the request makes it.
const ECHO: &str = "/echo";

/// A request, the status of its answer, and what its line says beside who asked.
struct Case {
    request: String,
    status: u16,
    line: Value,
}

fn case(method: &str, host: &str, path: &str, more: &str, status: u16, mut line: Value) -> Case {
    for (field, value) in
        [("method", json!(method)), ("host", json!(host)), ("port", json!(80)), ("status", json!(status))]
    {
        if line[field].is_null() {
            line[field] = value;
        }
    }
    let request = format!("{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{more}");
    let request = if more.contains("\r\n\r\n") { request } else { format!("{request}\r\n") };
    Case { request, status, line }
}

fn cases() -> Vec<Case> {
    let ok = |rule: &str, up: u64, down: u64| json!({"decision": "allowed", "layer": "tenant", "rule": rule, "bytes_up": up, "bytes_down": down});
    let no = |reason: &str, layer: &str, rule: Value| json!({"decision": "denied", "reason": reason, "layer": layer, "rule": rule});
    let mut secured = ok(B, 0, 4);
    secured["credential"] = json!("operator:1");
    let (mut malformed, mut twisted) =
        (json!({"decision": "denied", "reason": "malformed"}), json!({"decision": "denied", "reason": "method"}));
    for line in [&mut malformed, &mut twisted] {
        (line["host"], line["port"]) = (json!(""), json!(0));
    }
    twisted["method"] = json!("OTHER");
    let mut contradicting = case("GET", A, "/", "", 400, malformed);
    contradicting.request = format!("GET http://{A}/ HTTP/1.1\r\nHost: {B}\r\n\r\n");
    let mut traced = case("TRACE", A, "/", "", 405, twisted);
    traced.line["method"] = json!("OTHER");
    let mut tunnel = case("CONNECT", A, "", "", 403, no("tunnel_not_inspectable", "tenant", json!(A)));
    tunnel.request = format!("CONNECT {A}:443 HTTP/1.1\r\nHost: {A}:443\r\n\r\n");
    tunnel.line["port"] = json!(443);
    let mut tunnel_with_key = case("CONNECT", B, "", "", 403, no("credential_host", "tenant", json!(B)));
    tunnel_with_key.request = format!("CONNECT {B}:443 HTTP/1.1\r\nHost: {B}:443\r\n\r\n");
    tunnel_with_key.line["port"] = json!(443);
    let mut brewed = case("PURGE", A, "/bytes/3", "", 200, ok(A, 0, 3));
    brewed.line["method"] = json!("OTHER");
    let failed = |reason: &str, rule: &str, down: u64| json!({"decision": "failed", "reason": reason, "layer": "tenant", "rule": rule, "bytes_down": down});
    vec![
        case("GET", A, "/bytes/7", "", 200, ok(A, 0, 7)),
        case("HEAD", A, "/bytes/7", "", 200, ok(A, 0, 0)),
        case("GET", A, "/status/503", "", 503, ok(A, 0, 9)),
        case("PUT", A, ECHO, "Content-Length: 5\r\n\r\n12345", 200, ok(A, 5, 0)),
        case("PUT", A, ECHO, "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, ok(A, 3, 0)),
        brewed,
        case("GET", B, "/bytes/4", "", 200, secured),
        case("GET", A, "/elsewhere", "", 403, no("path_not_allowed", "tenant", json!(A))),
        case("DELETE", A, "/bytes/1", "", 403, no("method_not_allowed", "tenant", json!(A))),
        case("GET", A, "/bytes/../x", "", 403, no("ambiguous_path", "tenant", json!(A))),
        case("GET", BEYOND, "/", "", 403, no("not_allowed", "operator", Value::Null)),
        case("GET", "not.tenancy.test", "/", "", 403, no("denied_by_rule", "tenant", json!("!not.tenancy.test"))),
        case("GET", CUT, "/", "", 200, failed("reset", CUT, 5)),
        case("GET", GONE, "/", "", 502, failed("refused", GONE, 0)),
        contradicting,
        traced,
        tunnel,
        tunnel_with_key,
    ]
}

async fn each_outcome(context: &Context) -> Result<(), Failure> {
    let canary = context.unique("canary-of-the-operator");
    context.secrets().add(&canary);
    let cut = breaking_off(context, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHELLO".into()).await?;
    // A port on which nobody listens, and which is nobody else's as long as this has it.
    let taken = tokio::net::TcpSocket::new_v4()?;
    taken.bind(([127, 0, 0, 1], 0).into())?;
    let nobody = taken.local_addr()?.to_string();
    let world = World::start(context, 0, |launch| {
        let hosts = format!("{},{CUT},{GONE},not.tenancy.test", allowed());
        let launch = launch.without_model().set("PROXY_ALLOWED_DOMAINS", hosts).set("CANARY", &canary);
        launch
            .set("PROXY_CREDENTIALS", format!("{B}=header:x-canary:env:CANARY"))
            .pin_address(CUT, 80, &cut)
            .pin_address(GONE, 80, &nobody)
    })
    .await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let rules = json!({"egress": {
        "allow": [
            {"host": A, "methods": ["GET", "HEAD", "PUT", "PURGE"], "paths": ["/bytes", "/status", ECHO]},
            {"host": B}, {"host": CUT}, {"host": GONE}, {"host": "not.tenancy.test"},
        ],
        "deny": ["not.tenancy.test"],
    }});
    world.configure(&party.conversation.tenant, &rules).await?;
    let lines = || -> Result<Vec<Value>, Failure> {
        let text = std::fs::read_to_string(&world.trail)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|line| line["event"] == "egress").collect())
    };
    let mut told = lines()?.len();
    for Case { request, status, mut line } in cases() {
        let shown = request.lines().next().unwrap_or_default().to_owned();
        let answer = ask_once(&party.room, request).await?;
        check_eq(format!("status of {shown} ({answer:?})"), answer.status(), Some(status))?;
        if shown.contains(ECHO) {
            line["bytes_down"] = json!(answer.body.len());
        }
        let more = eventually(Duration::from_secs(5), format!("the line about {shown}"), async || {
            let more = lines()?.split_off(told);
            if more.is_empty() { Err(Failure::assertion("none yet")) } else { Ok(more) }
        })
        .await?;
        check_eq(format!("lines about {shown}: {more:?}"), more.len(), 1)?;
        told += 1;
        let expected = whole(line, party.room.workspace.as_deref(), &party.conversation.tenant, &party.conversation.id);
        let mut found = more[0].clone();
        if let Some(fields) = found.as_object_mut() {
            let took = fields.remove("duration_ms");
            check_eq(
                format!("{shown}: whether its line says how long it took"),
                took.is_some_and(|took| took.is_u64()),
                true,
            )?;
            fields.remove("timestamp");
            fields.retain(|_, value| !value.is_null());
        }
        check_eq(format!("the line about {shown}"), found, expected)?;
    }
    check_eq("lines about requests in all", lines()?.len(), told)
}

/// A line with everything that each has, and without what is none.
fn whole(mut line: Value, workspace: Option<&str>, tenant: &str, conversation: &str) -> Value {
    let is_readable = line["host"] != "";
    for (field, value) in [
        ("event", json!("egress")),
        ("workspace", json!(workspace)),
        ("tenant", json!(tenant)),
        ("conversation", json!(conversation)),
        ("policy", if is_readable { json!(tenant) } else { Value::Null }),
        ("bytes_up", json!(0)),
        ("bytes_down", json!(0)),
        ("count", json!(1)),
    ] {
        if line[field].is_null() {
            line[field] = value;
        }
    }
    if let Some(fields) = line.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    line
}
