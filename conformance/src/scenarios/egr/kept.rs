//! Connections that are kept, and what tunnels add up to.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{Received, ask};
use crate::scenarios::common::outside::{CA, HOST, NEEDS, Outside};
use crate::scenarios::common::trail;

/// A host with an origin of the scenario's own.
const KEPT: &str = "kept.conformance.test";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-218",
        "A POST on a kept connection that its target closes is not sent again; a GET may be",
        "only requests with idempotent methods are repeated (RFC 9110, section 9.2.2)",
        body!(sent_once),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-219",
        "The trail has the bytes that a tunnel carried, in either direction",
        "the trail has one line per request, with its bytes up and down; a tunnel is one request",
        body!(tunnel_is_counted),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

/// Answers the first request of each connection and keeps it open; reads the second one and closes. Returns where it listens, and what
/// it has read: the first line of each request.
async fn closing(context: &Context) -> Result<(String, Arc<Mutex<Vec<String>>>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let read = Arc::new(Mutex::new(Vec::new()));
    let kept = read.clone();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                connections.spawn(first_only(stream, kept.clone()));
            }
        }
    });
    context.resources.add(format!("origin at {address}"), move || async move {
        task.abort();
        Ok(())
    });
    Ok((address, read))
}

async fn first_only(mut stream: TcpStream, read: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    for answered in [true, false] {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("POST") {
            stream.read_exact(&mut [0; 4]).await?;
        }
        read.lock().push(head.lines().next().unwrap_or_default().to_owned());
        if answered {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        }
    }
    Ok(())
}

async fn sent_once(context: &Context) -> Result<(), Failure> {
    let (address, read) = closing(context).await?;
    let outside = Outside::with(context, |launch| {
        launch.without_model().set("PROXY_ALLOWED_DOMAINS", KEPT).pin_address(KEPT, 80, &address)
    })
    .await?;
    let request = |method: &str, path: &str, body: &str| {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        format!("{method} http://{KEPT}{path} HTTP/1.1\r\nHost: {KEPT}\r\n{length}\r\n{body}")
    };
    let blocked = async || outside.deployment.api.metrics().await.map(|page| page.sum("workspace_proxy_blocked_total"));
    let before = blocked().await?;
    for (method, body, status, times) in [("GET", "", 200, 2), ("POST", "once", 502, 1)] {
        let path = format!("/{}", method.to_lowercase());
        let both = vec![request("GET", &format!("{path}-first"), ""), request(method, &path, body)];
        let answers = ask(&outside.room, 1, &[both]).await?;
        let statuses: Vec<_> = answers.iter().map(Received::status).collect();
        check_eq(
            format!("statuses of a GET and a {method} on one connection"),
            statuses,
            vec![Some(200), Some(status)],
        )?;
        let line = format!("{method} {path} HTTP/1.1");
        let arrived = read.lock().iter().filter(|read| **read == line).count();
        check_eq(format!("times that a {method} on a stale connection has arrived"), arrived, times)?;
    }
    // What fails was not refused.
    check_eq("requests that count as blocked", blocked().await?, before)
}

async fn tunnel_is_counted(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    let outside = Outside::with(context, |launch| launch.without_model().set("AUDIT_LOG", trail.display())).await?;
    let (up, down) = (300_000, 200_000);
    let curl = format!("curl -sS --max-time 20 --cacert {CA} -o /dev/null");
    outside.shell(&format!("head -c {up} /dev/zero | {curl} --data-binary @- https://{HOST}/sent")).await?;
    outside.shell(&format!("{curl} https://{HOST}/bytes/{down}")).await?;
    let lines = eventually(Duration::from_secs(10), "two lines about tunnels in the trail", async || {
        let mut lines = trail::entries(&trail)?;
        let is_tunnel = |line: &Value| line["event"] == "egress" && line["method"] == "CONNECT" && line["host"] == HOST;
        lines.retain(is_tunnel);
        if lines.len() == 2 { Ok(lines) } else { Err(Failure::assertion(format!("{lines:?}"))) }
    })
    .await?;
    for (line, field, sent) in [(&lines[0], "bytes_up", up), (&lines[1], "bytes_down", down)] {
        let counted = line[field].as_u64().unwrap_or(0);
        // TLS adds to it.
        check(
            (sent..sent + 50_000).contains(&counted),
            format!("{field} of {sent} bytes and a TLS handshake: {line}"),
        )?;
    }
    Ok(())
}
