//! The parts of a deployment that give evidence when a scenario fails.

use async_trait::async_trait;

use super::fixtures::Model;
use super::process::Process;
use super::services::{Seen, Services};
use crate::client::http::Api;
use crate::harness::engine::Engine;
use crate::harness::evidence::{Evidence, Witness};
use crate::harness::failure::Failure;

/// How many lines of a server's log are kept.
const LOG_LINES: usize = 120;
/// How many containers are shown.
const ROOMS: usize = 3;

/// A deployment's metrics, compared with what they were at first.
pub struct Metrics {
    /// The deployment's API.
    pub api: Api,
    /// The page as it was when the deployment started.
    pub before: String,
}

#[async_trait]
impl Witness for Metrics {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let after = self.api.get("/metrics").await.map_or_else(|failure| failure.to_string(), |reply| reply.text());
        all.push(Evidence::new("metrics before", workspace_samples(&self.before)));
        all.push(Evidence::new("metrics after", workspace_samples(&after)));
    }
}

/// The containers of a deployment.
pub struct Rooms {
    /// The engine they run on.
    pub engine: Engine,
    /// The deployment's id, which is the value of their label.
    pub deployment: String,
}

#[async_trait]
impl Witness for Rooms {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let rooms = self.engine.rooms(&self.deployment, false).await.unwrap_or_default();
        if rooms.len() > ROOMS {
            all.push(Evidence::new("containers", format!("{ROOMS} of {} are shown", rooms.len())));
        }
        for room in rooms.into_iter().take(ROOMS) {
            let inspect = room.inspect_json().await;
            let inspect = inspect.map_or_else(|failure| failure.to_string(), |json| format!("{json:#}"));
            all.push(Evidence::new(format!("docker inspect {}", room.id), inspect));
            let logs = room.logs().await.unwrap_or_else(|failure| failure.to_string());
            all.push(Evidence::new(format!("docker logs {}", room.id), logs));
        }
    }
}

/// The log of a server.
pub struct Log(pub Process);

#[async_trait]
impl Witness for Log {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let printed = self.0.printed();
        let lines: Vec<&str> = printed.lines().collect();
        all.push(Evidence::new("server log", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")));
    }
}

#[async_trait]
impl Witness for Model {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let requests = self.requests().await.map(|all| all.into_iter().map(|one| one.0.to_string()).collect());
        all.push(Evidence::new("model requests", lines(requests)));
    }
}

#[async_trait]
impl Witness for Services {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let line = |one: Seen| format!("{} {} {} {}", one.scheme, one.method, one.path, one.status);
        let requests = self.requests().await.map(|all| all.into_iter().map(line).collect());
        all.push(Evidence::new("requests to the services", lines(requests)));
    }
}

fn lines(requests: Result<Vec<String>, Failure>) -> String {
    requests.map_or_else(|failure| failure.to_string(), |lines| lines.join("\n"))
}

/// The samples about workspaces; the rest of the page says little about a failure here.
fn workspace_samples(page: &str) -> String {
    page.lines()
        .filter(|line| line.starts_with("workspace_") && !line.contains("_bucket"))
        .collect::<Vec<_>>()
        .join("\n")
}
