//! A server whose driver prints as many events as its prompt requests.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::client::{Events, ask};
use crate::served::{Served, Start, register};
use crate::server::Server;

/// Time limit for building or releasing a room.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Stage = Served<Running>;

/// A running server with one tenant.
pub(crate) struct Running {
    server: Server,
    pub(crate) address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Start for Running {
    fn start(runtime: &Runtime) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let name = format!("bench-service-{}", std::process::id());
        let settings = [
            ("DRIVER", "script".to_owned()),
            // Each run starts it anew, which costs more than to go on with one that waits.
            ("DRIVER_KEEP_ALIVE", "0".to_owned()),
            ("WARM_POOL_MIN_SIZE", "0".to_owned()),
            ("CONTAINER_MEMORY", "256MiB".to_owned()),
            ("RATE_LIMIT_REQUESTS", "0".to_owned()),
        ];
        let mut server = Server::start(&name, dir.path(), address, &settings)?;
        server.ready(address)?;
        let running = Self { server, address, dir };
        runtime.block_on(register(address, json!({"bedrock_model_id": "bench"})))?;
        Ok(running)
    }

    fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Creates a conversation with a room; returns its API path.
    pub(crate) async fn conversation(&self) -> Result<String> {
        let list = "/api/tenants/bench/conversations";
        let made = ask(self.address, Method::POST, list, &json!({"user_id": "bench"})).await?;
        let path = format!("{list}/{}", made["conversation_id"].as_str().context("no id")?);
        self.run(&path, "1").await?.count().await?;
        Ok(path)
    }

    /// Starts a run whose driver prints the events that `what` describes: a number, optionally with a pause in seconds.
    pub(crate) async fn run(&self, path: &str, what: &str) -> Result<Events> {
        let asked = json!({"user_input": format!("@pieces {what}")});
        Events::of_server(self.address, Method::POST, &format!("{path}/stream"), &asked).await
    }

    /// The socket of the agent of a conversation's room.
    pub(crate) async fn agent(&self, path: &str) -> Result<PathBuf> {
        let id = path.rsplit('/').next().unwrap_or_default();
        let rooms = ask(self.address, Method::GET, "/api/admin/workspaces", &Value::Null).await?;
        let room = rooms.as_array().into_iter().flatten().find(|room| room["conversation_id"] == id);
        let room =
            room.and_then(|room| room["workspace_id"].as_str()).with_context(|| format!("no room of {id}: {rooms}"))?;
        Ok(self.dir.path().join("s").join(room).join("agent.sock"))
    }

    /// Deletes a conversation and waits until its room is released.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        ask(self.address, Method::DELETE, path, &Value::Null).await?;
        ensure!(Instant::now() < until, "{path} was not deleted within {PATIENCE:?}");
        Ok(())
    }
}
