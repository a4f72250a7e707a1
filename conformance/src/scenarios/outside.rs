//! A room and a small outside world that it may reach: what scenarios with real clients have in common.

use std::time::Duration;

use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::Capability;
use crate::target::deployment::Deployment;
use crate::target::engine::{ExecResult, Room};
use crate::target::launch::{Launch, REGION};
use crate::target::services::{Seen, Services};

/// What scenarios with clients need.
pub(super) const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin];
/// The same with the scripted model.
pub(super) const NEEDS_MODEL: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// A name on the list, by HTTP and by HTTPS.
pub(super) const HOST: &str = "services.conformance.test";
/// A port of that name that is on the list as well, where plain HTTP is spoken.
pub(super) const PORT: u16 = 8081;
/// A name that is not on the list, although it leads to the same services.
pub(super) const DENIED: &str = "denied.conformance.test";
/// A name on the list that has a credential.
pub(super) const VAULT: &str = "vault.conformance.test";
/// Where the room finds the certificate of the services' authority.
pub(super) const CA: &str = "/workspace/ca.pem";

/// The model's endpoint, as rooms know it.
pub(super) fn bedrock() -> String {
    format!("bedrock-runtime.{REGION}.amazonaws.com")
}

/// A room, and what it may reach.
pub(super) struct Outside {
    pub(super) deployment: Deployment,
    pub(super) room: Room,
    pub(super) services: Services,
}

impl Outside {
    /// Launches a deployment without a model.
    pub(super) async fn start(context: &Context) -> Result<Self, Failure> {
        Self::with(context, Launch::without_model).await
    }

    /// Launches a deployment with further settings, and takes the room that waits in its pool.
    pub(super) async fn with(context: &Context, adjust: impl FnOnce(Launch) -> Launch) -> Result<Self, Failure> {
        let services = context.services(&[HOST, DENIED, VAULT]).await?;
        Self::of(context, services, adjust).await
    }

    /// The same with services that are there already.
    pub(super) async fn of(
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

    /// Runs a program in the room, which must succeed; what it printed.
    pub(super) async fn run(&self, command: &[&str]) -> Result<String, Failure> {
        let done = self.room.exec(command.iter().copied()).await?;
        let shown = command.iter().map(|word| word.lines().next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
        check_eq(format!("status of `{shown}` in the room, which printed {:?}", done.printed), done.status, 0)?;
        Ok(done.printed)
    }

    /// Runs a line of bash in the room, which must succeed; what it printed.
    pub(super) async fn shell(&self, line: &str) -> Result<String, Failure> {
        self.run(&["bash", "-o", "pipefail", "-c", line]).await
    }

    /// Runs a line of bash in the room, whatever becomes of it.
    pub(super) async fn attempt(&self, line: &str) -> Result<ExecResult, Failure> {
        self.room.exec(["bash", "-o", "pipefail", "-c", line]).await
    }

    /// The requests the services have seen for this path, or, where it ends in `/` or `?`, for any that goes on from there.
    pub(super) async fn seen(&self, path: &str) -> Result<Vec<Seen>, Failure> {
        let open = path.ends_with(['/', '?']);
        let fits = |seen: &Seen| if open { seen.path.starts_with(path) } else { seen.path == path };
        Ok(self.services.requests().await?.into_iter().filter(fits).collect())
    }

    /// The one request the services have seen for this path, read as in [`Outside::seen`].
    pub(super) async fn seen_once(&self, path: &str) -> Result<Seen, Failure> {
        let mut seen = self.seen(path).await?;
        check_eq(format!("number of requests for {path} that the services saw"), seen.len(), 1)?;
        seen.pop().ok_or_else(|| Failure::harness("a request vanished from a list"))
    }

    /// Nothing for this path, read as in [`Outside::seen`], has reached the services.
    pub(super) async fn never_seen(&self, path: &str) -> Result<(), Failure> {
        let seen = self.seen(path).await?;
        check(seen.is_empty(), format!("a request that had to be refused reached its target: {seen:?}"))
    }
}

/// What a client printed, as JSON.
pub(super) fn json(printed: &str) -> Result<Value, Failure> {
    serde_json::from_str(printed).map_err(|error| Failure::mismatch(error, "JSON", format!("{printed:?}")))
}

/// A client's name as it gave it to the services begins so.
pub(super) fn check_agent(seen: &Seen, agent: &str) -> Result<(), Failure> {
    let given = seen.header("user-agent").unwrap_or_default();
    check(given.starts_with(agent), format!("user-agent of {} {}: {given:?}, not {agent}", seen.method, seen.path))
}

/// Nothing of the way between room and proxy may be seen by a target (RFC 9110, 7.6.1).
pub(super) fn check_clean(seen: &Seen) -> Result<(), Failure> {
    let hop = |name: &str| {
        name.starts_with("proxy-") || ["via", "forwarded", "x-forwarded-for", "expect", "te", "upgrade"].contains(&name)
    };
    let names: Vec<&String> = seen.headers.iter().map(|(name, _)| name).filter(|name| hop(name)).collect();
    check(names.is_empty(), format!("{} {} arrived with {names:?}", seen.method, seen.path))
}
