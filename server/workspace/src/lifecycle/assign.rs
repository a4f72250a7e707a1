//! Gives the egress listeners of rooms the policies of their conversations.

use crate::lifecycle::build::identity;
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

impl Workspaces {
    /// Gives a room's egress listener the identity and the policy of its conversation.
    pub(crate) async fn assign(&self, room: &Room, occupant: &Occupant) {
        // Whoever is asked later answers later, too: an older answer never replaces a newer one.
        let _turn = room.policy_turn.lock().await;
        let policy = self.parts.policies.of(occupant).await;
        if let Some(listener) = room.listener.lock().as_ref() {
            listener.assign(identity(&room.id, Some(occupant)), policy);
        }
    }

    /// Gives the rooms of those conversations for which `concerns` holds their present policies. With `close`, their open tunnels and
    /// transfers end as well.
    pub async fn renew_policies(&self, concerns: impl Fn(&Occupant) -> bool, close: bool) {
        let rooms = self.rooms.all().into_iter().map(|entry| entry.room);
        let concerned = rooms.filter_map(|room| room.occupant().filter(&concerns).map(|occupant| (room, occupant)));
        let renewed = concerned.map(|(room, occupant)| async move {
            self.assign(&room, &occupant).await;
            if close && let Some(listener) = room.listener.lock().as_ref() {
                listener.close_tunnels();
            }
        });
        futures::future::join_all(renewed).await;
    }
}
