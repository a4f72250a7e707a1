//! The rooms of the deployment's other servers, as the server's `cluster` module reports them.

use std::collections::HashSet;

use crate::id::RoomId;

/// The rooms that the other servers of the deployment have.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerRooms {
    /// This server is the only one.
    NoPeers,
    /// The rooms in the other servers' tables.
    Rooms(HashSet<RoomId>),
}

impl PeerRooms {
    pub(crate) fn have(&self, id: &RoomId) -> bool {
        matches!(self, Self::Rooms(rooms) if rooms.contains(id))
    }
}

/// Another server of the deployment did not answer which rooms it has. It may be running and have any of them, so none is adopted or
/// released.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerUnavailable(pub String);
