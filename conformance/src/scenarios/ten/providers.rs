//! Two providers of models: Bedrock, and the Messages API of Anthropic or of a gateway.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::stream::{RunEvent, names};
use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::lockdown::places_of;
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::trail;
use crate::target::deployment::Deployment;
use crate::target::fixtures::{ANTHROPIC, GATEWAY, ModelRequest};
use crate::target::launch::{GATEWAY_PORT, Launch};

/// A model's id at the Messages API.
const MODEL: &str = "claude-sonnet-4-5-20250929";
/// The name of a model that only a gateway knows.
const HOUSE_MODEL: &str = "house-model-7";
/// Path of the gateway's Messages API.
const BASE: &str = "/llm/anthropic";
/// The shortest limit of a stalled answer that is accepted, in seconds.
const IDLE_SECONDS: u64 = 10;
/// Time limit of the server's other commands.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-070",
        "ANTHROPIC_API_KEY alone is enough for a run over the Messages API, and appears nowhere",
        "one key is enough to begin; it is in no workspace, log, journal or answer; nothing is asked of AWS",
        body!(key_alone),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(60),
    Scenario::new(
        "TEN-071",
        "One workspace of the pool calls a model at Bedrock and then one at the Messages API, and remembers",
        "provider per model, both at once in one deployment; the environment belongs to the run",
        body!(both),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(60),
    Scenario::new(
        "TEN-072",
        "A gateway with a port, a path and a bearer token serves runs; an answer that stalls ends the run",
        "any gateway that speaks the Messages API: base_url and a credential; MODEL_IDLE_TIMEOUT",
        body!(gateway),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TEN-073",
        "401, 429 and 529 of the Messages API are told with what to do, after few retries",
        "errors of the Messages API are mapped: the status, the setting or the advice, few retries",
        body!(refusals),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(60),
    Scenario::new(
        "TEN-074",
        "A missing key of the Messages API is said at once, by the run, /health, `doctor` and the model's creation",
        "a provider without a credential: 422 that names the setting; the proxy's refusal ends the run at once",
        body!(missing_key),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(60),
];

/// The requests of the model so far, each of which had a valid credential.
async fn requests(deployment: &Deployment) -> Result<Vec<ModelRequest>, Failure> {
    let requests = deployment.model()?.requests().await?;
    check(!requests.is_empty(), "the model was not asked")?;
    for request in &requests {
        check_eq(format!("credential of {request:?}"), request.signature(), "valid")?;
    }
    Ok(requests)
}

/// The egress of the audit trail so far: host, and whether the request was allowed.
fn egress(context: &Context, deployment: &Deployment) -> Result<Vec<(String, bool)>, Failure> {
    let entries = trail::entries(&state_dir(context, deployment).join("audit.jsonl"))?;
    let egress = entries.iter().filter(|line| line["event"] == "egress");
    let host = |line: &Value| line["host"].as_str().unwrap_or_default().to_owned();
    Ok(egress.map(|line| (host(line), line["decision"] == "allowed")).collect())
}

fn state_dir(context: &Context, deployment: &Deployment) -> std::path::PathBuf {
    context.dir().join(format!("{}-state", deployment.id.as_deref().unwrap_or_default()))
}

/// The files below a directory that contain a text.
fn files_with(dir: &Path, text: &str) -> Result<Vec<String>, Failure> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() && String::from_utf8_lossy(&std::fs::read(&path)?).contains(text) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}

/// What the server's `doctor` prints, and whether its status is 0.
async fn doctor(context: &Context, deployment: &Deployment) -> Result<(String, bool), Failure> {
    let output = deployment.server()?.command(Act::Doctor)?.output(&context.run.id, COMMAND_LIMIT).await?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
}

/// The message of a run's model_error, and its retries.
fn model_error(events: &[RunEvent]) -> Result<(&str, usize), Failure> {
    ended_badly(events)?;
    let error = events.iter().find(|event| event.name == "error");
    check_eq(
        format!("error_type among {}", names(events)),
        error.map(|event| event.text("error_type")),
        Some("model_error"),
    )?;
    let retries = events.iter().filter(|event| event.name == "progress" && event.text("type") == "retry").count();
    Ok((error.map_or("", |event| event.text("message")), retries))
}

async fn key_alone(context: &Context) -> Result<(), Failure> {
    let key = context.unique("canary-key");
    context.secrets().add(&key);
    let launch =
        Launch::new().messages_api(&key).without_aws().set("ANTHROPIC_API_KEY", &key).set("LOG_LEVEL", "trace");
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation_at(context, "anthropic", MODEL).await?;
    let tool = json!({"command": "env | sort; cat /proc/[0-9]*/environ; echo over", "description": "Look around"});
    let events = deployment.run_well(&conversation, &format!("@tool Bash {tool}\n@say Looked around.")).await?;
    let events: String = events.iter().map(|event| event.data.to_string()).collect();
    check(events.contains("over") && events.contains("Looked around."), format!("the run's events: {events}"))?;

    for request in requests(&deployment).await? {
        check_eq("API", request.api(), "anthropic")?;
        check(request.path().starts_with("/v1/messages"), format!("path of {request:?}"))?;
        check(request.has_header("x-api-key"), format!("the key is not in x-api-key: {request:?}"))?;
    }
    // The driver's other traffic is turned off, and not refused: it repeats refused requests for twenty seconds.
    let asked = egress(context, &deployment)?;
    let others: Vec<_> = asked.iter().filter(|(host, allowed)| host != ANTHROPIC || !allowed).collect();
    check(others.is_empty() && !asked.is_empty(), format!("other requests of the workspace: {others:?}"))?;

    let health = deployment.api.get("/health").await?.expect(200)?.json()?;
    let credentials = &health["checks"]["model_credentials"];
    check_eq(format!("model_credentials in /health: {credentials}"), credentials["status"].as_str(), Some("healthy"))?;
    let (said, _) = doctor(context, &deployment).await?;
    let line = said.lines().find(|line| line.contains("model credentials")).unwrap_or_default();
    check(line.starts_with("ok") && line.contains(ANTHROPIC) && !line.contains("AWS"), format!("doctor: {said}"))?;

    let room = deployment.only_room().await?;
    let places = places_of(&room, &[key.as_str()]).await?;
    check(places.is_empty(), format!("the key is in the workspace: {places:?}"))?;
    let server = deployment.server()?;
    let config = server.command(Act::Config)?.output(&context.run.id, COMMAND_LIMIT).await?;
    for (place, text) in [
        ("the run's events", events),
        ("docker inspect", room.inspect_json().await?.to_string()),
        ("the container's log", room.logs().await?),
        ("the server's log", server.log()),
        ("the metrics", deployment.api.get("/metrics").await?.expect(200)?.text()),
        ("/health", health.to_string()),
        ("the printed configuration", String::from_utf8_lossy(&config.stdout).into_owned()),
        ("what `doctor` prints", said),
    ] {
        check(!text.contains(&key), format!("the key is in {place}"))?;
        check(!text.is_empty() || place == "the container's log", format!("{place} is empty"))?;
    }
    let found = files_with(&state_dir(context, &deployment), &key)?;
    check(found.is_empty(), format!("the key is in {found:?}"))?;
    let journals = files_with(&state_dir(context, &deployment), "Looked around.")?;
    check(!journals.is_empty(), "the search in the state directory does not find what is in the run's journal")
}

async fn both(context: &Context) -> Result<(), Failure> {
    let key = context.unique("key");
    let launch = Launch::new().messages_api(&key).set("ANTHROPIC_API_KEY", &key).set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= 1.0, Duration::from_secs(20)).await?;
    let first = deployment.conversation(context).await?;
    let second = deployment.conversation_at(context, "anthropic", MODEL).await?;
    deployment.run_well(&first, "@say The word is persimmon.").await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= 1.0, Duration::from_secs(20)).await?;
    deployment.run_well(&second, "@say Over the Messages API.").await?;
    let apis = |requests: &[ModelRequest]| -> Vec<String> {
        let mut apis: Vec<String> = requests.iter().map(|request| request.api().to_owned()).collect();
        apis.dedup();
        apis
    };
    check_eq(
        "the APIs that were asked, in order",
        apis(&requests(&deployment).await?),
        vec!["bedrock".to_owned(), "anthropic".to_owned()],
    )?;

    // The model moves to the other provider; its conversation keeps its workspace and its session.
    let rooms = deployment.rooms().await?.len();
    let path = format!("/api/models/{}", first.model);
    let moved = deployment.api.put(&path, &json!({"provider": "anthropic"})).await?;
    moved.expect_error(422, "VALIDATION_ERROR")?;
    let moved = json!({"provider": "anthropic", "provider_model_id": MODEL});
    let moved = deployment.api.put(&path, &moved).await?.expect(200)?.json()?;
    check_eq(format!("the region of {moved}"), &moved["model_region"], &Value::Null)?;
    check(moved.get("bedrock_model_id").is_none(), format!("a model that is not at Bedrock has an id there: {moved}"))?;
    let before = requests(&deployment).await?.len();
    let events = deployment.run_well(&first, "@recall persimmon").await?;
    let said: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("what the other provider's model was told", said.as_str(), "persimmon: remembered")?;
    let after = requests(&deployment).await?.split_off(before);
    check_eq("the API that was asked then", apis(&after), vec!["anthropic".to_owned()])?;
    check_eq("workspaces afterwards", deployment.rooms().await?.len(), rooms)
}

