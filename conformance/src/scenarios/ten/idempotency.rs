//! Requests that are repeated with an `Idempotency-Key`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::keys::{OPERATOR, create};
use crate::client::http::{Api, Reply};
use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

/// How long a run that only says something may take.
const RUN_LIMIT: Duration = Duration::from_secs(30);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-060",
        "A POST repeated with its Idempotency-Key has the same answer and no other effect, also after a restart",
        "the same key and body is the same answer for a day, another body 422; holds over restarts",
        body!(same_answer),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Admin]),
    Scenario::new(
        "TEN-061",
        "A run that is started twice with one Idempotency-Key is one run, on both servers and after a restart",
        "Idempotency-Key on every POST that starts; holds over restarts and servers",
        body!(same_run),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::Resume,
    ])
    .limit(120),
    Scenario::new(
        "TEN-062",
        "Of many requests with one Idempotency-Key at the same time on two servers, one is carried out",
        "a request in progress with the same key is answered 409 with Retry-After; insert-first wins races",
        body!(one_of_many),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Redis]),
    Scenario::new(
        "TEN-063",
        "A message repeated with its Idempotency-Key is one message, and is taken later if there was no room",
        "Idempotency-Key on every POST that starts; what may be answered otherwise in a moment is not kept",
        body!(same_message),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::Resume,
    ])
    .limit(120),
];

async fn post(api: &Api, path: &str, body: &Value, key: &str) -> Result<Reply, Failure> {
    api.send(Method::POST, path, Some(&body.to_string()), &[("Idempotency-Key", key)]).await
}

