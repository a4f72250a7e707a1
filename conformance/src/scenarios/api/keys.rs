//! API keys: authentication, operators' routes, rate limits.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::client::http::{Api, Reply};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// Keys of launched deployments: an operator's, and two tenants'.
pub(super) const OPERATOR: &str = "operators-key-0123456789";
pub(super) const OURS: &str = "ours-key-0123456789abcdef";
pub(super) const THEIRS: &str = "theirs-key-0123456789abc";
/// Another key of the second tenant.
const THEIRS_TOO: &str = "theirs-too-key-0123456789";
/// A key for metrics only.
const METRICS: &str = "metrics-key-0123456789ab";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-010",
        "Without a valid key only the public routes answer, however the key is wrong",
        "the key's header, or Authorization: Bearer KEY; open without a key: /, /health*, /openapi.json, /docs",
        body!(authentication),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch]),
    Scenario::new(
        "API-012",
        "A tenant's key is refused with 403 on operators' routes and sees no prices; one for metrics reads metrics",
        "FORBIDDEN 403; /api/admin and, in production, /metrics: operator's key only; @metrics:KEY only for /metrics",
        body!(operator_routes),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Admin]),
    Scenario::new(
        "API-013",
        "A key over its rate limit receives 429 with the headers, other keys do not, and it recovers after Retry-After",
        "RATE_LIMIT_EXCEEDED 429 (with Retry-After, X-RateLimit-*); per key",
        body!(rate_limited),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch]),
];

/// A launch for scenarios in which nothing runs.
fn keyless() -> Launch {
    Launch::new().without_model().without_waiting()
}

/// A deployment with keys, two tenants, and a conversation of the second one.
pub(super) async fn with_keys(
    context: &Context,
    launch: Launch,
) -> Result<(Deployment, Conversation, String), Failure> {
    for key in [OPERATOR, OURS, THEIRS, THEIRS_TOO, METRICS] {
        context.secrets().add(key);
    }
    let (ours, theirs) = (context.unique("ours"), context.unique("theirs"));
    let keys = format!("{OPERATOR},{ours}:{OURS},{theirs}:{THEIRS},{theirs}:{THEIRS_TOO},@metrics:{METRICS}");
    let mut deployment = context.launch(launch.set("API_KEYS", keys)).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let any = deployment.conversation(context).await?;
    for tenant in [&ours, &theirs] {
        deployment.api.post("/api/tenants", &json!({"tenant_id": tenant, "model_id": any.model})).await?.expect(201)?;
    }
    let conversation = deployment.another_conversation(context, &theirs, &any.model).await?;
    Ok((deployment, conversation, ours))
}

/// Every route of the description that needs a key, with its method and with values for its parameters.
async fn routes(api: &Api, conversation: &Conversation) -> Result<Vec<(Method, String, String)>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let mut routes = Vec::new();
    for (template, operations) in description["paths"].as_object().into_iter().flatten() {
        let path = template
            .replace("{tenant_id}", &conversation.tenant)
            .replace("{conversation_id}", &conversation.id)
            .replace("{model_id}", &conversation.model)
            .replace(['{', '}'], "");
        for method in operations.as_object().into_iter().flatten().map(|(method, _)| method) {
            let method = method.to_uppercase().parse().map_err(Failure::harness)?;
            routes.push((method, template.clone(), path.clone()));
        }
    }
    check(routes.len() > 15, format!("/openapi.json describes {} operations: {description}", routes.len()))?;
    Ok(routes)
}

fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/docs" | "/openapi.json" | "/metrics") || path.starts_with("/health")
}

async fn send(api: &Api, method: &Method, path: &str, headers: &[(&str, &str)]) -> Result<Reply, Failure> {
    let body = matches!(*method, Method::POST | Method::PUT | Method::PATCH).then_some("{}");
    api.send(method.clone(), path, body, headers).await
}

async fn authentication(context: &Context) -> Result<(), Failure> {
    let (deployment, conversation, _) = with_keys(context, keyless()).await?;
    let nobody = deployment.api.with_key(None);
    for path in ["/", "/health", "/health/live", "/openapi.json", "/docs"] {
        nobody.get(path).await?.expect(200)?;
    }
    for (method, _, path) in routes(&nobody, &conversation).await?.into_iter().filter(|(_, _, path)| !is_open(path)) {
        send(&nobody, &method, &path, &[]).await?.expect_error(401, "UNAUTHORIZED")?;
    }
    // The control: with the key, in either header, the same request is answered.
    let bearer = format!("Bearer {OPERATOR}");
    let (name, scheme) = (&*nobody.speech().key_header, &*nobody.speech().key_scheme);
    let keyed = |key: &str| format!("{scheme}{key}");
    let right = keyed(OPERATOR);
    for header in [(name, right.as_str()), ("Authorization", bearer.as_str())] {
        send(&nobody, &Method::GET, "/api/tenants", &[header]).await?.expect(200)?;
    }
    let (half, longer, lower) = (&OPERATOR[..20], format!("{OPERATOR}0"), OPERATOR.to_uppercase());
    let basic = format!("Basic {OPERATOR}");
    let wrong = ["", half, &longer, &lower, "\u{e9}"].map(keyed);
    let in_header = wrong.iter().map(|key| (name, key.as_str()));
    for header in
        in_header.chain([("Authorization", OPERATOR), ("Authorization", basic.as_str()), ("Authorization", "Bearer ")])
    {
        let reply = send(&nobody, &Method::GET, "/api/tenants", &[header]).await?;
        reply.expect_error(401, "UNAUTHORIZED").map_err(|failure| failure.during(header.0))?;
    }
    // A key that is mistyped here may be somebody's elsewhere.
    let stranger = context.unique("stranger");
    let presented = keyed(&stranger);
    send(&nobody, &Method::GET, "/api/tenants", &[(name, &presented)]).await?.expect_error(401, "UNAUTHORIZED")?;
    let logged = deployment.server()?.log();
    check(!logged.contains(&stranger), "a key that nobody has is in the log")
}

