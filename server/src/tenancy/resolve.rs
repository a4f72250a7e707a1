//! The one place where operator, tenant, conversation and run meet.

use std::collections::BTreeMap;

use nagaya_workspace::DEFAULT_IMAGE;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent::EffectiveAgent;
use super::document::{Document, EgressRules};
use super::integrations::Integrations;
use super::permissions::{self, Permissions};
use super::rules::{AllowRule, Rules};
use crate::conversation::cost::Usd;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConfigurationLevel)]
pub enum Level {
    /// The deployment's settings.
    Operator,
    /// The tenant's configuration.
    Tenant,
    /// The conversation's configuration.
    Conversation,
    /// The request that started the run.
    Run,
}

impl Level {
    /// The level's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Tenant => "tenant",
            Self::Conversation => "conversation",
            Self::Run => "run",
        }
    }
}

/// A value, and the level that decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided<T> {
    /// The value.
    pub value: T,
    /// The lowest level that has changed it.
    pub from: Level,
}

impl<T> Decided<T> {
    pub(super) fn operators(value: T) -> Self {
        Self { value, from: Level::Operator }
    }
}

/// What the operator's settings allow every tenant.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    /// Ids of the models.
    pub models: Vec<String>,
    /// Tools of the model's provider that tenants may permit.
    pub provider_tools: Vec<String>,
    /// Longest time of one run, in seconds.
    pub run_seconds: u64,
    /// Names of the images that workspaces may have, beside [`DEFAULT_IMAGE`].
    pub images: Vec<String>,
    /// Size of a workspace directory, in bytes.
    pub disk: u64,
}

/// What is written elsewhere than in documents: models, as records name them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Base<'a> {
    /// Id of the model in the tenant's record, if it has one.
    pub tenants_model: Option<&'a str>,
    /// Id of the conversation's model; `None` where no conversation is asked about.
    pub conversations_model: Option<&'a str>,
}

/// Rules of one level about where workspaces may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveEgress)]
pub struct EgressLayer {
    /// The level that has these rules.
    pub from: Level,
    /// What may be reached; `None` for all that the levels above allow.
    #[schema(value_type = Option<Vec<AllowRule>>)]
    pub allow: Option<Rules>,
    /// What may not be reached.
    pub deny: Vec<String>,
}

/// What applies, each value with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveConfiguration)]
pub struct Effective {
    /// Ids of the models that may be used.
    pub models: Decided<Vec<String>>,
    /// Ids of the models that code in a workspace may ask: the conversation's own, and those that its configuration lists. All of
    /// `models` where no conversation is asked about.
    pub workspace_models: Decided<Vec<String>>,
    /// Id of the model of new conversations that name none.
    pub default_model: Decided<Option<String>>,
    /// Names of the driver's tools that it may use; `None` for all.
    pub tools: Decided<Option<Vec<String>>>,
    /// Tools of the model's provider that may be used.
    pub provider_tools: Decided<Vec<String>>,
    /// A request must be allowed by every one of these, and by the operator's allow-list.
    pub egress: Vec<EgressLayer>,
    /// Requests per second of one workspace.
    pub requests_per_second: Decided<Option<u32>>,
    /// Bytes per second of one workspace.
    pub bytes_per_second: Decided<Option<u64>>,
    /// Ids of the vaults whose credentials are used, in this order.
    pub vaults: Decided<Vec<String>>,
    /// Longest time of one run, in seconds.
    pub run_seconds: Decided<u64>,
    /// Requests to the model in one run.
    pub max_turns: Decided<Option<u32>>,
    /// Name of the image of the workspaces.
    pub image: Decided<String>,
    /// Size of the workspace directory, in bytes.
    pub disk: Decided<u64>,
    /// What the agent asks about before it does it, and what it never does.
    pub permissions: EffectivePermissions,
    /// Servers of the Model Context Protocol that are used: their addresses by their names.
    pub mcp_servers: Decided<BTreeMap<String, String>>,
    /// Skills that the agent has.
    pub skills: Decided<Vec<String>>,
    /// Cost of one run in USD, at most.
    pub max_cost_usd: Decided<Option<Usd>>,
    /// How the agent works.
    pub agent: EffectiveAgent,
}

