//! Tenants with workspaces, and an outside world that they may reach: what the scenarios of this family share.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::client::http::Reply;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::vocabulary::Capability;
use crate::scenarios::common::outside::bedrock;
use crate::scenarios::common::rooms::{find, found, put_mark};
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::launch::{Launch, REGION};
use crate::target::services::{Seen, Services};

/// What the scenarios need.
pub(super) const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin];

/// Hosts that the operator allows.
pub(super) const A: &str = "a.tenancy.test";
pub(super) const B: &str = "b.tenancy.test";
/// A host that the operator does not allow.
pub(super) const BEYOND: &str = "beyond.tenancy.test";

/// A deployment, and services behind every host.
pub(super) struct World {
    pub(super) deployment: Deployment,
    pub(super) services: Services,
    /// The audit trail.
    pub(super) trail: PathBuf,
}

/// A conversation and its workspace.
pub(super) struct Party {
    pub(super) conversation: Conversation,
    pub(super) room: Room,
}

impl World {
    /// Launches a deployment with further settings, and a pool of `pool` workspaces, which is full.
    pub(super) async fn start(
        context: &Context,
        pool: usize,
        adjust: impl FnOnce(Launch) -> Launch,
    ) -> Result<Self, Failure> {
        let services = context.services(&[A, B, BEYOND]).await?;
        let trail = context.dir().join("trail.jsonl");
        let launch = launch(&services, pool).set("AUDIT_LOG", trail.display());
        let deployment = context.launch(adjust(launch)).await?;
        #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
        let full = pool as f64;
        deployment.metric("workspace_warm_pool_size", |waiting| waiting >= full, READY_LIMIT).await?;
        Ok(Self { deployment, services, trail })
    }

    /// So many tenants, each with a conversation and its workspace.
    pub(super) async fn parties(&self, context: &Context, count: usize) -> Result<Vec<Party>, Failure> {
        let mut conversations = Vec::new();
        for _ in 0..count {
            conversations.push(self.deployment.conversation(context).await?);
        }
        self.settle(conversations).await
    }

    /// Gives conversations their workspaces.
    pub(super) async fn settle(&self, conversations: Vec<Conversation>) -> Result<Vec<Party>, Failure> {
        for conversation in &conversations {
            put_mark(&self.deployment, conversation).await?;
        }
        let rooms = found(&self.deployment, &conversations).await?;
        Ok(conversations.into_iter().zip(rooms).map(|(conversation, room)| Party { conversation, room }).collect())
    }

    /// Replaces the configuration of a tenant, which must be accepted.
    pub(super) async fn configure(&self, tenant: &str, configuration: &Value) -> Result<(), Failure> {
        write(&self.deployment, &format!("/api/tenants/{tenant}"), configuration).await?.expect(200).map(drop)
    }

    /// The requests that the services received for this path, whatever its query.
    pub(super) async fn seen(&self, path: &str) -> Result<Vec<Seen>, Failure> {
        let fits = |seen: &Seen| seen.path.split('?').next() == Some(path);
        Ok(self.services.requests().await?.into_iter().filter(fits).collect())
    }
}

/// What the operator allows.
pub(super) fn allowed() -> String {
    format!("{},bedrock.{REGION}.amazonaws.com,{A},{B}", bedrock())
}

/// A launch with services behind every host.
pub(super) fn launch(services: &Services, pool: usize) -> Launch {
    let mut launch = Launch::new()
        .set("PROXY_ALLOWED_DOMAINS", allowed())
        .set("WARM_POOL_MIN_SIZE", pool)
        .set("WARM_POOL_MAX_SIZE", pool.max(1));
    for host in [A, B, BEYOND] {
        launch = launch.pin_services(host, 80, services).pin_services(host, 443, services);
    }
    launch
}

/// Replaces a configuration, whatever its version is.
pub(super) async fn write(deployment: &Deployment, of: &str, configuration: &Value) -> Result<Reply, Failure> {
    let path = format!("{of}/configuration");
    let version = deployment.api.get(&path).await?.expect(200)?.json()?["version"].clone();
    deployment.api.put(&path, &json!({"version": version, "configuration": configuration})).await
}

impl Party {
    /// Status of a request from the workspace, by `curl` with these arguments; 0 without an answer.
    pub(super) async fn status(&self, args: &str) -> Result<u16, Failure> {
        let line = format!("curl -s -o /dev/null --path-as-is --max-time 10 -w '%{{http_code}}' {args}");
        let done = self.room.shell(&line).await?;
        done.printed.trim().parse().map_err(|_| Failure::mismatch("what curl printed", "a status", done.printed))
    }

    /// The answer to a request from the workspace.
    pub(super) async fn answer(&self, args: &str) -> Result<String, Failure> {
        Ok(self.room.shell(&format!("curl -s --max-time 10 {args}")).await?.printed)
    }

    /// Checks the statuses of requests from the workspace.
    pub(super) async fn statuses(&self, whose: &str, expected: &[(&str, u16)]) -> Result<(), Failure> {
        for (args, status) in expected {
            check_eq(format!("status of `curl {args}` in {whose} workspace"), self.status(args).await?, *status)?;
        }
        Ok(())
    }

    /// Waits until the workspace reaches a host that it may reach, after another process has taken it over.
    pub(super) async fn adopted(&self, host: &str) -> Result<(), Failure> {
        let line = format!(
            "for n in $(seq 300); do curl -sf -o /dev/null --max-time 5 http://{host}/facts && exit 0; sleep 0.05; done; exit 1"
        );
        check_eq("whether the adopted workspace reaches what it may reach", self.room.shell(&line).await?.status, 0)
    }

    /// Looks up the conversation's present workspace.
    pub(super) async fn moved(&mut self, deployment: &Deployment) -> Result<(), Failure> {
        let mut rooms = find(deployment, std::slice::from_ref(&self.conversation)).await?;
        self.room = rooms.pop().ok_or_else(|| Failure::harness("a workspace vanished from a list"))?;
        Ok(())
    }
}
