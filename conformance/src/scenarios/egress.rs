//! The one way out of a room: EGR.

use std::time::Duration;

use serde_json::Value;

use crate::client::tunnel::{self, client_hello};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::Deployment;
use crate::target::engine::Room;
use crate::target::fixtures::OriginKind;
use crate::target::launch::{Launch, REGION};

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// A name that is on the list of the deployments here, and leads to an origin of the suite's.
const ALLOWED: &str = "allowed.conformance.test";
/// A name that is on the list, and leads to where nobody listens.
const REFUSING: &str = "refusing.conformance.test";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "EGR-001",
        title: "a name that is not on the list gets 403, in the form of a request and of a tunnel",
        severity: Severity::Critical,
        requirement: "a domain off the list gets 403: EGRESS_DENIED, X-Nagaya-Egress: denied",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(denied),
    },
    Scenario {
        id: "EGR-002",
        title: "a name on the list is reached by plain HTTP and through a tunnel",
        severity: Severity::Critical,
        requirement: "plain HTTP and HTTPS CONNECT succeed for domains on the list",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(allowed),
    },
    Scenario {
        id: "BUG-04",
        title: "a tunnel is one answer and then exactly the bytes of the other side; ten in a row, a hundred at once",
        severity: Severity::High,
        requirement: "one response per CONNECT, tunnel bytes exact, clean close, ten in a row without an error in the log",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(tunnels),
    },
];

/// A deployment with one waiting room, from which `ALLOWED` leads to an origin: over HTTP and over TLS.
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

/// `curl` in the room with a time limit; what it printed, whatever its status.
async fn curl(room: &Room, args: &str) -> Result<String, Failure> {
    Ok(room.shell(&format!("curl -sS --max-time 10 {args}")).await?.printed)
}

/// What an origin says it was asked, which shows that the request arrived there.
fn echo(printed: &str) -> Result<Value, Failure> {
    let asked: Value = serde_json::from_str(printed)
        .map_err(|_| Failure::mismatch("an answer of the origin", "its JSON", format!("{printed:?}")))?;
    check_eq(format!("method in {asked}"), asked["method"].as_str(), Some("GET"))?;
    Ok(asked)
}

async fn denied(context: &Context) -> Result<(), Failure> {
    let (deployment, room) = room(context).await?;
    // The control: the way out is open for what is on the list.
    echo(&curl(&room, &format!("http://{ALLOWED}/echo")).await?)?;
    let blocked = deployment.api.metrics().await?.sum("workspace_proxy_blocked_total").unwrap_or(0.0);

    let denied = curl(&room, "-i http://denied.conformance.test/secret?token=abc").await?;
    let (head, body) = denied.split_once("\r\n\r\n").unwrap_or((denied.as_str(), ""));
    check(head.starts_with("HTTP/1.1 403"), format!("a request off the list: {denied:?}"))?;
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
    deployment.metric("workspace_proxy_blocked_total", |now| now >= blocked + 4.0, Duration::from_secs(5)).await.map(|_| ())
}

async fn allowed(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = room(context).await?;
    let plain = echo(&curl(&room, &format!("'http://{ALLOWED}/echo?a=1&b=two'")).await?)?;
    check_eq(format!("path in {plain}"), plain["path"].as_str(), Some("/echo"))?;
    check_eq(format!("query in {plain}"), plain["query"].as_str(), Some("a=1&b=two"))?;
    let headers = plain["headers"].to_string().to_lowercase();
    check(!headers.contains("proxy-"), format!("a Proxy- header got out: {headers}"))?;

    // The room does not know the origin's authority, and need not: the tunnel is what is looked at.
    let tunnel = curl(&room, &format!("-k -w '\\n%{{http_connect}}' https://{ALLOWED}/echo")).await?;
    let (body, connect) = tunnel.rsplit_once('\n').unwrap_or((tunnel.as_str(), ""));
    check_eq("status of CONNECT to a name on the list", connect, "200")?;
    echo(body).map(|_| ())
}

/// Some bytes after a greeting that a proxy lets pass: more than any one buffer holds.
fn payload() -> Vec<u8> {
    let mut bytes = client_hello(ALLOWED);
    bytes.extend((0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]));
    bytes
}

async fn tunnels(context: &Context) -> Result<(), Failure> {
    let echo = context.origin(OriginKind::Raw).await?;
    // A port that was free a moment ago: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let launch = Launch::new()
        .set("PROXY_ALLOWED_DOMAINS", format!("{ALLOWED},{REFUSING}"))
        .pin(ALLOWED, 443, &echo)
        .pin_address(REFUSING, 443, &nobody.to_string())
        .without_model()
        .set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
    let server = deployment.server()?;
    let (sent, authority) = (payload(), format!("{ALLOWED}:443"));
    let one = async || {
        let back = tunnel::connect(&proxy, &authority, &sent).await;
        let back = back.map_err(|error| Failure::mismatch(format!("CONNECT {authority}"), "a tunnel", error))?;
        check_eq("status of CONNECT", back.status, 200)?;
        let same = back.received.iter().zip(&sent).take_while(|(got, want)| got == want).count();
        let more = String::from_utf8_lossy(&back.received[same..]).chars().take(80).collect::<String>();
        check(
            back.received == sent,
            format!("{} bytes were sent, {} came back, the first {same} of them the same; then: {more:?}", sent.len(), back.received.len()),
        )
    };
    one().await?;
    let (descriptors, logged) = (server.descriptors()?, server.log().lines().count());
    for number in 1..=10 {
        one().await.map_err(|failure| failure.during(format!("tunnel {number} in a row")))?;
    }
    futures::future::try_join_all((0..100).map(|_| one())).await.map_err(|failure| failure.during("a hundred at once"))?;

    for (authority, status) in [(format!("{REFUSING}:443"), 502), ("denied.conformance.test:443".to_owned(), 403)] {
        let answer = tunnel::connect(&proxy, &authority, &[]).await.map_err(Failure::assertion)?;
        check_eq(format!("status of CONNECT {authority}"), answer.status, status)?;
        let body = String::from_utf8_lossy(&answer.received).into_owned();
        check(!body.contains("HTTP/1.1"), format!("a second answer to CONNECT {authority}: {body:?}"))?;
    }
    eventually(Duration::from_secs(10), format!("at most {descriptors} descriptors, as before"), || {
        std::future::ready(match server.descriptors() {
            Ok(now) if now <= descriptors => Ok(()),
            Ok(now) => Err(format!("{now}: {:#?}", server.descriptor_targets())),
            Err(failure) => Err(failure.to_string()),
        })
    })
    .await?;
    let log = server.log();
    let errors: Vec<&str> = log.lines().skip(logged).filter(|line| line.contains("\"ERROR\"")).collect();
    check(errors.is_empty(), format!("errors in the log: {errors:#?}"))
}
