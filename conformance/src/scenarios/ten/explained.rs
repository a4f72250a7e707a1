//! What would happen to a request: told in whole, for every kind of rule.

use serde_json::{Value, json};

use super::world::{allowed, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-014",
    "For each kind of rule, host, port, method and path it is told in whole what a request meets, and whose rule",
    "explain: what the decision rests on; a rule's host, port, methods and paths each count; deny wins",
    body!(each_kind_of_rule),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch])];

/// What the operator allows beside the model.
const OPERATOR: &str =
    "api.rules.test,*.sub.rules.test,port.rules.test:8443,10.9.8.7:8080,!secret.sub.rules.test,key.rules.test";

/// A question and what is told: method, URL; the reason if it is refused; whose rule decides, and which; the credential; the port.
type Row =
    (&'static str, &'static str, Option<&'static str>, &'static str, Option<&'static str>, Option<&'static str>, u16);

const API: Option<&str> = Some("api.rules.test");
const SUB: Option<&str> = Some("*.sub.rules.test");

/// By the tenant's configuration.
const OF_TENANT: &[Row] = &[
    ("GET", "http://api.rules.test/v1", None, "tenant", API, None, 80),
    ("POST", "http://API.Rules.TEST./v1/x?y=/admin", None, "tenant", API, None, 80),
    ("GET", "http://api.rules.test/open/x", None, "tenant", API, None, 80),
    ("PUT", "http://api.rules.test/v1", Some("method_not_allowed"), "tenant", API, None, 80),
    ("get", "http://api.rules.test/v1", Some("method_not_allowed"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test/v10", Some("path_not_allowed"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test/open", Some("path_not_allowed"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test", Some("path_not_allowed"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test/v1/../x", Some("ambiguous_path"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test:81/v1", Some("not_allowed"), "operator", None, None, 81),
    ("GET", "https://api.rules.test/v1", Some("tunnel_not_inspectable"), "tenant", API, None, 443),
    ("GET", "http://x.api.rules.test/v1", Some("not_allowed"), "operator", None, None, 80),
    ("GET", "http://a.sub.rules.test/any", None, "tenant", SUB, None, 80),
    ("BREW", "http://a.b.sub.rules.test/", None, "tenant", SUB, None, 80),
    ("GET", "https://a.sub.rules.test/", None, "tenant", SUB, None, 443),
    ("GET", "https://a.sub.rules.test:444/", Some("not_allowed"), "operator", None, None, 444),
    ("GET", "http://sub.rules.test/", Some("not_allowed"), "operator", None, None, 80),
    ("GET", "http://xsub.rules.test/", Some("not_allowed"), "operator", None, None, 80),
    (
        "GET",
        "http://secret.sub.rules.test/",
        Some("denied_by_rule"),
        "operator",
        Some("!secret.sub.rules.test"),
        None,
        80,
    ),
    ("GET", "http://x.secret.sub.rules.test/", None, "tenant", SUB, None, 80),
    ("GET", "http://bad.sub.rules.test/", Some("denied_by_rule"), "tenant", Some("!bad.sub.rules.test"), None, 80),
    ("GET", "https://bad.sub.rules.test/", Some("denied_by_rule"), "tenant", Some("!bad.sub.rules.test"), None, 443),
    ("GET", "http://x.worse.sub.rules.test/", None, "tenant", SUB, None, 80),
    (
        "GET",
        "https://x.worse.sub.rules.test/",
        Some("denied_by_rule"),
        "tenant",
        Some("!*.worse.sub.rules.test:443"),
        None,
        443,
    ),
    ("GET", "http://port.rules.test:8443/", None, "tenant", Some("port.rules.test:8443"), None, 8443),
    ("GET", "https://port.rules.test:8443/", None, "tenant", Some("port.rules.test:8443"), None, 8443),
    ("GET", "http://port.rules.test/", Some("not_allowed"), "operator", None, None, 80),
    ("GET", "http://10.9.8.7:8080/", None, "tenant", Some("10.9.8.7:8080"), None, 8080),
    ("GET", "http://10.9.8.7/", Some("not_allowed"), "operator", None, None, 80),
    ("GET", "http://10.9.8.8:8080/", Some("not_allowed"), "operator", None, None, 8080),
    ("GET", "http://key.rules.test/", None, "tenant", Some("key.rules.test"), Some("operator:1"), 443),
    ("GET", "https://key.rules.test/", Some("credential_host"), "tenant", Some("key.rules.test"), None, 443),
    ("GET", "http://elsewhere.test/", Some("not_allowed"), "operator", None, None, 80),
];

/// By the configuration of a conversation of that tenant's.
const OF_CONVERSATION: &[Row] = &[
    ("GET", "http://api.rules.test/v1", None, "conversation", API, None, 80),
    ("POST", "http://api.rules.test/v1", Some("method_not_allowed"), "conversation", API, None, 80),
    ("PUT", "http://api.rules.test/v1", Some("method_not_allowed"), "tenant", API, None, 80),
    ("GET", "http://api.rules.test/open/x", None, "conversation", API, None, 80),
    ("GET", "http://one.sub.rules.test/", None, "conversation", Some("one.sub.rules.test"), None, 80),
    ("GET", "http://two.sub.rules.test/", Some("not_allowed"), "conversation", None, None, 80),
    ("GET", "http://bad.sub.rules.test/", Some("denied_by_rule"), "tenant", Some("!bad.sub.rules.test"), None, 80),
    (
        "GET",
        "http://secret.sub.rules.test/",
        Some("denied_by_rule"),
        "operator",
        Some("!secret.sub.rules.test"),
        None,
        80,
    ),
    (
        "GET",
        "http://port.rules.test:8443/",
        Some("denied_by_rule"),
        "conversation",
        Some("!port.rules.test"),
        None,
        8443,
    ),
    ("GET", "http://key.rules.test/", Some("not_allowed"), "conversation", None, None, 80),
];

fn query(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}

async fn each_kind_of_rule(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new()
        .without_model()
        .without_waiting()
        .set("PROXY_ALLOWED_DOMAINS", format!("{},{OPERATOR}", allowed()));
    let key = context.unique("key");
    context.secrets().add(&key);
    let launch = launch.set("PROXY_CREDENTIALS", "key.rules.test=header:x-key:env:CANARY").set("CANARY", key);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    let explain =
        async |fields: &[(&str, &str)]| deployment.api.get(&format!("{tenant}/egress/explain?{}", query(fields))).await;
    // Without a configuration the operator's rules alone decide.
    let told = explain(&[("url", "http://a.sub.rules.test/")]).await?.expect(200)?.json()?;
    check_eq(format!("whose rule decides without a configuration, in {told}"), &told["layer"], &json!("operator"))?;
    let of_tenant = json!({"egress": {
        "allow": [
            {"host": "api.rules.test", "methods": ["GET", "POST"], "paths": ["/v1", "/open/x"]},
            {"host": "*.sub.rules.test"}, {"host": "port.rules.test:8443"}, {"host": "10.9.8.7:8080"}, {"host": "key.rules.test"},
        ],
        "deny": ["bad.sub.rules.test", "*.worse.sub.rules.test:443"],
    }});
    write(&deployment, &tenant, &of_tenant).await?.expect(200)?;
    let of_conversation = json!({"egress": {
        "allow": [{"host": "api.rules.test", "methods": ["GET"]}, {"host": "one.sub.rules.test"}, {"host": "port.rules.test:8443"}],
        "deny": ["port.rules.test"],
    }});
    write(&deployment, &conversation.path(""), &of_conversation).await?.expect(200)?;
    let levels = [(None, OF_TENANT), (Some(conversation.id.as_str()), OF_CONVERSATION)];
    for (of, rows) in levels {
        for (method, url, reason, layer, rule, credential, port) in rows {
            let mut fields = vec![("method", *method), ("url", *url)];
            fields.extend(of.map(|id| ("conversation_id", id)));
            let mut told = explain(&fields).await?.expect(200)?.json()?;
            let message = told["message"].take();
            check_eq(
                format!("{method} {url}: whether a sentence says why ({message})"),
                message.is_string(),
                reason.is_some(),
            )?;
            let fields = ["allowed", "reason", "layer", "rule", "credential", "operation", "port"];
            let told: Vec<Value> = fields.iter().map(|field| told[*field].take()).collect();
            let expected = vec![
                json!(reason.is_none()),
                json!(reason),
                json!(layer),
                json!(rule),
                json!(credential),
                Value::Null,
                json!(port),
            ];
            check_eq(format!("{method} {url}, {of:?}: {}", fields.join(", ")), told, expected)?;
        }
    }
    // The default is GET, and what is no request is said to be none.
    let told = explain(&[("url", "http://api.rules.test/v1")]).await?.expect(200)?.json()?;
    check(told["allowed"] == true, format!("a question without a method: {told}"))?;
    for fields in [
        &[("url", "api.rules.test")][..],
        &[("url", "ftp://api.rules.test/")],
        &[("url", "http://a b/")],
        &[("url", "http://u:p@api.rules.test/")],
        &[("url", "http://api.rules.test/"), ("method", "G T")],
        &[("url", "http://api.rules.test/"), ("method", "CONNECT")],
        &[("method", "GET")],
    ] {
        let reply = explain(fields).await?;
        reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during(format!("{fields:?}")))?;
    }
    explain(&[("url", "http://api.rules.test/"), ("conversation_id", "none")]).await?.expect_error(404, "NOT_FOUND")
}
