//! A proxy socket that appears after the first request.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile};
use crate::scenarios::common::bare_container::start;

/// How long workspaces and the programs in them may take to start.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SOCK-004",
    "A request made before the proxy socket exists waits for it and is answered",
    "proxy late → agent waits",
    body!(late),
)
.profile(Profile::Full)
.requires(&[Capability::Docker, Capability::Image])
.limit(90)];

async fn late(context: &Context) -> Result<(), Failure> {
    let (room, sockets) = start(context).await?;
    crate::scenarios::common::bare_container::agent_answers(&room, &sockets).await?;
    let path = sockets.join("proxy.sock");
    let curl = format!(
        "curl -sS --max-time 25 -x {} -o /workspace/answer -w '%{{http_code}}' http://late.conformance.test/",
        room.containers().proxy()
    );
    room.shell(&format!(
        "({curl} > /workspace/status 2>&1; echo ended >> /workspace/status) >/dev/null 2>&1 & echo started"
    ))
    .await?;
    let asks = async || check(!room.shell("pgrep -x curl").await?.printed.trim().is_empty(), "no curl runs");
    eventually(LIMIT, "a request that waits", asks).await?;
    check(!path.exists(), "the proxy socket exists already")?;
    let printed_text = room.shell("cat /workspace/status").await?;
    check_eq("output of curl without the proxy socket", printed_text.printed.trim(), "")?;

    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    let asked = async {
        let (mut client, _) = listener.accept().await?;
        let mut head = Vec::new();
        let mut buffer = [0; 1024];
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            match client.read(&mut buffer).await? {
                0 => break,
                read => head.extend_from_slice(&buffer[..read]),
            }
        }
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate").await?;
        client.shutdown().await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&head).into_owned())
    };
    let asked = tokio::time::timeout(LIMIT, asked).await;
    let head =
        asked.map_err(|_| Failure::assertion("the request did not reach the proxy socket once it existed"))??;
    check(head.starts_with("GET http://late.conformance.test/ "), format!("another request came: {head:?}"))?;
    eventually(LIMIT, "the answer", async || {
        let printed_text = room.shell("cat /workspace/status /workspace/answer").await?;
        check_eq(
            "status and answer",
            printed_text.printed.split_whitespace().collect::<String>().as_str(),
            "200endedlate",
        )
    })
    .await
}
