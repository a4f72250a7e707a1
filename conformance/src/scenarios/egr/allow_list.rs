//! The allow-list, for plain requests and for tunnels.

use std::time::Duration;

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::Deployment;
use crate::target::fixtures::OriginKind;
use crate::target::launch::{Launch, REGION};

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// A host on the allow-list that resolves to an origin of the suite's.
const ALLOWED: &str = "allowed.conformance.test";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-001",
        "A host that is not on the allow-list is refused with 403, for a plain request and for a tunnel",
        "a domain off the list gets 403: EGRESS_DENIED, X-Nagaya-Egress: denied",
        body!(denied),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-002",
        "A host on the allow-list is reached by plain HTTP and through a tunnel",
        "plain HTTP and HTTPS CONNECT succeed for domains on the list",
        body!(allowed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
];

/// A deployment with one workspace in its pool, from which `ALLOWED` reaches an origin by HTTP and by TLS.
async fn room(context: &Context) -> Result<(Deployment, Room), Failure> {
    let (plain, tls) = (context.origin(OriginKind::Plain).await?, context.origin(OriginKind::Tls(ALLOWED)).await?);
    let model_endpoints = format!("bedrock-runtime.{REGION}.amazonaws.com,bedrock.{REGION}.amazonaws.com");
    let launch = Launch::new()
        .set("PROXY_ALLOWED_DOMAINS", format!("{model_endpoints},{ALLOWED}"))
        .pin(ALLOWED, 80, &plain)
        .pin(ALLOWED, 443, &tls)
        .set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let room = deployment.only_room().await?;
    Ok((deployment, room))
}

/// Runs `curl` in the workspace with a time limit, and returns its output, whatever its status.
async fn curl(room: &Room, args: &str) -> Result<String, Failure> {
    Ok(room.shell(&format!("curl -sS --max-time 10 {args}")).await?.printed)
}

/// Parses an origin's echo of a request, which shows that the request arrived.
fn echo(printed: &str) -> Result<Value, Failure> {
    let asked: Value = serde_json::from_str(printed)
        .map_err(|_| Failure::mismatch("an answer of the origin", "its JSON", format!("{printed:?}")))?;
    check_eq(format!("method in {asked}"), asked["method"].as_str(), Some("GET"))?;
    Ok(asked)
}

async fn denied(context: &Context) -> Result<(), Failure> {
    let (deployment, room) = room(context).await?;
    // The control: the proxy forwards requests to hosts on the allow-list.
    echo(&curl(&room, &format!("http://{ALLOWED}/echo")).await?)?;
    let blocked = deployment.api.metrics().await?.sum("workspace_proxy_blocked_total").unwrap_or(0.0);

    let denied = curl(&room, "-i http://denied.conformance.test/secret?token=abc").await?;
    let (head, body) = denied.split_once("\r\n\r\n").unwrap_or((denied.as_str(), ""));
    check(head.starts_with("HTTP/1.1 403"), format!("a request to a host off the allow-list: {denied:?}"))?;
    check(head.to_lowercase().contains("x-nagaya-egress: denied"), format!("no X-Nagaya-Egress in {head:?}"))?;
    let answer: Value = serde_json::from_str(body).map_err(|_| Failure::mismatch("the body of a 403", "JSON", body))?;
    check_eq(format!("code in {answer}"), answer["error"]["code"].as_str(), Some("EGRESS_DENIED"))?;
    check_eq(format!("host in {answer}"), answer["error"]["host"].as_str(), Some("denied.conformance.test"))?;
    check(answer["error"]["reason"].is_string(), format!("reason in {answer}"))?;
    check(!denied.contains("token=abc"), "the error page echoes the query")?;

    let status = "-o /dev/null -w '%{http_connect}' https://denied.conformance.test/ 2>/dev/null";
    check_eq("status of CONNECT to a name off the list", curl(&room, status).await?.trim(), "403")?;
    let address = "-o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/";
    check_eq("status of a request to the metadata address", curl(&room, address).await?.trim(), "403")?;
    let port = format!("-o /dev/null -w '%{{http_code}}' http://{ALLOWED}:8081/");
    check_eq("status of a request to another port of an allowed name", curl(&room, &port).await?.trim(), "403")?;
    // And there is no way around the proxy.
    let around = room.shell("curl -sS --noproxy '*' --max-time 3 http://1.1.1.1/ && echo reached").await?;
    check(around.status != 0, format!("a request without the proxy: {}", around.printed))?;
    deployment
        .metric("workspace_proxy_blocked_total", |now| now >= blocked + 4.0, Duration::from_secs(5))
        .await
        .map(|_| ())
}

async fn allowed(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = room(context).await?;
    let plain = echo(&curl(&room, &format!("'http://{ALLOWED}/echo?a=1&b=two'")).await?)?;
    check_eq(format!("path in {plain}"), plain["path"].as_str(), Some("/echo"))?;
    check_eq(format!("query in {plain}"), plain["query"].as_str(), Some("a=1&b=two"))?;
    let headers = plain["headers"].to_string().to_lowercase();
    check(!headers.contains("proxy-"), format!("a Proxy- header was forwarded: {headers}"))?;

    // The workspace does not trust the origin's certificate authority; this scenario is about the tunnel.
    let tunnel = curl(&room, &format!("-k -w '\\n%{{http_connect}}' https://{ALLOWED}/echo")).await?;
    let (body, connect) = tunnel.rsplit_once('\n').unwrap_or((tunnel.as_str(), ""));
    check_eq("status of CONNECT to a name on the list", connect, "200")?;
    echo(body).map(|_| ())
}
