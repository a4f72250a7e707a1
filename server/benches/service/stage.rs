//! A server whose driver prints as many events as its prompt requests.

use std::cell::OnceCell;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::client::{Events, ask};
use crate::process::raise_descriptors;
use crate::run::Place;
use crate::server::Server;

/// Time limit for building or releasing a room.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    running: OnceCell<Result<Running, String>>,
}

/// A running server with one tenant.
pub(crate) struct Running {
    server: Server,
    pub(crate) address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Place for Stage {
    fn open() -> Result<Self> {
        raise_descriptors()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { runtime, running: OnceCell::new() })
    }

    fn peers(&self) -> Vec<String> {
        Vec::new()
    }

    fn close(mut self) -> Result<()> {
        match self.running.take() {
            Some(Ok(running)) => running.server.stop(),
            _ => Ok(()),
        }
    }
}

impl Stage {
    /// The server, started at the first call.
    pub(crate) fn running(&self) -> Result<&Running> {
        let started = self.running.get_or_init(|| self.start().map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|why| anyhow!("{why}"))
    }

    fn start(&self) -> Result<Running> {
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
        let running = Running { server, address, dir };
        self.runtime.block_on(async {
            let model = json!({"model_id": "bench", "display_name": "Bench", "bedrock_model_id": "bench", "context_window": 200_000,
                "max_output_tokens": 8192, "input_token_price": "0", "output_token_price": "0"});
            ask(address, Method::POST, "/api/models", &model).await?;
            let tenant = json!({"tenant_id": "bench", "model_id": "bench"});
            ask(address, Method::POST, "/api/tenants", &tenant).await.map(drop)
        })?;
        Ok(running)
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
