//! Raw connections to the proxy, byte by byte.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::raw;
use crate::client::raw::Answer;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::scenarios::common::outside::{DENIED, HOST};
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;
use crate::target::outsider::Outsider;

/// A host that the allow-list matches by a pattern.
pub(crate) const BELOW: &str = "a.below.conformance.test";

/// A host on the allow-list at which nothing listens.
pub(crate) const GONE: &str = "gone.conformance.test";

/// A workspace's proxy socket, and a target host.
pub(crate) struct Wire {
    pub(crate) deployment: Deployment,
    pub(crate) proxy: PathBuf,
    pub(crate) peer: Outsider,
}

impl Wire {
    /// Launches a deployment in which all hosts, also the one off the allow-list, resolve to a target with this response.
    pub(crate) async fn start(context: &Context, answer: &str) -> Result<Self, Failure> {
        let peer = context.outsider(answer).await?;
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut launch = Launch::new()
            .set("PROXY_ALLOWED_DOMAINS", format!("{HOST},{HOST}:8080,*.below.conformance.test,{GONE}"))
            .pin_address(GONE, 80, &nobody)
            .without_model()
            .set("WARM_POOL_MIN_SIZE", 1);
        for (host, port) in [(HOST, 80), (HOST, 443), (HOST, 8080), (BELOW, 80), (DENIED, 80), (DENIED, 443)] {
            launch = launch.pin_address(host, port, &peer.address);
        }
        let deployment = context.launch(launch).await?;
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
        let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
        let wire = Self { deployment, proxy, peer };
        // The control of every scenario here: a plain request reaches the target, and its response returns.
        let request = format!("GET http://{HOST}/control HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let control = wire.talk(request.as_bytes(), "a plain request").await?;
        check_eq(format!("status of a plain request ({control:?})"), control.status(), Some(200))?;
        check(
            wire.peer.seen().contains("GET /control HTTP/1.1\r\n"),
            format!("the bytes that arrived: {:?}", wire.peer.seen()),
        )?;
        Ok(wire)
    }

    pub(crate) async fn talk(&self, bytes: &[u8], what: &str) -> Result<Answer, Failure> {
        raw::talk(&self.proxy, bytes).await.map_err(|error| Failure::mismatch(what, "an answer, and an end", error))
    }

    /// A request for this host, in absolute form and as a tunnel.
    pub(crate) async fn both(&self, host: &[u8]) -> Result<[Answer; 2], Failure> {
        let absolute =
            [b"GET http://", host, b"/spelled HTTP/1.1\r\nHost: ", host, b"\r\nConnection: close\r\n\r\n"].concat();
        let tunnel =
            [b"CONNECT ", host, b":80 HTTP/1.1\r\nHost: ", host, b":80\r\n\r\nGET /spelled HTTP/1.1\r\n\r\n"].concat();
        let shown = String::from_utf8_lossy(host).into_owned();
        Ok([
            self.talk(&absolute, &format!("GET http://{shown}/")).await?,
            self.talk(&tunnel, &format!("CONNECT {shown}")).await?,
        ])
    }
}
