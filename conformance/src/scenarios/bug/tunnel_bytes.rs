//! BUG-04: the one response to CONNECT, and the exact bytes after it.

use std::time::Duration;

use crate::client::tunnel;
use crate::client::tunnel::{application_data, client_hello};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::log_level;
use crate::target::fixtures::OriginKind;
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// A host on the allow-list that resolves to an origin of the suite's.
const ALLOWED: &str = "allowed.conformance.test";
/// A host on the allow-list at which nothing listens.
const REFUSING: &str = "refusing.conformance.test";

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-04",
    "A tunnel is one response followed by the exact bytes of the other side, ten in a row and a hundred at once",
    "one response per CONNECT, tunnel bytes exact, clean close, ten in a row without an error in the log",
    body!(tunnels),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)];

/// A ClientHello that the proxy accepts, followed by more bytes than one buffer holds.
fn payload() -> Vec<u8> {
    let mut bytes = client_hello(ALLOWED);
    let rest: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    bytes.extend(application_data(&rest));
    bytes
}

async fn tunnels(context: &Context) -> Result<(), Failure> {
    let echo = context.origin(OriginKind::Raw).await?;
    // A port that was free a moment ago: nothing listens there.
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
            format!(
                "{} bytes were sent, {} came back, the first {same} of them the same; then: {more:?}",
                sent.len(),
                back.received.len()
            ),
        )
    };
    one().await?;
    let (descriptors, logged) = (server.descriptors()?, server.log().lines().count());
    for number in 1..=10 {
        one().await.map_err(|failure| failure.during(format!("tunnel {number} in a row")))?;
    }
    futures::future::try_join_all((0..100).map(|_| one()))
        .await
        .map_err(|failure| failure.during("a hundred at once"))?;

    for (authority, status) in [(format!("{REFUSING}:443"), 502), ("denied.conformance.test:443".to_owned(), 403)] {
        let answer = tunnel::connect(&proxy, &authority, &[]).await.map_err(Failure::assertion)?;
        check_eq(format!("status of CONNECT {authority}"), answer.status, status)?;
        let body = String::from_utf8_lossy(&answer.received).into_owned();
        check(!body.contains("HTTP/1.1"), format!("a second response to CONNECT {authority}: {body:?}"))?;
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
    let errors = log_level::errors(&log, logged, &context.description().log)?;
    check(errors.is_empty(), format!("errors in the log: {errors:#?}"))
}
