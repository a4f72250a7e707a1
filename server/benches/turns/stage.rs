//! A scripted model, and a server whose workspaces ask it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use nagaya_fixtures::model::{Model, ModelOptions};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::client::{Events, ask};
use crate::served::{Served, Start, register};
use crate::server::Server;

/// Host of the Messages API, as the workspaces know it.
const HOST: &str = "api.anthropic.com";
/// Time limit for filling the pool.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a started CLI is left alone until it has prepared itself.
pub(crate) const PREPARES: Duration = Duration::from_secs(3);

pub(crate) type Stage = Served<Running>;

/// A running server with one tenant, and the models.
pub(crate) struct Running {
    server: Server,
    pub(crate) address: SocketAddr,
    /// The scripted model without TLS, for the CLI alone.
    pub(crate) plain: SocketAddr,
    _models: [Model; 2],
    _dir: tempfile::TempDir,
}

impl Start for Running {
    fn start(runtime: &Runtime) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        let any = || SocketAddr::from(([127, 0, 0, 1], 0));
        let options = |plain| ModelOptions { plain, hosts: vec![HOST.into()], ..ModelOptions::default() };
        let (with_tls, plain) = runtime.block_on(async {
            anyhow::Ok((
                Model::start(any(), any(), options(false)).await?,
                Model::start(any(), any(), options(true)).await?,
            ))
        })?;
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, with_tls.ca_pem().context("no authority")?)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = [
            ("WARM_POOL_MIN_SIZE", "0".to_owned()),
            ("WARM_POOL_MODEL", "bench".to_owned()),
            ("DRIVER_KEEP_ALIVE_MAX", "100".to_owned()),
            ("RATE_LIMIT_REQUESTS", "0".to_owned()),
            ("ANTHROPIC_API_KEY", "bench-key".to_owned()),
            ("PROXY_RESOLVE", format!("{HOST}:443:{}", with_tls.addr())),
            ("PROXY_EXTRA_CA_FILE", ca.display().to_string()),
        ];
        let mut server = Server::start(&format!("bench-turns-{}", std::process::id()), dir.path(), address, &settings)?;
        server.ready(address)?;
        let running = Self { server, address, plain: plain.addr(), _models: [with_tls, plain], _dir: dir };
        runtime.block_on(register(address, json!({"provider": "anthropic", "provider_model_id": "bench"})))?;
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

    /// Creates a conversation; returns its API path.
    pub(crate) async fn conversation(&self) -> Result<String> {
        let list = "/api/tenants/bench/conversations";
        let made = ask(self.address, Method::POST, list, &json!({"user_id": "bench"})).await?;
        Ok(format!("{list}/{}", made["conversation_id"].as_str().context("no id")?))
    }

    /// Starts a run.
    pub(crate) async fn run(&self, path: &str, body: &Value) -> Result<Events> {
        Events::of_server(self.address, Method::POST, &format!("{path}/stream"), body).await
    }

    /// A turn; returns the time from its request until the first text, in milliseconds.
    pub(crate) async fn turn(&self, path: &str) -> Result<f64> {
        let mut events = self.run(path, &json!({"user_input": "@say hello"})).await?;
        events.until("text_delta").await?;
        let took = events.requested.elapsed().as_secs_f64() * 1e3;
        let (_, done) = events.count().await?;
        ensure!(done.contains("\"status\":\"success\""), "a turn failed: {done}");
        Ok(took)
    }

    /// Fills the pool with so many workspaces, waits until their drivers have prepared themselves, and then keeps it from being refilled.
    pub(crate) async fn fill_pool(&self, rooms: usize) -> Result<()> {
        let size = async |min: usize| {
            ask(self.address, Method::PUT, "/api/admin/pool", &json!({"min_size": min, "max_size": rooms.max(1)})).await
        };
        size(rooms).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let listed = ask(self.address, Method::GET, "/api/admin/workspaces", &Value::Null).await?;
            let pooled = listed.as_array().into_iter().flatten().filter(|room| room["state"] == "pooled").count();
            if pooled == rooms {
                break;
            }
            ensure!(Instant::now() < until, "the pool has {pooled} workspaces: {listed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        size(0).await?;
        tokio::time::sleep(PREPARES).await;
        Ok(())
    }

    /// Deletes a conversation with its workspace.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        ask(self.address, Method::DELETE, path, &Value::Null).await.map(drop)
    }
}