async fn gateway(context: &Context) -> Result<(), Failure> {
    let token = context.unique("canary-token");
    context.secrets().add(&token);
    // A run that the stall does not end is ended by its time limit, with another error.
    let launch = Launch::new()
        .messages_api(&token)
        .without_aws()
        .set("ANTHROPIC_BASE_URL", format!("https://{GATEWAY}:{GATEWAY_PORT}{BASE}/"))
        .set("ANTHROPIC_AUTH_TOKEN", &token)
        .set("MODEL_IDLE_TIMEOUT", IDLE_SECONDS)
        .set("CONTAINER_EXECUTION_TIMEOUT", 40);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation_at(context, "anthropic", HOUSE_MODEL).await?;
    let write = "@tool Bash {\"command\": \"printf here > kept.txt\", \"description\": \"Write\"}\n@say Written.";
    deployment.run_well(&conversation, write).await?;
    let asked = requests(&deployment).await?;
    for request in &asked {
        check(request.path().starts_with(&format!("{BASE}/v1/messages")), format!("path of {request:?}"))?;
        check_eq(format!("model of {request:?}"), request.model(), Some(HOUSE_MODEL))?;
        check(!request.has_header("x-api-key"), format!("another credential than the token: {request:?}"))?;
    }
    let asked = egress(context, &deployment)?;
    check(
        asked.iter().all(|(host, allowed)| host == GATEWAY && *allowed),
        format!("requests of the workspace: {asked:?}"),
    )?;

    let events = deployment.run(&conversation, "@stall begun").await?;
    let (message, _) = model_error(&events)?;
    check(message.contains("idle") || message.contains("stall"), format!("the stall is not in: {message}"))?;
    let text: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("the text that was streamed", text.as_str(), "begun")?;
    let kept = deployment.only_room().await?.shell("cat /workspace/kept.txt").await?;
    check_eq("the file afterwards", kept.printed.trim(), "here")
}

