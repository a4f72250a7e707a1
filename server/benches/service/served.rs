//! A runtime, and a server that is started when it is first needed.

use std::cell::OnceCell;
use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::client::ask;
use crate::process::raise_descriptors;
use crate::run::Place;

/// What is started once for all measurements.
pub(crate) trait Start: Sized {
    /// Starts the server, with what every measurement needs of it.
    fn start(runtime: &Runtime) -> Result<Self>;

    /// Stops the server. Its files go after that.
    fn stop(self) -> Result<()>;
}

pub(crate) struct Served<T> {
    pub(crate) runtime: Runtime,
    running: OnceCell<Result<T, String>>,
}

impl<T: Start> Served<T> {
    /// The server, started at the first call.
    pub(crate) fn running(&self) -> Result<&T> {
        let started = self.running.get_or_init(|| T::start(&self.runtime).map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|why| anyhow!("{why}"))
    }
}

impl<T: Start> Place for Served<T> {
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
            Some(Ok(running)) => running.stop(),
            _ => Ok(()),
        }
    }
}

/// Creates a model `bench`, which these fields describe, and a tenant `bench` that uses it.
pub(crate) async fn register(address: SocketAddr, of_provider: Value) -> Result<()> {
    let mut model = json!({"model_id": "bench", "display_name": "Bench", "context_window": 200_000,
        "max_output_tokens": 8192, "input_token_price": "0", "output_token_price": "0"});
    for (name, value) in of_provider.as_object().into_iter().flatten() {
        model[name.as_str()] = value.clone();
    }
    ask(address, Method::POST, "/api/models", &model).await?;
    let tenant = json!({"tenant_id": "bench", "model_id": "bench"});
    ask(address, Method::POST, "/api/tenants", &tenant).await.map(drop)
}