async fn operator_routes(context: &Context) -> Result<(), Failure> {
    let (deployment, conversation, _) = with_keys(context, keyless().set("APP_ENV", "production")).await?;
    let tenant = deployment.api.with_key(Some(THEIRS));
    let own = format!("/api/tenants/{}", conversation.tenant);
    tenant.get(&own).await?.expect(200)?;
    let model = format!("/api/models/{}", conversation.model);
    let refused: [(Method, &str, Value); 12] = [
        (Method::GET, "/api/tenants", Value::Null),
        (Method::GET, "/metrics", Value::Null),
        (Method::POST, "/api/tenants", json!({"tenant_id": "another"})),
        (Method::PUT, &own, json!({"status": "inactive"})),
        (Method::DELETE, &own, Value::Null),
        (Method::PUT, &model, json!({"display_name": "mine"})),
        (Method::DELETE, &model, Value::Null),
        (Method::GET, "/api/admin/workspaces", Value::Null),
        (Method::DELETE, "/api/admin/workspaces/any", Value::Null),
        (Method::GET, "/api/admin/pool", Value::Null),
        (Method::PUT, "/api/admin/pool", json!({"min_size": 0, "max_size": 0})),
        (Method::POST, "/api/admin/gc", json!({})),
    ];
    for (method, path, body) in refused {
        let body = (!body.is_null()).then(|| body.to_string());
        tenant.send(method, path, body.as_deref(), &[]).await?.expect_error(403, "FORBIDDEN")?;
    }
    // Tenants choose among the models; what these cost is the operator's business.
    for path in ["/api/models", &model] {
        let shown = tenant.get(path).await?.expect(200)?.text();
        check(shown.contains(&conversation.model), format!("{path} lacks the model: {shown}"))?;
        check(!shown.contains("token_price"), format!("{path} shows prices to a tenant: {shown}"))?;
        let shown = deployment.api.get(path).await?.expect(200)?.text();
        check(shown.contains("input_token_price"), format!("{path} shows no prices to the operator: {shown}"))?;
    }
    let scraper = deployment.api.with_key(Some(METRICS));
    for api in [&scraper, &deployment.api] {
        api.get("/metrics").await?.expect(200)?;
    }
    deployment.api.with_key(None).get("/metrics").await?.expect_error(401, "UNAUTHORIZED")?;
    for path in ["/api/models", "/api/tenants", "/api/admin/pool", &own, &conversation.path("/messages")] {
        scraper.get(path).await?.expect_error(403, "FORBIDDEN")?;
    }
    let still = tenant.get(&own).await?.expect(200)?.json()?;
    check_eq("the tenant's status afterwards", still["status"].as_str(), Some("active"))
}

async fn rate_limited(context: &Context) -> Result<(), Failure> {
    // Set-up used some of the operator's requests; a tenant's budget is untouched.
    let launch = keyless().set("RATE_LIMIT_REQUESTS", 20).set("RATE_LIMIT_PERIOD", 40);
    let (deployment, conversation, _) = with_keys(context, launch).await?;
    let (busy, quiet) = (deployment.api.with_key(Some(THEIRS)), deployment.api.with_key(Some(OURS)));
    let path = conversation.path("");
    let number = |reply: &Reply, name: &str| {
        let value = reply.header(name).and_then(|text| text.parse::<u64>().ok());
        value.ok_or_else(|| Failure::assertion(format!("{}: no number in {name}: {:?}", reply.asked, reply.headers)))
    };
    let first = busy.get(&path).await?.expect(200)?;
    check_eq("X-RateLimit-Limit", number(&first, "x-ratelimit-limit")?, 20)?;
    check(number(&first, "x-ratelimit-remaining")? < 20, "the first request was not counted")?;
    number(&first, "x-ratelimit-reset")?;
    let mut asked = 1;
    let refusal = loop {
        let reply = busy.get(&path).await?;
        if reply.status != 200 {
            break reply;
        }
        asked += 1;
        check(asked < 60, "60 requests were answered where 20 in 40 s are allowed")?;
    };
    check(asked >= 20, format!("only {asked} requests were answered where 20 are allowed"))?;
    refusal.expect_error(429, "RATE_LIMIT_EXCEEDED")?;
    check_eq("X-RateLimit-Remaining", number(&refusal, "x-ratelimit-remaining")?, 0)?;
    let wait = number(&refusal, "retry-after")?;
    check((1..=40).contains(&wait), format!("Retry-After: {wait}"))?;
    // Other keys are not affected, whosoever they are.
    quiet.get("/api/models").await?.expect(200)?;
    let own = deployment.api.with_key(Some(THEIRS_TOO)).get(&path).await?.expect(200)?;
    check_eq("X-RateLimit-Remaining of the tenant's other key", number(&own, "x-ratelimit-remaining")?, 19)?;
    for path in ["/health", "/health/live"] {
        busy.get(path).await?.expect(200)?;
    }
    eventually(Duration::from_secs(wait + 5), "the key may ask again", async || {
        busy.get(&path).await.and_then(|reply| reply.expect(200))
    })
    .await?;
    // Without keys nobody is counted.
    let open = context.launch(keyless().set("RATE_LIMIT_REQUESTS", 2)).await?;
    for _ in 0..6 {
        let reply = open.api.get("/api/tenants").await?.expect(200)?;
        check_eq("X-RateLimit-Limit without keys", reply.header("x-ratelimit-limit"), None)?;
    }
    Ok(())
}
