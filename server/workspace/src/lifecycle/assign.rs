//! Gives the egress listeners of rooms the policies of their conversations.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;

use crate::lifecycle::build::identity;
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Tenants whose rooms are given their policies at the same time.
const TENANTS_AT_ONCE: usize = 8;

impl Workspaces {
    /// Gives a room's egress listener the identity and the policy of its conversation.
    pub(crate) async fn assign(&self, room: &Room, occupant: &Occupant) {
        self.assign_all(&occupant.tenant, vec![(room, &occupant.conversation)]).await;
    }

    /// The same for rooms of one tenant, each with its conversation. They are asked about together.
    async fn assign_all(&self, tenant: &str, mut rooms: Vec<(&Room, &String)>) {
        // In one order, so that nobody waits for somebody who waits for him.
        rooms.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        // Whoever is asked later answers later, too: an older answer never replaces a newer one.
        let mut turns = Vec::with_capacity(rooms.len());
        for (room, _) in &rooms {
            turns.push(room.policy_turn.lock().await);
        }
        let conversations: Vec<&str> = rooms.iter().map(|(_, conversation)| conversation.as_str()).collect();
        let policies = self.parts.policies.of(tenant, &conversations).await;
        for ((room, conversation), policy) in rooms.into_iter().zip(policies) {
            if let Some(listener) = room.listener.lock().as_ref() {
                let occupant = Occupant { conversation: conversation.clone(), tenant: tenant.to_owned() };
                listener.assign(identity(&room.id, Some(&occupant)), policy);
            }
        }
    }

    /// Gives the rooms of those conversations for which `concerns` holds their present policies. With `close`, their open tunnels and
    /// transfers end as well.
    pub async fn renew_policies(&self, concerns: impl Fn(&Occupant) -> bool, close: bool) {
        let rooms = self.rooms.all().into_iter().map(|entry| entry.room);
        let mut by_tenant: HashMap<String, Vec<(Arc<Room>, String)>> = HashMap::new();
        for room in rooms {
            if let Some(occupant) = room.occupant().filter(&concerns) {
                by_tenant.entry(occupant.tenant).or_default().push((room, occupant.conversation));
            }
        }
        let renewed = futures::stream::iter(by_tenant).for_each_concurrent(TENANTS_AT_ONCE, async |(tenant, rooms)| {
            let named = rooms.iter().map(|(room, conversation)| (&**room, conversation)).collect();
            self.assign_all(&tenant, named).await;
            for (room, _) in rooms.iter().filter(|_| close) {
                if let Some(listener) = room.listener.lock().as_ref() {
                    listener.close_tunnels();
                }
            }
        });
        renewed.await;
    }
}
