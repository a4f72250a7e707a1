//! A run that does not end by itself, and the checks after it has been broken.

use std::time::Duration;

use serde_json::Value;

use crate::client::stream::{EventStream, RunEvent, names};
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::{Conversation, Deployment};

/// Starts a run that does not end by itself, and waits until its tool runs.
pub(crate) async fn endless(deployment: &Deployment, conversation: &Conversation) -> Result<EventStream, Failure> {
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = deployment.start(conversation, prompt).await?;
    stream.until("tool_call").await?;
    eventually(Duration::from_secs(10), "the tool to run in a workspace", async || {
        for room in deployment.rooms().await? {
            let found = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null").await?;
            if !found.printed.trim().is_empty() {
                return Ok(());
            }
        }
        Err(Failure::assertion("no process has /dev/null as an argument"))
    })
    .await?;
    Ok(stream)
}

/// The `done` event of a run that ended with an error, after an error event.
pub(crate) fn ended_badly(events: &[RunEvent]) -> Result<&Value, Failure> {
    check(events.iter().any(|event| event.name == "error"), format!("no error among: {}", names(events)))?;
    let done = events.last().map_or(&Value::Null, |done| &done.data);
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    Ok(done)
}

/// Waits until neither container nor directory of a workspace is left.
pub(crate) async fn gone(room: &Room, dir: &std::path::Path) -> Result<(), Failure> {
    eventually(HEALED_LIMIT, format!("no trace of workspace {}", room.id), async || {
        let running = room.is_running().await?;
        check(!running && !dir.exists(), format!("running {running}, {} there: {}", dir.display(), dir.exists()))
    })
    .await
}
