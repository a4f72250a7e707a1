//! Bodies, and the limits of a request head.

use std::time::Duration;

use crate::client::raw;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{HOST, NEEDS};
use crate::scenarios::common::wire::Wire;
use crate::target::launch::Launch;
use crate::target::outsider::PLAIN;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-205",
        "A body is forwarded byte for byte, and a target that switches protocols is answered with an error",
        "never decompressed or re-compressed; Upgrade: only by CONNECT",
        body!(bodies),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-206",
        "A head of more than 16 KiB or more than 100 lines is refused with its own status, a smaller one is accepted",
        "head 16 KiB, 100 headers; each limit answers with its own status and reason",
        body!(heads),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

async fn bodies(context: &Context) -> Result<(), Failure> {
    let packed = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\x1f\x08\x00abc";
    let wire = Wire::start(context, packed).await?;
    check(
        !wire.peer.seen().to_ascii_lowercase().contains("accept-encoding"),
        "the forwarded request accepts a compression that the client's does not",
    )?;
    let asks =
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: br;q=1\r\nConnection: close\r\n\r\n");
    let answer = wire.talk(asks.as_bytes(), "a request that accepts a compression").await?;
    check(answer.has_line("Content-Encoding: gzip"), format!("the response lost its encoding: {answer:?}"))?;
    check(answer.text.ends_with("\r\n\r\n\x1f\x08\x00abc"), format!("the response has another body: {answer:?}"))?;
    check(
        wire.peer.seen().to_ascii_lowercase().contains("accept-encoding: br;q=1"),
        format!("the bytes that arrived: {:?}", wire.peer.seen()),
    )?;

    let switching = context
        .outsider("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nraw")
        .await?;
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", HOST).pin_address(HOST, 80, &switching.address);
    let deployment = context.launch(launch.without_model().set("WARM_POOL_MIN_SIZE", 1)).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
    let asks = format!(
        "GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    );
    let answer = raw::talk(&proxy, asks.as_bytes()).await.map_err(Failure::assertion)?;
    check_eq(format!("status when a target switches protocols ({answer:?})"), answer.status(), Some(502))?;
    check(
        !switching.seen().to_ascii_lowercase().contains("upgrade"),
        format!("the upgrade was forwarded: {:?}", switching.seen()),
    )
}

async fn heads(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let with = |count: usize, width: usize| {
        let lines: String = (0..count).map(|n| format!("X-{n}: {}\r\n", "v".repeat(width))).collect();
        format!("GET http://{HOST}/head HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}\r\n")
    };
    for (what, head, fits) in [
        ("of 90 lines", with(90, 8), true),
        ("of 14 KiB", with(1, 14 << 10), true),
        ("of 110 lines", with(110, 8), false),
        ("of 17 KiB in one line", with(1, 17 << 10), false),
        ("of 17 KiB in many lines", with(40, 440), false),
    ] {
        let reached = wire.peer.connections();
        let answer = wire.talk(head.as_bytes(), what).await?;
        if fits {
            check_eq(format!("status of a head {what} ({answer:?})"), answer.status(), Some(200))?;
        } else {
            check_eq(format!("status of a head {what} ({answer:?})"), answer.status(), Some(431))?;
            check_eq(format!("connections outside after a head {what}"), wire.peer.connections(), reached)?;
        }
    }
    Ok(())
}