/// What the agent asks about before it does it, and what it never does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EffectivePermissions {
    /// Tools whose use somebody must approve.
    pub ask: Decided<Vec<String>>,
    /// Tools that are not used.
    pub deny: Decided<Vec<String>>,
    /// Whether the agent may ask the user questions.
    pub questions: Decided<bool>,
}

/// The documents of the levels below the operator, from the top.
pub type Documents<'a> = [(Level, &'a Document)];

/// What applies where these levels meet. Each level can only narrow what the levels above it allow; whatever goes beyond that has no
/// effect.
#[must_use]
pub fn resolve(operator: &Operator, base: Base<'_>, documents: &Documents<'_>) -> Effective {
    let default_from = if base.tenants_model.is_some() { Level::Tenant } else { Level::Operator };
    let mut effective = Effective {
        models: Decided::operators(operator.models.clone()),
        workspace_models: Decided::operators(Vec::new()),
        default_model: Decided { value: base.tenants_model.map(ToOwned::to_owned), from: default_from },
        tools: Decided::operators(None),
        provider_tools: Decided::operators(Vec::new()),
        egress: Vec::new(),
        requests_per_second: Decided::operators(None),
        bytes_per_second: Decided::operators(None),
        vaults: Decided::operators(Vec::new()),
        run_seconds: Decided::operators(operator.run_seconds),
        max_turns: Decided::operators(None),
        image: Decided::operators(DEFAULT_IMAGE.to_owned()),
        disk: Decided::operators(operator.disk),
        permissions: EffectivePermissions {
            ask: Decided::operators(Vec::new()),
            deny: Decided::operators(Vec::new()),
            questions: Decided::operators(false),
        },
        mcp_servers: Decided::operators(BTreeMap::new()),
        skills: Decided::operators(Vec::new()),
        max_cost_usd: Decided::operators(None),
        agent: EffectiveAgent::default(),
    };
    // A tool of the provider must be permitted by the operator and by the tenant, and by the levels below only if they say anything.
    let mut provider_tools = operator.provider_tools.clone();
    for (level, document) in documents {
        effective.narrow(*level, document, &mut provider_tools);
        effective.narrow_workspace(operator, *level, document);
        effective.narrow_agent(*level, document);
    }
    if effective.default_model.value.as_ref().is_some_and(|model| !effective.models.value.contains(model)) {
        effective.default_model = Decided { value: None, from: effective.models.from };
    }
    effective.workspace_models = effective.models.clone();
    if let Some(own) = base.conversations_model {
        // The tenant's list is what its conversations may choose from; a workspace asks only what its conversation has chosen.
        let conversations = documents.iter().find(|(level, _)| *level == Level::Conversation);
        let listed = conversations.and_then(|(_, document)| document.models.as_ref()?.allowed.as_ref());
        let chosen = |model: &String| model == own || listed.is_some_and(|list| list.contains(model));
        effective.workspace_models.value.retain(chosen);
        effective.workspace_models.from = effective.models.from.max(Level::Conversation);
    }
    let usable = &effective.workspace_models.value;
    effective.agent.fallback_models.value.retain(|model| usable.contains(model));
    effective
}

