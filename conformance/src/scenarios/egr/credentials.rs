//! Credentials that the proxy adds: signatures for Bedrock, headers for other hosts.

use std::time::Duration;

use serde_json::json;

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::lockdown::places_of;
use crate::scenarios::common::outside::{DENIED, HOST, NEEDS, NEEDS_MODEL, Outside, VAULT, bedrock, json};
use crate::target::fixtures::ModelRequest;
use crate::target::launch::REGION;

const SIGN: &str = include_str!("programs/sign.py");
/// Keys that the workspace makes up.
const FAKE: [&str; 3] = ["AKIDFAKEFAKEFAKEFAKE", "fakefakefakefakefakefakefakefakefakefake", "fake-session-token"];
/// A host on the allow-list with a credential, at which nothing listens.
const BROKEN: &str = "broken.conformance.test";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-114",
        "A request that the workspace signed with its own keys reaches the target signed with the server's",
        "Bedrock requests carry a valid SigV4 signature; the client's own Authorization, x-api-key, x-amz-* removed",
        body!(sdk),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL),
    Scenario::new(
        "EGR-115",
        "The Claude Code CLI, started by hand in an unmodified workspace, reaches the model",
        "proxy variables for the loopback bridge, CLAUDE_CODE_USE_BEDROCK=1, CLAUDE_CODE_SKIP_BEDROCK_AUTH=1",
        body!(forward_style),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL),
    Scenario::new(
        "EGR-116",
        "The Claude Code CLI reaches the model without proxy variables, with the bridge as its endpoint",
        "gateway style (ANTHROPIC_BEDROCK_BASE_URL is the bridge, origin-form requests) works as well",
        body!(gateway_style),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL),
    Scenario::new(
        "EGR-117",
        "A credential that the proxy adds appears nowhere in workspace, log, metrics or configuration",
        "secrets never in the workspace's environment, files, process list, logs, metrics",
        body!(secrets),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
];

async fn sdk(context: &Context) -> Result<(), Failure> {
    let outside = Outside::with(context, |launch| launch).await?;
    let question = json!({
        "anthropic_version": "bedrock-2023-05-31", "max_tokens": 100,
        "messages": [{"role": "user", "content": "@say Signed twice."}],
        "tools": [{"name": "none", "input_schema": {"type": "object"}}],
    })
    .to_string();
    let send = async |url: &str| {
        let [id, secret, token] = FAKE;
        json(&outside.run(&["python3", "-c", SIGN, url, REGION, id, secret, token, &question]).await?)
    };
    // The control: a host without a credential receives the request as the workspace has signed it.
    let echoed = send(&format!("http://{HOST}/echo?signed")).await?;
    let seen = outside.seen_once("/echo?signed").await?;
    check_eq(
        "Authorization at a host without a credential",
        seen.header("authorization"),
        echoed["authorization"].as_str(),
    )?;
    check(
        seen.header("authorization").is_some_and(|value| value.contains(FAKE[0])),
        format!("not the workspace's signature: {seen:?}"),
    )?;
    check_eq("the session token there", seen.header("x-amz-security-token"), Some(FAKE[2]))?;

    // An unescaped colon in the path, as SDKs send it.
    let path = "/model/anthropic.claude-sonnet-4-20250514-v1:0/invoke";
    let echoed = send(&format!("http://{}{path}", bedrock())).await?;
    check_eq(format!("status in {echoed}"), echoed["status"].as_u64(), Some(200))?;
    check(
        echoed["body"].as_str().is_some_and(|body| body.contains("Signed twice.")),
        format!("the model's answer: {echoed}"),
    )?;
    let requests = outside.deployment.model()?.requests().await?;
    check_eq(format!("number of requests to the model: {requests:?}"), requests.len(), 1)?;
    check_signed(&outside, &requests)?;
    for request in &requests {
        check(
            !request.has_header("x-amz-security-token"),
            format!("the workspace's session token reached the model: {request:?}"),
        )?;
    }
    Ok(())
}

/// Checks that the server has signed each request with its key.
fn check_signed(outside: &Outside, requests: &[ModelRequest]) -> Result<(), Failure> {
    let key = outside.deployment.server()?.credentials.id.as_str();
    for request in requests {
        check_eq(format!("signature of {request:?}"), request.signature(), "valid")?;
        check_eq(format!("key of {request:?}"), request.access_key_id(), Some(key))?;
    }
    Ok(())
}

/// Runs the CLI with a prompt in the workspace, with the variables `env`, and checks its requests and output.
async fn ask_cli(context: &Context, env: &str, says: &str) -> Result<(), Failure> {
    let outside = Outside::with(context, |launch| launch).await?;
    let asked =
        outside.shell(&format!("cd /workspace && env {env} timeout 25 claude -p '@say {says}' </dev/null")).await?;
    check_eq("the output of the CLI", asked.trim(), says)?;
    let requests = outside.deployment.model()?.requests().await?;
    let streams = requests.iter().filter(|request| request.path().ends_with("/invoke-with-response-stream")).count();
    check(streams > 0, format!("no request for a stream among {requests:?}"))?;
    check_signed(&outside, &requests)
}

async fn forward_style(context: &Context) -> Result<(), Failure> {
    ask_cli(context, "", "Through the proxy.").await
}