fn replayed(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

async fn same_answer(context: &Context) -> Result<(), Failure> {
    context.secrets().add(OPERATOR);
    let launch = Launch::new().without_model().set("API_KEYS", OPERATOR).set("RATE_LIMIT_REQUESTS", 0);
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let (api, conversation) = (deployment.api.clone(), deployment.conversation(context).await?);
    let (ours, other) = (context.unique("ours"), context.unique("other"));
    let created = post(&api, "/api/tenants", &json!({"tenant_id": ours}), "k-tenant").await?.expect(201)?;
    check(!replayed(&created), "the first answer is marked as a repeated one")?;
    post(&api, "/api/tenants", &json!({"tenant_id": other}), "k-other").await?.expect(201)?;

    let path = format!("/api/tenants/{ours}/conversations");
    let body = json!({"user_id": "ada", "model_id": conversation.model});
    let first = post(&api, &path, &body, "k-conversation").await?.expect(201)?;
    let keys = format!("/api/tenants/{ours}/keys");
    let wanted = json!({"name": "n", "scopes": ["run", "read"]});
    let key = post(&api, &keys, &wanted, "k-key").await?.expect(201)?.json()?;
    let secret = key["key"].as_str().unwrap_or_default().to_owned();
    check(secret.starts_with("nag_"), "no key in the first answer")?;
    context.secrets().add(&secret);
    // What the model and the tenant are refused for stays refused.
    let refused = post(&api, "/api/tenants", &json!({"tenant_id": "no/id"}), "k-refused").await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;

    for restarted in [false, true] {
        if restarted {
            deployment.kill().await?;
            deployment.restart(context).await?;
            deployment.api = deployment.api.with_key(Some(OPERATOR));
        }
        let api = &deployment.api;
        let again = post(api, "/api/tenants", &json!({"tenant_id": ours}), "k-tenant").await?.expect(201)?;
        check_eq("the tenant, again", (again.json()?, replayed(&again)), (created.json()?, true))?;
        let again = post(api, &path, &body, "k-conversation").await?.expect(201)?;
        check_eq("the conversation, again", (again.json()?, replayed(&again)), (first.json()?, true))?;
        let again = post(api, &keys, &wanted, "k-key").await?.expect(201)?.json()?;
        check_eq("the id of the key, again", &again["key_id"], &key["key_id"])?;
        check(again["key"].is_null(), "the key is shown twice")?;
        let listed = api.get(&path).await?.expect(200)?.json()?;
        check_eq("conversations", listed["total"].as_u64(), Some(1))?;
        for (path, body) in [
            (path.clone(), json!({"user_id": "bob", "model_id": conversation.model})),
            (format!("/api/tenants/{other}/conversations"), body.clone()),
        ] {
            post(api, &path, &body, "k-conversation").await?.expect_error(422, "VALIDATION_ERROR")?;
        }
    }
    // The key of another caller is another one.
    let tenants = deployment.api.with_key(Some(&secret));
    let theirs = post(&tenants, &path, &body, "k-conversation").await?.expect(201)?;
    check(!replayed(&theirs) && theirs.json()? != first.json()?, "a tenant gets the operator's answer")?;
    // Another key of the same tenant belongs to the same caller: a rotated key may repeat what the old one has begun.
    let (second, _) = create(context, &deployment.api, &keys, &["run"]).await?;
    let again = post(&deployment.api.with_key(Some(&second)), &path, &body, "k-conversation").await?.expect(201)?;
    check_eq("the tenant's conversation, again", again.json()?, theirs.json()?)?;
    for bad in ["", "with space", &"x".repeat(256)] {
        post(&deployment.api, &path, &body, bad).await?.expect_error(422, "VALIDATION_ERROR")?;
    }
    // Of an answer that may be another one in a moment, nothing is kept.
    let busy = post(&deployment.api, &path, &json!({"user_id": "u", "model_id": "no-such"}), "k-free").await?;
    busy.expect_error(404, "NOT_FOUND")
}

/// Two servers of one deployment.
async fn both(context: &Context, launch: Launch) -> Result<(Deployment, Deployment), Failure> {
    let redis = context.redis().await?;
    let database = format!("sqlite://{}", context.dir().join("both.sqlite").display());
    let first = context.launch(launch.set("REDIS_URL", redis.url()).set("DATABASE_URL", database)).await?;
    let second = context.launch_beside(&first).await?;
    Ok((first, second))
}

async fn same_run(context: &Context) -> Result<(), Failure> {
    let (mut first, second) = both(context, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let path = conversation.path("/stream");
    let tool = "@tool Bash {\"command\": \"echo once >> /workspace/times\", \"description\": \"Count\"}\n@say counted";
    let (body, key) = (json!({"user_input": tool}), ("Idempotency-Key", "k-run"));
    let mut stream = first.api.open_stream_with(&path, &body, key).await?;
    let begun = stream.next().await?.map(|event| event.id).unwrap_or_default();
    // While it goes on: from its first event, here and on the other server.
    let (here, there) =
        tokio::join!(async { first.api.open_stream_with(&path, &body, key).await?.finish().await }, async {
            second.api.open_stream_with(&path, &body, key).await?.finish().await
        },);
    let events = stream.finish().await?;
    check(
        events.first().is_some_and(|event| event.id == begun),
        "the first stream does not begin with its first event",
    )?;
    for (which, again) in [("the same server", here?), ("the other server", there?)] {
        check(again == events, format!("repeated on {which}: {}, at first: {}", names(&again), names(&events)))?;
    }
    let another = post(&second.api, &path, &json!({"user_input": "@say no"}), key.1).await?;
    another.expect_error(422, "VALIDATION_ERROR")?;
    first.kill().await?;
    first.restart(context).await?;
    let again = first.api.open_stream_with(&path, &body, key).await?.finish().await?;
    check(again == events, format!("after a restart: {}, at first: {}", names(&again), names(&events)))?;
    let count = "@tool Bash {\"command\": \"wc -l < /workspace/times\", \"description\": \"Look\"}\n@say looked";
    let looked = first.run_well(&conversation, count).await?;
    let result = looked.iter().find(|event| event.name == "tool_result").map(|event| event.data["content"].to_string());
    check_eq("times that the tool was called", result.unwrap_or_default().trim_matches(['"', '\\', 'n']), "1")?;
    // Another run has taken its place.
    post(&second.api, &path, &body, key.1).await?.expect_error(409, "CONFLICT")
}

async fn same_message(context: &Context) -> Result<(), Failure> {
    let (first, second) = both(context, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let endless = json!({"command": "sleep 300", "description": "Wait"});
    let mut stream = first.start(&conversation, &format!("@tool Bash {endless}")).await?;
    stream.until("tool_call").await?;
    let path = conversation.path("/messages");
    let message = |text: &str| json!({"user_input": format!("@say {text}")});
    // The other server has it carried out by the one that has the run.
    let accepted = post(&second.api, &path, &message("kept"), "k-kept").await?.expect(202)?.json()?;
    for api in [&first.api, &second.api] {
        let again = post(api, &path, &message("kept"), "k-kept").await?.expect(202)?;
        check(replayed(&again), "a repeated answer is not marked")?;
        check_eq("answer to the message that is repeated", again.json()?, accepted.clone())?;
    }
    post(&first.api, &path, &message("other"), "k-kept").await?.expect_error(422, "VALIDATION_ERROR")?;
    // No room: that is the answer for the moment only.
    let mut waiting = 1;
    while first.api.post(&path, &message("dropped")).await?.status.as_u16() == 202 {
        waiting += 1;
        check(waiting <= 1_000, "a thousand messages wait")?;
    }
    let full = post(&second.api, &path, &message("late"), "k-late").await?;
    full.expect_error(409, "CONFLICT")?;
    check(full.header("retry-after").is_some(), "a queue that is full says nothing of when to try again")?;
    first.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    stream.finish().await?;
    let late = post(&second.api, &path, &message("late"), "k-late").await?.expect(202)?.json()?;
    let run = late["run_id"].as_str().unwrap_or_default();
    let events = eventually(RUN_LIMIT, "the end of the run of the message that was late", async || {
        let events = second.follow(&conversation, &format!("{run}:0")).await.map_err(|failure| failure.to_string())?;
        let ended = events.last().is_some_and(|done| done.id.starts_with(run) && done.name == "done");
        if ended { Ok(events) } else { Err(names(&events)) }
    })
    .await?;
    check_eq("what it said", events.last().map(|done| done.text("result").to_owned()), Some("late".to_owned()))
}

async fn one_of_many(context: &Context) -> Result<(), Failure> {
    let (first, second) = both(context, Launch::new().without_model()).await?;
    let conversation = first.conversation(context).await?;
    let path = format!("/api/tenants/{}/conversations", conversation.tenant);
    for round in 0..5 {
        let (body, key) = (json!({"user_id": format!("u{round}")}), format!("k{round}"));
        let requests = (0..12).map(|n| {
            let api = if n % 2 == 0 { &first.api } else { &second.api };
            post(api, &path, &body, &key)
        });
        let mut ids = std::collections::BTreeSet::new();
        for reply in futures::future::try_join_all(requests).await? {
            if reply.status == 409 {
                reply.expect_error(409, "RESOURCE_LOCKED")?;
                check(reply.header("retry-after").is_some(), "409 without Retry-After")?;
            } else {
                ids.insert(reply.expect(201)?.json()?["conversation_id"].to_string());
            }
        }
        check_eq(format!("conversations that were created: {ids:?}"), ids.len(), 1)?;
        let listed = first.api.get(&format!("{path}?user_id=u{round}")).await?.expect(200)?.json()?;
        check_eq("conversations in the list", listed["total"].as_u64(), Some(1))?;
    }
    Ok(())
}
