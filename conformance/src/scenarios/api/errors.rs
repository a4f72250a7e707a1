//! Error responses and request ids.

use http::Method;
use serde_json::{Value, json};

use crate::client::http::Reply;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;

/// An id that does not exist.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-001",
        "Empty, malformed and mistyped bodies are refused with 422 and the error envelope",
        "errors are always the envelope; VALIDATION_ERROR 422",
        body!(bad_bodies),
    )
    .limit(45),
    Scenario::new(
        "API-002",
        "An unknown tenant, model, conversation or route is answered with 404 and the error envelope",
        "errors are always the envelope; NOT_FOUND 404",
        body!(unknown_things),
    )
    .limit(45),
    Scenario::new(
        "API-003",
        "A run in an archived conversation is refused with 422",
        "POST …/stream: archived: 422; faults before the first event are plain HTTP errors",
        body!(archived),
    )
    .limit(45),
    Scenario::new(
        "API-004",
        "A second run during the first is refused with 409 RESOURCE_LOCKED, and the first continues",
        "one run at a time per conversation: else 409 RESOURCE_LOCKED",
        body!(second_run),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "API-005",
        "Creating a tenant or a model that already exists is refused with 409 CONFLICT",
        "errors are always the envelope; CONFLICT 409",
        body!(duplicates),
    )
    .severity(Severity::Low)
    .limit(45),
    Scenario::new(
        "API-006",
        "Every response carries X-Request-ID: the client's own if valid, otherwise one that the server generates",
        "every response carries X-Request-ID (the client's, if it sent a sane one)",
        body!(request_ids),
    )
    .severity(Severity::Low)
    .limit(45),
];

async fn bad_bodies(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    let routes = [
        "/api/tenants".to_owned(),
        "/api/models".to_owned(),
        format!("{tenant}/conversations"),
        conversation.path("/stream"),
    ];
    for route in &routes {
        for (what, body) in [
            ("nothing", ""),
            ("no JSON", "{\"tenant_id\": "),
            ("an array", "[]"),
            ("an array of nothing", "[null, null, null]"),
            ("a text", "\"text\""),
            ("null", "null"),
            ("no fields", "{}"),
            ("two objects", "{\"tenant_id\": \"conformance-twice\"} {}"),
            ("bytes that are not UTF-8", "{\"user_input\": \"\u{0}\u{1}\"}x"),
        ] {
            let reply = api.send(Method::POST, route, Some(body), &[]).await?;
            reply
                .expect_error(422, "VALIDATION_ERROR")
                .map_err(|failure| failure.during(format!("a body of {what}")))?;
        }
    }
    let mistyped: [(&str, Value, &str); 5] = [
        (&routes[0], json!({"tenant_id": 7}), "tenant_id"),
        (&routes[1], json!({"model_id": {"a": 1}}), "model_id"),
        (&routes[2], json!({"user_id": ["a"]}), "user_id"),
        (&routes[3], json!({"user_input": 1}), "user_input"),
        (&routes[3], json!({"user_input": ""}), "user_input"),
    ];
    for (route, body, field) in mistyped {
        let reply = api.post(route, &body).await?;
        reply.expect_error(422, "VALIDATION_ERROR")?;
        let has_details = reply.json()?["error"]["details"].is_array();
        check(!has_details || reply.text().contains(field), format!("{} does not name {field}", reply.text()))?;
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let reply = api.send(Method::POST, "/api/tenants", Some(&deep), &[]).await?;
    reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during("a body nested 100,000 deep"))?;
    Ok(())
}

async fn unknown_things(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let (tenant, nobody) = (format!("/api/tenants/{}", conversation.tenant), "conformance-knows-nobody");
    // The control: an existing object is found.
    api.get(&tenant).await?.expect(200)?;
    api.get(&conversation.path("")).await?.expect(200)?;
    for path in [
        format!("/api/tenants/{nobody}"),
        format!("/api/models/{nobody}"),
        format!("/api/tenants/{nobody}/conversations"),
        format!("{tenant}/conversations/{NOBODY}"),
        format!("{tenant}/conversations/not-even-an-id"),
        format!("{tenant}/conversations/{NOBODY}/messages"),
        format!("/api/tenants/{nobody}/conversations/{}", conversation.id),
        "/api/no-such-route".to_owned(),
        "/no-such-page".to_owned(),
    ] {
        api.get(&path).await?.expect_error(404, "NOT_FOUND")?;
    }
    let run = json!({"user_input": "hello"});
    for path in [
        format!("{tenant}/conversations/{NOBODY}/stream"),
        format!("/api/tenants/{nobody}/conversations/{}/stream", conversation.id),
    ] {
        api.post(&path, &run).await?.expect_error(404, "NOT_FOUND")?;
    }
    api.post(&format!("/api/tenants/{nobody}/conversations"), &json!({"user_id": "u"}))
        .await?
        .expect_error(404, "NOT_FOUND")?;
    // An unknown id inside a body: not found or invalid, never anything else.
    let unknown_model = json!({"user_id": "u", "model_id": nobody});
    let reply = api.post(&format!("{tenant}/conversations"), &unknown_model).await?;
    match reply.status.as_u16() {
        404 => reply.expect_error(404, "NOT_FOUND")?,
        _ => reply.expect_error(422, "VALIDATION_ERROR")?,
    }
    Ok(())
}