async fn gateway_style(context: &Context) -> Result<(), Failure> {
    // Without proxy variables only the endpoint's address can lead to the bridge.
    let bridge = context.description().containers.proxy();
    let env = format!("-u HTTP_PROXY -u HTTPS_PROXY -u http_proxy -u https_proxy ANTHROPIC_BEDROCK_BASE_URL={bridge}");
    ask_cli(context, &env, "Through the bridge.").await
}

async fn secrets(context: &Context) -> Result<(), Failure> {
    let canaries = ["variable", "file"].map(|what| context.unique(&format!("canary-{what}")));
    let [variable, file] = &canaries;
    canaries.iter().for_each(|canary| context.secrets().add(canary));
    let path = context.dir().join("canary");
    std::fs::write(&path, file)?;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let rules = format!(
        "{VAULT}=header:x-canary:env:CANARY,{BROKEN}=header:x-canary:env:CANARY,{HOST}=header:authorization:file:{}",
        path.display()
    );
    let outside = Outside::with(context, |launch| {
        let launch = launch.without_model().set("PROXY_CREDENTIALS", rules).set("CANARY", variable);
        launch
            .set("PROXY_ALLOWED_DOMAINS", format!("{HOST},{VAULT},{BROKEN}"))
            .pin_address(BROKEN, 443, &nobody)
            .set("LOG_LEVEL", "trace")
    })
    .await?;

    // The stimulus: requests with the credential, and every way such a request can end. No path echoes headers.
    let mut printed =
        outside.shell(&format!("curl -sSiv --max-time 10 http://{VAULT}/status/200 http://{HOST}/status/401")).await?;
    for (path, header, value) in [("/status/200", "x-canary", variable), ("/status/401", "authorization", file)] {
        let seen = outside.seen_once(path).await?;
        check_eq(format!("how the request for {path} arrived"), seen.scheme.as_str(), "https")?;
        check_eq(format!("{header} of the request for {path}"), seen.header(header), Some(value.as_str()))?;
    }
    let failing = format!(
        "curl -sSiv --max-time 10 http://{BROKEN}/x http://{DENIED}/x --next -sSiv --max-time 10 -H 'Transfer-Encoding: odd' http://{VAULT}/x"
    );
    printed.push_str(&outside.attempt(&failing).await?.printed);
    for status in ["HTTP/1.1 200", "HTTP/1.1 401", "HTTP/1.1 502", "HTTP/1.1 403", "HTTP/1.1 400"] {
        check(printed.contains(status), format!("no {status} among the answers: {printed}"))?;
    }

    let server = outside.deployment.server()?;
    let aws = [server.credentials.id.as_str(), server.credentials.secret.as_str()];
    let all = [variable.as_str(), file.as_str(), aws[0], aws[1]];
    search_room(&outside, context, &all).await?;

    let config = server.command(Act::Config)?.output(&context.run.id, Duration::from_secs(10)).await?;
    check(config.status.success(), "the command that prints the settings fails")?;
    let metrics = outside.deployment.api.get("/metrics").await?.expect(200)?.text();
    check(
        metrics.contains("workspace_proxy_request_duration_seconds"),
        "the metrics do not count the proxy's requests",
    )?;
    let log = server.log();
    check(log.contains(VAULT), "the log does not mention the requests")?;
    let rooms = outside.deployment.api.get("/api/admin/workspaces").await?.expect(200)?.text();
    for (place, text) in [
        ("the responses that the workspace received", printed),
        ("docker inspect", outside.room.inspect_json().await?.to_string()),
        ("docker logs", outside.room.logs().await?),
        ("the server's log", log),
        ("the metrics", metrics),
        ("the list of workspaces", rooms),
        ("the printed configuration", String::from_utf8_lossy(&[config.stdout, config.stderr].concat()).into_owned()),
    ] {
        // The key id is not secret; the configuration may show it.
        let found = [all[0], all[1], all[3]].iter().any(|secret| text.contains(secret));
        check(!found, format!("a secret is in {place}"))?;
    }
    Ok(())
}

/// Searches the workspace for secrets; a planted text shows that the search works.
async fn search_room(outside: &Outside, context: &Context, secrets: &[&str]) -> Result<(), Failure> {
    let planted = context.unique("planted");
    let plant = "printf %s \"$1\" > /workspace/planted; PLANTED=\"$1\" sleep 50 >/dev/null 2>&1 & echo $!";
    let sleeper = outside.run(&["bash", "-c", plant, "bash", &planted]).await?;
    let command = ["bash", "-c", "exec -a \"$1\" sleep 50 >/dev/null 2>&1 & echo $!", "bash", &planted];
    let named = outside.run(&command).await?;
    let (environ, cmdline) =
        (format!("0 /proc/{}/environ", sleeper.trim()), format!("0 /proc/{}/cmdline", named.trim()));
    let found = places_of(&outside.room, &[planted.as_str()]).await?;
    for place in [environ, cmdline, "0 /workspace/planted".to_owned()] {
        check(found.contains(&place), format!("the search did not find what was planted at {place}: {found:?}"))?;
    }
    let found = places_of(&outside.room, secrets).await?;
    check(found.is_empty(), format!("a secret is in the workspace (its number and place): {found:?}"))
}
