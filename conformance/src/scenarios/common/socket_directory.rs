//! Attempts of a workspace to change the directory of its sockets.

use std::path::Path;

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::options::AgentSocket;

/// Whether workspaces of the target can write to the directory, because their agents listen in it.
pub(crate) fn is_writable(context: &Context) -> bool {
    context.run.options.agent_socket == AgentSocket::Agent
}

/// Checks that none of these shell lines, each with what it attempts, succeeds in the workspace's socket directory or changes
/// anything there. `$1` is `argument`.
pub(crate) async fn refuses(room: &Room, attempts: &[(&str, &str)], argument: &Path) -> Result<(), Failure> {
    let dir = room.socket_dir().await?;
    let before = content(&dir)?;
    for (what, line) in attempts {
        let line = format!("cd {} && {{ {line}; }}", room.sockets());
        let done = room.exec(["sh", "-c", &line, "sh", &argument.display().to_string()]).await?;
        check(done.status != 0, format!("the workspace's attempt at {what} was not refused"))?;
        check_eq(format!("content of the directory after the attempt at {what}"), content(&dir)?, before.clone())?;
    }
    Ok(())
}

/// Names, types and sizes in a directory.
fn content(dir: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        found.push(format!("{:?} {:?} {}", entry.file_name(), metadata.file_type(), metadata.len()));
    }
    found.sort_unstable();
    Ok(found)
}