async fn refusals(context: &Context) -> Result<(), Failure> {
    let key = context.unique("key");
    let launch = Launch::new().messages_api(&key).without_aws().set("ANTHROPIC_API_KEY", &key);
    let deployment = context.launch(launch).await?;
    let first = deployment.conversation_at(context, "anthropic", MODEL).await?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let third = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    // At the same time: the driver pauses for some nine seconds between its attempts.
    let (refused, limited, overloaded) = tokio::try_join!(
        deployment.run(&first, "@status 401"),
        deployment.run(&second, "@status 429"),
        deployment.run(&third, "@status 529"),
    )?;
    for (status, events, says, most) in [
        (401, &refused, "ANTHROPIC_API_KEY", 1),
        (429, &limited, "limits the requests", 4),
        (529, &overloaded, "is overloaded", 4),
    ] {
        let (message, retries) = model_error(events)?;
        check(message.contains(says), format!("the advice for a {status} is not in: {message}"))?;
        check(status == 401 || message.contains(&status.to_string()), format!("the status is not in: {message}"))?;
        check(message.contains(ANTHROPIC), format!("the endpoint is not in: {message}"))?;
        check(!message.contains("/login"), format!("advice that nobody can follow: {message}"))?;
        check((1..=most).contains(&retries), format!("retries of a {status}: {retries}"))?;
    }
    // The key is right: what a conversation's script refuses leaves the others alone.
    deployment.run_well(&first, "@say well again").await.map(|_| ())
}

async fn missing_key(context: &Context) -> Result<(), Failure> {
    let key = context.unique("key");
    let launch = Launch::new()
        .messages_api(&key)
        .without_aws()
        .set("MODEL_PROVIDERS", "anthropic")
        .set("PROXY_CREDENTIALS", format!("{ANTHROPIC}=header:x-api-key:env:NO_SUCH_KEY"));
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation_at(context, "anthropic", MODEL).await?;
    let events = deployment.run(&conversation, "@say never").await?;
    let (message, retries) = model_error(&events)?;
    check(message.contains("ANTHROPIC_API_KEY"), format!("the error does not name the setting: {message}"))?;
    check_eq("retries", retries, 0)?;
    check_eq("requests of the model", deployment.model()?.requests().await?.len(), 0)?;
    eventually(Duration::from_secs(15), "model_credentials in /health", async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        let credentials = &health["checks"]["model_credentials"];
        check(
            health["status"] == "degraded" && credentials["status"] == "degraded",
            format!("{}, model_credentials: {credentials}", health["status"]),
        )
    })
    .await?;
    let (said, well) = doctor(context, &deployment).await?;
    check(
        !well && said.contains("BAD   model credentials") && said.contains("NO_SUCH_KEY"),
        format!("doctor: {said}"),
    )?;

    // The same conversation on a server that has no such provider any more.
    deployment.stop().await?;
    let server = deployment.server.as_mut().ok_or_else(|| Failure::harness("launched without a server"))?;
    for name in ["MODEL_PROVIDERS", "PROXY_CREDENTIALS"] {
        server.program.env.remove(name);
    }
    deployment.restart(context).await?;
    let (path, api) = (conversation.path("/stream"), &deployment.api);
    let model = json!({
        "model_id": context.unique("model"), "display_name": "M", "provider": "anthropic", "provider_model_id": MODEL,
        "context_window": 1, "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0",
    });
    for (path, body) in [(path.as_str(), json!({"user_input": "@say never"})), ("/api/models", model)] {
        let reply = api.post(path, &body).await?;
        check(
            reply.text().contains("ANTHROPIC_API_KEY"),
            format!("POST {path} does not name the setting: {}", reply.text()),
        )?;
        reply.expect_error(422, "VALIDATION_ERROR")?;
    }
    Ok(())
}