async fn archived(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let active = deployment.conversation_without_model(context).await?;
    let conversation = deployment.another_conversation(context, &active.tenant, &active.model).await?;
    let archived = api.post(&conversation.path("/archive"), &json!({})).await?;
    check(archived.status.is_success(), format!("POST …/archive: {} {}", archived.status, archived.text()))?;
    let now = api.get(&conversation.path("")).await?.expect(200)?.json()?;
    check_eq("status after archiving", now["status"].as_str(), Some("archived"))?;
    let run = json!({"user_input": "@say no"});
    api.post(&conversation.path("/stream"), &run).await?.expect_error(422, "VALIDATION_ERROR")?;
    // The control: in an active conversation the same request is no fault of the client's.
    let status = api.status_of_stream(&active.path("/stream"), &run).await?;
    api.post(&active.path("/cancel"), &json!({})).await?;
    let accepted = status.is_success() || status.is_server_error();
    check(accepted, format!("the same request in an active conversation is refused as well, with {status}"))
}

async fn second_run(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@delay 1000\n@chunk 6\n@say a slow answer that takes a while to be said";
    let mut stream = deployment.start(&conversation, prompt).await?;
    stream.until("text_delta").await?;
    let second: Reply =
        deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say me too"})).await?;
    let archived = deployment.api.post(&conversation.path("/archive"), &json!({})).await?;
    let renewed = deployment.api.delete(&conversation.path("/workspace")).await?;
    for (what, reply) in [("a second run", second), ("an archive", archived), ("another workspace", renewed)] {
        reply.expect_error(409, "RESOURCE_LOCKED").map_err(|failure| failure.during(what))?;
        let after = reply.header("retry-after").and_then(|after| after.parse::<u32>().ok());
        check(after.is_some_and(|seconds| seconds > 0), format!("Retry-After for {what} during a run: {after:?}"))?;
    }
    let events = stream.finish().await?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status of the first run: {done}"), done["status"].as_str(), Some("success"))?;
    deployment.run_well(&conversation, "@say now it is free").await.map(|_| ())
}

async fn duplicates(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let model = api.get(&format!("/api/models/{}", conversation.model)).await?.expect(200)?.json()?;
    let fields = [
        "model_id",
        "display_name",
        "bedrock_model_id",
        "model_region",
        "context_window",
        "max_output_tokens",
        "input_token_price",
        "output_token_price",
    ];
    let again: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), model[field].clone())).collect();
    api.post("/api/models", &Value::Object(again)).await?.expect_error(409, "CONFLICT")?;
    api.post("/api/tenants", &json!({"tenant_id": conversation.tenant})).await?.expect_error(409, "CONFLICT")?;
    Ok(())
}

async fn request_ids(context: &Context) -> Result<(), Failure> {
    let api = context.deployment().await?.api;
    for path in ["/", "/health", "/api/no-such-route", "/api/tenants"] {
        let sane = "conformance-7f3a";
        let reply = api.send(Method::GET, path, None, &[("X-Request-ID", sane)]).await?;
        check_eq(format!("X-Request-ID of {path}"), reply.header("x-request-id"), Some(sane))?;
        let own = api.get(path).await?;
        check(
            own.header("x-request-id").is_some_and(|id| !id.is_empty()),
            format!("X-Request-ID of {path} is missing"),
        )?;
        let wild = "x".repeat(5000);
        let reply = api.send(Method::GET, path, None, &[("X-Request-ID", &wild)]).await?;
        check(reply.header("x-request-id") != Some(&wild), format!("{path} gives back an id of 5,000 bytes"))?;
    }
    Ok(())
}
