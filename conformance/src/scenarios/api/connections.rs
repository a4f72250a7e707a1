//! Clients that open connections and send nothing, or not enough.

use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-014",
    "Hundreds of half-sent heads are cut off and hinder nobody; connections beyond a limit are refused with 503",
    "a limit of connections, and of the time until a request's head is complete",
    body!(half_sent),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch])
.limit(120)];

/// File descriptors of the server: a common soft limit of processes.
const DESCRIPTORS: u32 = 1024;
/// Connections that leave descriptors for other clients.
const HALF_SENT: usize = 200;
/// Connections together with which there are more than a server with so few descriptors may accept.
const MORE: usize = 200;
/// How long a server may wait for the end of a head.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a refusal may take.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

async fn connect(api: &Api, bytes: &[u8]) -> Result<TcpStream, Failure> {
    let mut stream = api.connect().await?;
    // A server that refuses the connection may have closed it.
    let _ = stream.write_all(bytes).await;
    Ok(stream)
}

/// What arrives until the connection ends.
async fn rest(stream: &mut TcpStream, limit: Duration) -> Result<String, Failure> {
    let mut received = Vec::new();
    // Closing a connection with unread bytes resets it, which is an end, too.
    match tokio::time::timeout(limit, stream.read_to_end(&mut received)).await {
        Ok(_) => Ok(String::from_utf8_lossy(&received).into_owned()),
        Err(_) => Err(Failure::assertion(format!("a connection is not closed within {limit:?}"))),
    }
}

/// What arrives until the connection or a response with an error envelope ends.
async fn response(stream: &mut TcpStream) -> Result<String, Failure> {
    let mut received = String::new();
    let whole = async {
        let mut buffer = [0; 4096];
        while let Ok(size @ 1..) = stream.read(&mut buffer).await {
            received.push_str(&String::from_utf8_lossy(&buffer[..size]));
            if received.ends_with("}}") {
                break;
            }
        }
    };
    let ended = tokio::time::timeout(REFUSAL_LIMIT, whole).await;
    ended.map_err(|_| Failure::assertion(format!("{} connections are open and none is refused", HALF_SENT + MORE)))?;
    Ok(received)
}

async fn half_sent(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().without_model().descriptors(DESCRIPTORS)).await?;
    let half = format!("{}X-Half: ", deployment.api.head_of(&Method::GET, "/health/live")?);
    let began = Instant::now();
    let mut held = Vec::new();
    for number in 0..HALF_SENT {
        // Some have sent nothing.
        let sent = if number % 4 == 0 { "" } else { &half };
        held.push(connect(&deployment.api, sent.as_bytes()).await?);
    }
    for path in ["/health/ready", "/health/live", "/api/tenants"] {
        deployment.api.get(path).await?.expect(200).map_err(|failure| failure.during("half-sent heads are held"))?;
    }

    // Silent connections beyond the limit get an answer at once.
    let mut more = Vec::new();
    for _ in 0..MORE {
        more.push(connect(&deployment.api, b"").await?);
    }
    let refused = more.last_mut().ok_or_else(|| Failure::harness("no connections"))?;
    let answer = response(refused).await?;
    check(answer.starts_with("HTTP/1.1 503 "), format!("a connection beyond the limit is answered {answer:?}"))?;
    check(answer.to_lowercase().contains("retry-after:"), format!("a 503 without Retry-After: {answer:?}"))?;
    check(answer.contains("SERVICE_UNAVAILABLE"), format!("a 503 without its code: {answer:?}"))?;
    let descriptors = deployment.server()?.descriptors()?;
    check(descriptors < DESCRIPTORS as usize * 3 / 4, format!("the server has {descriptors} descriptors open"))?;
    // Once they are closed, other clients are served again.
    drop(more);
    eventually(REFUSAL_LIMIT, "200 from /health/live", async || {
        let answer = deployment.api.get("/health/live").await.map_err(|failure| failure.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    })
    .await?;

    for stream in &mut held {
        let left = HEAD_LIMIT.saturating_sub(began.elapsed());
        let answer = rest(stream, left).await.map_err(|failure| failure.during("a head was half sent"))?;
        check(!answer.starts_with("HTTP/1.1 200"), format!("half a head is answered {answer:?}"))?;
    }
    check_eq("status afterwards", deployment.api.get("/health/ready").await?.status.as_u16(), 200)
}
