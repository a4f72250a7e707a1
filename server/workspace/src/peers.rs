//! What the other servers of the deployment have, as far as this server has to know.

use std::collections::HashSet;

use crate::id::RoomId;

/// What the other servers of the deployment have.
#[derive(Debug)]
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

/// Another server of the deployment does not say what it has. It may be running, so nothing is done that could be its business.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerUnavailable(pub String);
