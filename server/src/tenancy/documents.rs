//! Reading, checking and writing documents, and what applies where they meet.

use super::document::Document;
use super::problem::Problem;
use super::resolve::{Effective, Level, Operator, excesses, resolve};
use super::{Tenancy, TenancyError};
use crate::conversation::store::{ConfigurationOf, Conversation, StoredConfiguration, Tenant};

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
    fn read(stored: Option<StoredConfiguration>) -> Result<Self, TenancyError> {
        let Some(stored) = stored else { return Ok(Self::default()) };
        let document = serde_json::from_str(&stored.document).map_err(TenancyError::Unreadable)?;
        Ok(Self { version: stored.version, document, updated_at: Some(stored.updated_at) })
    }
}

/// The documents that meet in a conversation, with what the operator and the tenant's record have.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) operator: Operator,
    tenants_model: Option<String>,
    pub(super) tenant: Versioned,
    pub(super) conversation: Option<Versioned>,
}

impl Levels {
    /// What applies to the tenant, to the conversation if there is one, and to a run that narrows it further.
    pub(super) fn effective(&self, run: Option<&Document>) -> Effective {
        let tenant = [(Level::Tenant, &self.tenant.document)];
        let conversation = self.conversation.as_ref().map(|of| (Level::Conversation, &of.document));
        let levels: Vec<_> = tenant.into_iter().chain(conversation).chain(run.map(|run| (Level::Run, run))).collect();
        resolve(&self.operator, self.tenants_model.as_deref(), &levels)
    }

    fn above(&self, of: ConfigurationOf<'_>) -> Effective {
        match of {
            ConfigurationOf::Tenant(_) => resolve(&self.operator, self.tenants_model.as_deref(), &[]),
            ConfigurationOf::Conversation(_) => {
                resolve(&self.operator, self.tenants_model.as_deref(), &[(Level::Tenant, &self.tenant.document)])
            }
        }
    }
}

impl Tenancy {
    /// A document of a tenant or a conversation.
    ///
    /// # Errors
    /// The database failed.
    pub async fn document(&self, of: ConfigurationOf<'_>) -> Result<Versioned, TenancyError> {
        Versioned::read(self.store.configuration(of).await?)
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
        let levels = self.levels(tenant, None).await?;
        let mut problems = document.problems();
        if problems.is_empty() {
            let above = levels.above(of);
            problems = excesses(&levels.operator, &above, document, |host| self.may_reach(&above, host));
            let mut unreadable = super::policies::problems(document);
            unreadable.retain(|of| !problems_at(&problems, &of.place));
            problems.extend(unreadable);
            problems.extend(self.unknown_vaults(&tenant.tenant_id, document).await?);
        }
        if !problems.is_empty() {
            return Err(TenancyError::Problems(problems));
        }
        let text = serde_json::to_string(document).map_err(TenancyError::Unreadable)?;
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
        Versioned::read(Some(written))
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
        let conversation = conversation.map(|conversation| conversation.conversation_id.as_str());
        Ok(self.levels(tenant, conversation).await?.effective(None))
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
        let levels = self.levels(tenant, Some(&conversation.conversation_id)).await?;
        let above = levels.effective(None);
        let Some(run) = run else { return Ok(above) };
        let mut problems = run.problems();
        for (given, place) in [(run.egress.is_some(), "egress"), (run.vaults.is_some(), "vaults")] {
            if given {
                let why =
                    "belongs to the conversation's configuration: what is already running would not keep to a run's";
                problems.push(Problem { place: place.into(), why: why.into() });
            }
        }
        problems.extend(excesses(&levels.operator, &above, run, |_| Ok(true)));
        if problems.is_empty() { Ok(levels.effective(Some(run))) } else { Err(TenancyError::Problems(problems)) }
    }

    pub(super) async fn levels(&self, tenant: &Tenant, conversation: Option<&str>) -> Result<Levels, TenancyError> {
        let stored = self.store.configurations(&tenant.tenant_id, conversation).await?;
        let models = self.store.models().await?;
        Ok(Levels {
            operator: Operator {
                models: models.into_iter().map(|model| model.model_id).collect(),
                ..self.settings.operator.clone()
            },
            tenants_model: tenant.model_id.clone(),
            tenant: Versioned::read(stored.tenant)?,
            conversation: conversation.map(|_| Versioned::read(stored.conversation)).transpose()?,
        })
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

fn problems_at(problems: &[Problem], place: &str) -> bool {
    problems.iter().any(|problem| problem.place == place)
}