impl Effective {
    fn narrow(&mut self, level: Level, document: &Document, provider_tools: &mut Vec<String>) {
        if let Some(models) = &document.models {
            if let Some(allowed) = &models.allowed {
                self.models.value.retain(|model| allowed.contains(model));
                self.models.from = level;
            }
            if let Some(default) = &models.default {
                self.default_model = Decided { value: Some(default.clone()), from: level };
            }
        }
        if let Some(tools) = &document.tools {
            if let Some(allowed) = &tools.allowed {
                let narrowed = match self.tools.value.take() {
                    Some(above) => above.into_iter().filter(|tool| allowed.contains(tool)).collect(),
                    None => allowed.clone(),
                };
                self.tools = Decided { value: Some(narrowed), from: level };
            }
            if let Some(provider) = &tools.provider {
                provider_tools.retain(|tool| provider.contains(tool));
                self.provider_tools = Decided { value: provider_tools.clone(), from: level };
            }
        }
        if let Some(EgressRules { allow, deny, requests_per_second, bytes_per_second }) = &document.egress {
            if allow.is_some() || !deny.is_empty() {
                self.egress.push(EgressLayer { from: level, allow: allow.clone(), deny: deny.clone() });
            }
            lower(&mut self.requests_per_second, *requests_per_second, level);
            lower(&mut self.bytes_per_second, *bytes_per_second, level);
        }
        if let Some(vaults) = &document.vaults {
            let permitted = |vault: &&String| self.vaults.from == Level::Operator || self.vaults.value.contains(vault);
            let value = vaults.iter().filter(permitted).cloned().collect();
            self.vaults = Decided { value, from: level };
        }
        if let Some(limits) = &document.limits {
            if let Some(seconds) = limits.run_seconds.filter(|seconds| *seconds < self.run_seconds.value) {
                self.run_seconds = Decided { value: seconds, from: level };
            }
            lower(&mut self.max_turns, limits.max_turns, level);
            lower(&mut self.max_cost_usd, limits.max_cost_usd, level);
        }
    }

    /// What a workspace is: the lowest level that names an image chooses it, among those that the operator has.
    fn narrow_workspace(&mut self, operator: &Operator, level: Level, document: &Document) {
        let offered = |name: &&String| **name == DEFAULT_IMAGE || operator.images.contains(name);
        if let Some(image) = document.image.as_ref().filter(offered) {
            self.image = Decided { value: image.clone(), from: level };
        }
        if let Some(disk) = document.disk.filter(|disk| *disk < self.disk.value) {
            self.disk = Decided { value: disk, from: level };
        }
    }

    /// Whether a level below may name a skill: whichever where no level above says anything, else one of those. A level that names no version
    /// permits all.
    pub(super) fn permits_skill(&self, entry: &str) -> bool {
        let name = entry.split('@').next().unwrap_or_default();
        self.skills.from == Level::Operator || self.skills.value.iter().any(|above| above == entry || above == name)
    }

    /// What the agent may do: each level adds to what is asked about and denied, and only the tenant's has servers.
    fn narrow_agent(&mut self, level: Level, document: &Document) {
        if let Some(Permissions { ask, deny, questions }) = &document.permissions {
            let own = &mut self.permissions;
            for (above, added) in [(&mut own.ask, ask), (&mut own.deny, deny)] {
                let before = above.value.len();
                permissions::add(&mut above.value, added);
                if above.value.len() > before {
                    above.from = level;
                }
            }
            if let Some(may) = questions {
                // Every level that says anything must permit them.
                let above = own.questions.from == Level::Operator || own.questions.value;
                own.questions = Decided { value: *may && above, from: level };
            }
        }
        if let Some(skills) = &document.skills {
            let permitted = |entry: &&String| self.permits_skill(entry);
            let value = skills.iter().filter(permitted).cloned().collect();
            self.skills = Decided { value, from: level };
        }
        if let Some(agent) = &document.agent {
            self.agent.narrow(level, agent);
        }
        if let Some(Integrations { mcp_servers, mcp_servers_allowed }) = &document.integrations {
            if let Some(servers) = mcp_servers.as_ref().filter(|_| level == Level::Tenant) {
                let servers = servers.iter().map(|(name, server)| (name.clone(), server.url.clone()));
                self.mcp_servers = Decided { value: servers.collect(), from: level };
            }
            if let Some(allowed) = mcp_servers_allowed {
                self.mcp_servers.value.retain(|name, _| allowed.contains(name));
                self.mcp_servers.from = level;
            }
        }
    }
}

fn lower<T: Ord + Copy>(decided: &mut Decided<Option<T>>, limit: Option<T>, level: Level) {
    if let Some(limit) = limit
        && decided.value.is_none_or(|above| limit < above)
    {
        *decided = Decided { value: Some(limit), from: level };
    }
}

#[cfg(test)]
pub(super) mod tests;
