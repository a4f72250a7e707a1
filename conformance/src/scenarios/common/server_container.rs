//! Servers in containers, and the runs through them.

use crate::harness::engine::Room;
use crate::harness::failure::Failure;
use crate::target::deployment::Deployment;

/// The container of a launched server.
pub(crate) fn container(deployment: &Deployment) -> Result<Room, Failure> {
    let container = deployment.server()?.container.clone();
    container.ok_or_else(|| Failure::could_not_run("the server is not in a container"))
}
