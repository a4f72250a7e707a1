//! Gives the egress listeners of rooms the policies of their conversations.

use std::sync::Arc;

use futures::StreamExt;

use crate::lifecycle::build::identity;
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Rooms whose policies are asked for together, and how many such groups at the same time.
const TOGETHER: usize = 64;
const GROUPS_AT_ONCE: usize = 4;

impl Workspaces {
    /// Gives a room's egress listener the identity and the policy of its conversation.
    pub(crate) async fn assign(&self, room: &Room, occupant: &Occupant) {
        self.assign_all(&[room], std::slice::from_ref(occupant)).await;
    }

    /// The same for several rooms, each with its conversation, in the order of the rooms' ids. They are asked about together.
    async fn assign_all(&self, rooms: &[&Room], occupants: &[Occupant]) {
        // Whoever is asked later answers later, too: an older answer never replaces a newer one. The turns are taken in one order, so
        // that nobody waits for somebody who waits for him.
        let mut turns = Vec::with_capacity(rooms.len());
        for room in rooms {
            turns.push(room.policy_turn.lock().await);
        }
        let policies = self.parts.policies.of(occupants).await;
        for ((room, occupant), policy) in rooms.iter().zip(occupants).zip(policies) {
            if let Some(listener) = room.listener.lock().as_ref() {
                listener.assign(identity(&room.id, Some(occupant)), policy);
            }
        }
    }

    /// Gives the rooms of those conversations for which `concerns` holds their present policies. With `close`, their open tunnels and
    /// transfers end as well.
    pub async fn renew_policies(&self, concerns: impl Fn(&Occupant) -> bool, close: bool) {
        let rooms = self.rooms.all().into_iter().map(|entry| entry.room);
        let mut concerned: Vec<(Arc<Room>, Occupant)> =
            rooms.filter_map(|room| room.occupant().filter(&concerns).map(|occupant| (room, occupant))).collect();
        concerned.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        let groups = futures::stream::iter(concerned.chunks(TOGETHER));
        let renewed = groups.for_each_concurrent(GROUPS_AT_ONCE, async |group| {
            let (rooms, occupants): (Vec<&Room>, Vec<Occupant>) =
                group.iter().map(|(room, occupant)| (&**room, occupant.clone())).unzip();
            self.assign_all(&rooms, &occupants).await;
            for room in rooms.iter().filter(|_| close) {
                if let Some(listener) = room.listener.lock().as_ref() {
                    listener.close_tunnels();
                }
            }
        });
        renewed.await;
    }
}
