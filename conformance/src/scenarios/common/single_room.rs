//! The only workspace of a deployment.

use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::Deployment;

/// Waits until neither containers nor directories of other workspaces exist.
pub(crate) async fn only(deployment: &Deployment, rooms: usize) -> Result<(), Failure> {
    let sockets = &deployment.server()?.sockets;
    eventually(HEALED_LIMIT, format!("{rooms} workspaces, and nothing of others"), async || {
        check_eq("containers", deployment.all_rooms().await?.len(), rooms)?;
        check_eq("socket directories", std::fs::read_dir(sockets)?.count(), rooms)
    })
    .await
}
