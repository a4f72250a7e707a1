//! Reading, checking and writing documents, and what applies where they meet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nagaya_workspace::rooms::Occupant;

use super::address::https_host;
use super::document::Document;
use super::excess::excesses;
use super::problem::Problem;
use super::resolve::{Base, Effective, Level, Operator, resolve};
use super::{Tenancy, TenancyError};
use crate::conversation::skills::{Chosen, reference};
use crate::conversation::store::{
    ConfigurationOf, ConfiguredConversation, Conversation, Model, StoreError, StoredConfiguration, Tenant,
};

/// Size of all skills of one run, in bytes.
const MOST_SKILLS_BYTES: u64 = 16 << 20;
/// Size of a document as it is stored, in bytes, at most.
const LARGEST: usize = 256 * 1024;

/// A document with its version.
#[derive(Debug, Clone, Default)]
pub struct Versioned {
    /// Number of the change that wrote it; 0 where none was ever written.
    pub version: i64,
    /// The document; empty where none was ever written.
    pub document: Document,
    /// When it was written.
    pub updated_at: Option<jiff::Timestamp>,
}

impl Versioned {
    fn read(stored: Option<&StoredConfiguration>) -> serde_json::Result<Self> {
        let Some(stored) = stored else { return Ok(Self::default()) };
        let document = serde_json::from_str(&stored.document)?;
        Ok(Self { version: stored.version, document, updated_at: Some(stored.updated_at) })
    }
}

/// What meets in a tenant's conversations: the operator's settings, the tenant's record and document, and the conversations with theirs.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) common: Arc<Common>,
    tenants_model: Option<String>,
    tenant: Versioned,
    /// Those of the conversations asked for that exist.
    conversations: Vec<ConfiguredConversation>,
}

/// What all tenants have in common.
#[derive(Debug)]
pub(super) struct Common {
    operator: Operator,
    /// All models of the deployment.
    pub(super) models: Vec<Model>,
}

impl Levels {
    /// What applies to the tenant, whatever its conversations say.
    pub(super) fn of_tenant(&self) -> Effective {
        let base = Base { tenants_model: self.tenants_model.as_deref(), conversations_model: None };
        resolve(&self.common.operator, base, &[(Level::Tenant, &self.tenant.document)])
    }

    /// What applies to one of the conversations, and to a run in it that narrows it further.
    pub(super) fn of_conversation(&self, id: &str, run: Option<&Document>) -> Result<Effective, TenancyError> {
        let of = self.conversations.iter().find(|of| of.conversation_id == id);
        let of = of.ok_or(StoreError::NotFound("conversation"))?;
        let own = Versioned::read(of.configuration.as_ref())?.document;
        let levels = [(Level::Tenant, &self.tenant.document), (Level::Conversation, &own)];
        let levels: Vec<_> = levels.into_iter().chain(run.map(|run| (Level::Run, run))).collect();
        let base =
            Base { tenants_model: self.tenants_model.as_deref(), conversations_model: Some(of.model_id.as_str()) };
        Ok(resolve(&self.common.operator, base, &levels))
    }

    fn above(&self, of: ConfigurationOf<'_>) -> Effective {
        match of {
            ConfigurationOf::Tenant(_) => {
                let base = Base { tenants_model: self.tenants_model.as_deref(), conversations_model: None };
                resolve(&self.common.operator, base, &[])
            }
            ConfigurationOf::Conversation(_) => self.of_tenant(),
        }
    }
}

impl Tenancy {
    /// A document of a tenant or a conversation.
    ///
    /// # Errors
    /// The database failed.
    pub async fn document(&self, of: ConfigurationOf<'_>) -> Result<Versioned, TenancyError> {
        Ok(Versioned::read(self.store.configuration(of).await?.as_ref())?)
    }

