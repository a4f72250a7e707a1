//! Changes of policies reach the workspaces of every server.

use serde::{Deserialize, Serialize};

use super::Cluster;
use super::peers::Question;
use nagaya_workspace::rooms::Occupant;

/// Whose policies have changed; by default everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Id of the tenant; `None` for all.
    pub tenant: Option<String>,
    /// Id of the conversation; `None` for all of the tenant's.
    pub conversation: Option<String>,
    /// Whether open tunnels and transfers end.
    pub close: bool,
}

impl Changed {
    fn concerns(&self, occupant: &Occupant) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == occupant.tenant)
            && self.conversation.as_ref().is_none_or(|conversation| *conversation == occupant.conversation)
    }
}

impl Cluster {
    /// Gives the workspaces concerned their present policies, those of the other servers as well. A server that does not answer notices
    /// the change by itself, within a second.
    pub async fn renew_policies(&self, changed: Changed) {
        let question = Question::Policies(changed.clone());
        let (_, others) = tokio::join!(self.renew_own_policies(&changed), self.peers.ask(&question));
        if let Err(error) = others {
            tracing::warn!(%error, "another server was not told of a change of policies");
        }
    }

    /// The same for the workspaces of this server.
    pub async fn renew_own_policies(&self, changed: &Changed) {
        self.workspaces.renew_policies(|occupant| changed.concerns(occupant), changed.close).await;
    }
}
