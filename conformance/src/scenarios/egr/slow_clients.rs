//! Clients that never finish a request.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{HOST, NEEDS};
use crate::scenarios::common::wire::Wire;
use crate::target::outsider::PLAIN;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "EGR-211",
    "Two hundred unfinished heads and a hundred silent tunnels delay no other client; the heads are answered 408",
    "slowloris head, body, and upstream; idle tunnels",
    body!(slow),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

/// Numbers of unfinished heads and silent tunnels: fewer than the proxy's limit of connections.
const SLOW: usize = 200;

const SILENT: usize = 100;

/// How long the proxy may wait for the end of a head.
const HEAD_LIMIT: Duration = Duration::from_secs(90);

/// Connects, and sends this text.
async fn holding(proxy: &Path, bytes: String) -> Result<UnixStream, Failure> {
    let mut stream = UnixStream::connect(proxy).await?;
    stream.write_all(bytes.as_bytes()).await?;
    Ok(stream)
}

async fn slow(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let descriptors = wire.deployment.server()?.descriptors()?;
    let (mut heads, mut tunnels) = (Vec::new(), Vec::new());
    for number in 0..SLOW {
        heads.push(
            holding(&wire.proxy, format!("GET http://{HOST}/slow{number} HTTP/1.1\r\nHost: {HOST}\r\nX-Half: "))
                .await?,
        );
    }
    for _ in 0..SILENT {
        tunnels.push(holding(&wire.proxy, format!("CONNECT {HOST}:8080 HTTP/1.1\r\nHost: {HOST}:8080\r\n\r\n")).await?);
    }
    // The control: all connections are open, and every tunnel was answered.
    for tunnel in &mut tunnels {
        let mut answer = [0; 12];
        let read = tokio::time::timeout(HEAD_LIMIT, tunnel.read_exact(&mut answer)).await;
        read.map_err(|_| Failure::assertion("the CONNECT of a silent tunnel is not answered"))??;
        check_eq(
            "the beginning of the response to CONNECT",
            String::from_utf8_lossy(&answer).into_owned().as_str(),
            "HTTP/1.1 200",
        )?;
    }
    let held = wire.deployment.server()?.descriptors()?;
    check(held >= descriptors + SLOW + SILENT, format!("{held} descriptors after {descriptors}: nothing is held"))?;
    let request = format!("GET http://{HOST}/beside HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    for _ in 0..20 {
        let beside = wire.talk(request.as_bytes(), "a request meanwhile").await?;
        check_eq(format!("status of a request meanwhile ({beside:?})"), beside.status(), Some(200))?;
    }
    wire.deployment.api.get("/health/ready").await?.expect(200)?;

    for mut head in heads {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(HEAD_LIMIT, head.read_to_end(&mut answer)).await;
        read.map_err(|_| Failure::assertion(format!("an unfinished head is not answered within {HEAD_LIMIT:?}")))??;
        let text = String::from_utf8_lossy(&answer).into_owned();
        check(text.starts_with("HTTP/1.1 408 "), format!("an unfinished head is answered {text:?}"))?;
    }
    drop(tunnels);
    check_eq("requests with unfinished heads that reached the target", wire.peer.seen().matches("/slow").count(), 0)?;
    eventually(HEAD_LIMIT, "descriptors as before", async || {
        let now = wire.deployment.server()?.descriptors()?;
        // Connections of the API client or to the engine may have been added meanwhile.
        check(now <= descriptors + 8, format!("{now} descriptors, {descriptors} before"))
    })
    .await
}
