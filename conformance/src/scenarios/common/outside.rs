//! A workspace and a small outside world that it may reach: what scenarios with real clients share.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::context::Context;
use crate::harness::engine::{ExecResult, Room};
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::vocabulary::Capability;
use crate::target::deployment::Deployment;
use crate::target::launch::{Launch, REGION};
use crate::target::services::{Seen, Services};

/// Capabilities for scenarios with real clients.
pub(crate) const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin];

/// The same with the scripted model.
pub(crate) const NEEDS_MODEL: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];

/// A host on the allow-list, with HTTP and HTTPS.
pub(crate) const HOST: &str = "services.conformance.test";

/// A port of that host that is on the allow-list too, with plain HTTP.
pub(crate) const PORT: u16 = 8081;

/// A host that is not on the allow-list but resolves to the same services.
pub(crate) const DENIED: &str = "denied.conformance.test";

/// A host on the allow-list with a credential.
pub(crate) const VAULT: &str = "vault.conformance.test";

/// Path in the workspace of the certificate of the services' authority.
pub(crate) const CA: &str = "/workspace/ca.pem";

/// The host of the model's endpoint.
pub(crate) fn bedrock() -> String {
    format!("bedrock-runtime.{REGION}.amazonaws.com")
}

/// A workspace, and the services it may reach.
pub(crate) struct Outside {
    pub(crate) deployment: Deployment,
    pub(crate) room: Room,
    pub(crate) services: Services,
}

impl Outside {
    /// Launches a deployment without a model.
    pub(crate) async fn start(context: &Context) -> Result<Self, Failure> {
        Self::with(context, Launch::without_model).await
    }

    /// Launches a deployment with further settings, and uses the workspace in its pool.
    pub(crate) async fn with(context: &Context, adjust: impl FnOnce(Launch) -> Launch) -> Result<Self, Failure> {
        let services = context.services(&[HOST, DENIED, VAULT]).await?;
        Self::of(context, services, adjust).await
    }

    /// As [`Outside::with`], with services that run already.
    pub(crate) async fn of(
        context: &Context,
        services: Services,
        adjust: impl FnOnce(Launch) -> Launch,
    ) -> Result<Self, Failure> {
        let launch = Launch::new()
            .set(
                "PROXY_ALLOWED_DOMAINS",
                format!("{},bedrock.{REGION}.amazonaws.com,{HOST},{HOST}:{PORT},{VAULT}", bedrock()),
            )
            .pin_services(HOST, 80, &services)
            .pin_services(HOST, 443, &services)
            .pin_services(HOST, PORT, &services)
            .pin_services(DENIED, 80, &services)
            .pin_services(DENIED, 443, &services)
            .pin_services(VAULT, 443, &services)
            .set("WARM_POOL_MIN_SIZE", 1);
        let deployment = context.launch(adjust(launch)).await?;
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
        let room = deployment.only_room().await?;
        let outside = Self { deployment, room, services };
        outside.run(&["sh", "-c", "printf %s \"$1\" > \"$2\"", "sh", &outside.services.ca_pem, CA]).await?;
        Ok(outside)
    }

    /// Runs a program in the workspace, which must succeed, and returns its output.
    pub(crate) async fn run(&self, command: &[&str]) -> Result<String, Failure> {
        let done = self.room.exec(command.iter().copied()).await?;
        let shown = command.iter().map(|word| word.lines().next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
        check_eq(format!("status of `{shown}` in the workspace, which printed {:?}", done.printed), done.status, 0)?;
        Ok(done.printed)
    }

    /// Runs a line of bash in the workspace, which must succeed, and returns its output.
    pub(crate) async fn shell(&self, line: &str) -> Result<String, Failure> {
        self.run(&["bash", "-o", "pipefail", "-c", line]).await
    }

    /// Runs a line of bash in the workspace, whether it succeeds or not.
    pub(crate) async fn attempt(&self, line: &str) -> Result<ExecResult, Failure> {
        self.room.exec(["bash", "-o", "pipefail", "-c", line]).await
    }

    /// The requests that the services received for this path, or for every path with this prefix if it ends in `/` or `?`.
    pub(crate) async fn seen(&self, path: &str) -> Result<Vec<Seen>, Failure> {
        let open = path.ends_with(['/', '?']);
        let fits = |seen: &Seen| if open { seen.path.starts_with(path) } else { seen.path == path };
        Ok(self.services.requests().await?.into_iter().filter(fits).collect())
    }

    /// The only request that the services received for this path, as in [`Outside::seen`].
    pub(crate) async fn seen_once(&self, path: &str) -> Result<Seen, Failure> {
        let mut seen = self.seen(path).await?;
        check_eq(format!("number of requests for {path} that the services saw"), seen.len(), 1)?;
        seen.pop().ok_or_else(|| Failure::harness("a request vanished from a list"))
    }

    /// Checks that no request for this path, as in [`Outside::seen`], has reached the services.
    pub(crate) async fn never_seen(&self, path: &str) -> Result<(), Failure> {
        let seen = self.seen(path).await?;
        check(seen.is_empty(), format!("a request that had to be refused reached its target: {seen:?}"))
    }
}

/// Parses the output of a client as JSON.
pub(crate) fn json(printed: &str) -> Result<Value, Failure> {
    serde_json::from_str(printed).map_err(|error| Failure::mismatch(error, "JSON", format!("{printed:?}")))
}

/// Checks that a client's User-Agent begins with this text.
pub(crate) fn check_agent(seen: &Seen, agent: &str) -> Result<(), Failure> {
    let given = seen.header("user-agent").unwrap_or_default();
    check(given.starts_with(agent), format!("user-agent of {} {}: {given:?}, not {agent}", seen.method, seen.path))
}

/// Checks that no header for the hop between workspace and proxy reached the target (RFC 9110, section 7.6.1).
pub(crate) fn check_clean(seen: &Seen) -> Result<(), Failure> {
    let hop = |name: &str| {
        name.starts_with("proxy-") || ["via", "forwarded", "x-forwarded-for", "expect", "te", "upgrade"].contains(&name)
    };
    let names: Vec<&String> = seen.headers.iter().map(|(name, _)| name).filter(|name| hop(name)).collect();
    check(names.is_empty(), format!("{} {} arrived with {names:?}", seen.method, seen.path))
}

/// Listens, and sends `answer` to the end of each request's head, then closes the connection.
pub(crate) async fn breaking_off(context: &Context, answer: String) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer_and_close(stream, answer.clone()));
            }
        }
    });
    context.resources.add(format!("origin at {address}"), move || async move {
        task.abort();
        Ok(())
    });
    Ok(address)
}

async fn answer_and_close(mut stream: TcpStream, answer: String) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
