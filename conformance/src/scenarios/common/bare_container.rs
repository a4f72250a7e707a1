//! A container of the workspace image without a server.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::Failure;
use crate::harness::poll::eventually;
use crate::target::image;

/// How long the agent may take to answer.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Starts the image with its default command, and returns the container and its socket directory.
pub(crate) async fn start(context: &Context) -> Result<(Room, PathBuf), Failure> {
    let engine = context.engine()?.clone();
    // The agent leaves its socket there, so `Context::socket_dir`, which must be empty at the end, does not fit.
    let sockets = context.dir().join("ws");
    std::fs::create_dir(&sockets)?;
    // Uid 1000 must be able to create a socket in it, whatever user runs the suite.
    std::fs::set_permissions(&sockets, std::fs::Permissions::from_mode(0o777))?;
    let name = context.new_container_name("room", &engine)?;
    let container = engine.container(&name);
    image::start_room(&engine, &context.run, &name, &context.run.capabilities.image, &sockets).await?;
    Ok((container, sockets))
}

/// Waits until the agent answers, and returns its response.
pub(crate) async fn agent_answers(room: &Room, sockets: &std::path::Path) -> Result<serde_json::Value, Failure> {
    let socket = sockets.join("agent.sock");
    let answered = eventually(ANSWER_LIMIT, "200 from the agent's /health", async || {
        match unix::request(&socket, Method::GET, "/health", Bytes::new()).await {
            Ok((status, body)) if status == 200 => Ok(body),
            Ok((status, body)) => Err(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => Err(error),
        }
    });
    match answered.await {
        Ok(body) => {
            serde_json::from_slice(&body).map_err(|error| Failure::assertion(format!("the agent's /health: {error}")))
        }
        Err(failure) => {
            let printed = room.logs().await.unwrap_or_default();
            Err(failure.during(format!("the container printed {printed:?}")))
        }
    }
}