    /// Replaces the document of a tenant, or of one of its conversations, if its version is `version`. Once this returns, the new one
    /// holds for the next request of every workspace that it concerns.
    ///
    /// # Errors
    /// The document has problems, the version is another one, or the database failed; then nothing has changed.
    pub async fn write_document(
        &self,
        tenant: &Tenant,
        of: ConfigurationOf<'_>,
        version: i64,
        document: &Document,
        close: bool,
    ) -> Result<Versioned, TenancyError> {
        let levels = self.levels(tenant, &[]).await?;
        let mut problems = document.problems();
        if problems.is_empty() {
            let above = levels.above(of);
            problems = excesses(&levels.common.operator, &above, document, |host| self.may_reach(&above, host));
            let mut unreadable = super::policies::problems(document);
            unreadable.retain(|of| !problems_at(&problems, &of.place));
            problems.extend(unreadable);
            problems.extend(self.unknown_vaults(&tenant.tenant_id, document).await?);
            problems.extend(self.unreachable_servers(of, &levels, document));
            if let Some(entries) = &document.skills {
                let (_, unknown) = self.chosen_skills(&tenant.tenant_id, entries).await?;
                problems
                    .extend(unknown.into_iter().filter(|of| !problems_at(&problems, &of.place)).collect::<Vec<_>>());
            }
        }
        if !problems.is_empty() {
            return Err(TenancyError::Problems(problems));
        }
        let text = serde_json::to_string(document)?;
        if text.len() > LARGEST {
            let why = format!("must have at most {LARGEST} bytes as JSON");
            return Err(TenancyError::Problems(vec![Problem { place: "configuration".into(), why }]));
        }
        let written = self.store.write_configuration(of, version, &text).await?;
        let conversation = match of {
            ConfigurationOf::Tenant(_) => None,
            ConfigurationOf::Conversation(conversation) => Some(conversation),
        };
        self.spread(&tenant.tenant_id, conversation, close).await;
        Ok(Versioned::read(Some(&written))?)
    }

    /// What applies to a tenant, or to one of its conversations.
    ///
    /// # Errors
    /// The database failed.
    pub async fn effective(
        &self,
        tenant: &Tenant,
        conversation: Option<&Conversation>,
    ) -> Result<Effective, TenancyError> {
        let Some(Conversation { conversation_id, .. }) = conversation else {
            return Ok(self.levels(tenant, &[]).await?.of_tenant());
        };
        self.levels(tenant, &[conversation_id]).await?.of_conversation(conversation_id, None)
    }

    /// Checks the document of a run against what applies to its conversation, and returns what applies to the run.
    ///
    /// # Errors
    /// The document has problems, or the database failed.
    pub async fn effective_of_run(
        &self,
        tenant: &Tenant,
        conversation: &Conversation,
        run: Option<&Document>,
    ) -> Result<Effective, TenancyError> {
        let id = conversation.conversation_id.as_str();
        let levels = self.levels(tenant, &[id]).await?;
        let above = levels.of_conversation(id, None)?;
        let Some(run) = run else { return Ok(above) };
        let mut problems = run.problems();
        for (given, place) in [
            (run.egress.is_some(), "egress"),
            (run.vaults.is_some(), "vaults"),
            (run.image.is_some(), "image"),
            (run.disk.is_some(), "disk"),
        ] {
            if given {
                let why =
                    "belongs to the conversation's configuration: what is already running would not keep to a run's";
                problems.push(Problem { place: place.into(), why: why.into() });
            }
        }
        problems.extend(servers_below_the_tenant(run));
        if let Some(chosen) = run.models.as_ref().and_then(|models| models.default.as_ref())
            && !above.workspace_models.value.contains(chosen)
        {
            let why = "must be the conversation's model, or one that its configuration lists in models.allowed";
            problems.push(Problem { place: "models.default".into(), why: why.into() });
        }
        let beyond = excesses(&levels.common.operator, &above, run, |_| Ok(true));
        problems.extend(beyond.into_iter().filter(|of| !problems_at(&problems, &of.place)).collect::<Vec<_>>());
        if problems.is_empty() { levels.of_conversation(id, Some(run)) } else { Err(TenancyError::Problems(problems)) }
    }

    /// The levels of a tenant and of these of its conversations, read once for all of them.
    pub(super) async fn levels(&self, tenant: &Tenant, conversations: &[&str]) -> Result<Levels, TenancyError> {
        let of = ConfigurationOf::Tenant(&tenant.tenant_id);
        let mut found = self.store.configured_conversations(conversations).await?;
        found.retain(|of| of.tenant_id == tenant.tenant_id);
        Ok(Levels {
            common: self.common().await?,
            tenants_model: tenant.model_id.clone(),
            tenant: self.document(of).await?,
            conversations: found,
        })
    }

    /// The levels of all tenants of these conversations, by the tenants' ids; what cannot be read concerns its tenant alone.
    pub(super) async fn levels_of_all(
        &self,
        occupants: &[Occupant],
    ) -> Result<BTreeMap<String, Result<Levels, Arc<serde_json::Error>>>, TenancyError> {
        let tenants: BTreeSet<&str> = occupants.iter().map(|of| of.tenant.as_str()).collect();
        let conversations: Vec<&str> = occupants.iter().map(|of| of.conversation.as_str()).collect();
        let common = self.common().await?;
        let tenants = Vec::from_iter(tenants);
        let (tenants, conversations) = tokio::try_join!(
            self.store.configured_tenants(&tenants),
            self.store.configured_conversations(&conversations)
        )?;
        let mut by_tenant: HashMap<String, Vec<ConfiguredConversation>> = HashMap::new();
        for of in conversations {
            by_tenant.entry(of.tenant_id.clone()).or_default().push(of);
        }
        let levels = tenants.into_iter().map(|(tenant, stored)| {
            let conversations = by_tenant.remove(&tenant.tenant_id).unwrap_or_default();
            let levels = Versioned::read(stored.as_ref()).map_err(Arc::new).map(|document| Levels {
                common: common.clone(),
                tenants_model: tenant.model_id,
                tenant: document,
                conversations,
            });
            (tenant.tenant_id, levels)
        });
        Ok(levels.collect())
    }

    async fn common(&self) -> Result<Arc<Common>, TenancyError> {
        let models = self.store.models().await?;
        let operator = Operator {
            models: models.iter().map(|model| model.model_id.clone()).collect(),
            ..self.settings.operator.clone()
        };
        Ok(Arc::new(Common { operator, models }))
    }

    /// What is wrong with the servers that a document registers: only a tenant's does, and its workspaces must be allowed to reach them.
    fn unreachable_servers(&self, of: ConfigurationOf<'_>, levels: &Levels, document: &Document) -> Vec<Problem> {
        if matches!(of, ConfigurationOf::Conversation(_)) {
            return servers_below_the_tenant(document).into_iter().collect();
        }
        let base = Base { tenants_model: levels.tenants_model.as_deref(), conversations_model: None };
        let effective = resolve(&levels.common.operator, base, &[(Level::Tenant, document)]);
        let servers = document.integrations.iter().filter_map(|of| of.mcp_servers.as_ref()).flatten();
        let unreachable = servers.filter_map(|(name, server)| {
            let why = match self.may_reach(&effective, &https_host(&server.url)?) {
                Ok(true) => return None,
                Ok(false) => {
                    "workspaces may not reach this host: allow it in egress.allow, and ask the operator".into()
                }
                Err(why) => why,
            };
            Some(Problem { place: format!("integrations.mcp_servers.{name}.url"), why })
        });
        unreachable.collect()
    }

    /// The versions of skills that entries of a configuration mean, and the entries that mean none.
    ///
    /// # Errors
    /// The database failed.
    pub async fn chosen_skills(
        &self,
        tenant: &str,
        entries: &[String],
    ) -> Result<(Vec<Chosen>, Vec<Problem>), TenancyError> {
        let (mut chosen, mut unknown) = (Vec::new(), Vec::new());
        if entries.is_empty() {
            return Ok((chosen, unknown));
        }
        // The latest version of each comes first.
        let versions = self.store.skills(tenant).await?;
        for (at, entry) in entries.iter().enumerate() {
            let meant = reference(entry).and_then(|(name, version)| {
                versions
                    .iter()
                    .find(|skill| skill.name == name && version.is_none_or(|version| skill.version == version))
            });
            match meant {
                Some(skill) => chosen.push(Chosen {
                    name: skill.name.clone(),
                    version: skill.version,
                    digest: skill.digest.clone(),
                }),
                None => unknown.push(Problem {
                    place: format!("skills[{at}]"),
                    why: format!("the tenant has no skill {entry:?}"),
                }),
            }
        }
        let bytes = |of: &Chosen| {
            let stored = versions.iter().find(|skill| skill.name == of.name && skill.version == of.version);
            stored.map_or(0, |skill| u64::try_from(skill.bytes).unwrap_or(u64::MAX))
        };
        if chosen.iter().map(bytes).fold(0, u64::saturating_add) > MOST_SKILLS_BYTES {
            let why =
                format!("must have at most {} MiB together: every workspace gets a copy", MOST_SKILLS_BYTES >> 20);
            unknown.push(Problem { place: "skills".into(), why });
        }
        Ok((chosen, unknown))
    }

    async fn unknown_vaults(&self, tenant: &str, document: &Document) -> Result<Vec<Problem>, TenancyError> {
        let Some(named) = &document.vaults else { return Ok(Vec::new()) };
        let vaults = self.store.vaults(tenant).await?;
        let unknown = named.iter().enumerate().filter(|(_, id)| !vaults.iter().any(|vault| vault.vault_id == **id));
        let problem = |(at, id): (usize, &String)| Problem {
            place: format!("vaults[{at}]"),
            why: format!("the tenant has no vault with the id {id:?}"),
        };
        Ok(unknown.map(problem).collect())
    }
}

fn servers_below_the_tenant(document: &Document) -> Option<Problem> {
    let why = "only the tenant's configuration registers servers; choose among them by mcp_servers_allowed";
    let given = document.integrations.as_ref().is_some_and(|of| of.mcp_servers.is_some());
    given.then(|| Problem { place: "integrations.mcp_servers".into(), why: why.into() })
}

fn problems_at(problems: &[Problem], place: &str) -> bool {
    problems.iter().any(|problem| problem.place == place)
}
