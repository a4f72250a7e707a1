//! Configurations of tenants and conversations in the store. Their meaning is not known here.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{MOST_IDS, Store, StoreError, Tenant, from_micros, parameters, tenants, to_micros, within};

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigurationOf<'a> {
    /// The tenant with this id.
    Tenant(&'a str),
    /// The conversation with this id.
    Conversation(&'a str),
}

/// A configuration as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfiguration {
    /// Number of the change that wrote it: 1, 2, …
    pub version: i64,
    /// The document, JSON.
    pub document: String,
    /// Time of that change.
    pub updated_at: Timestamp,
}

/// A conversation, as far as configurations are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredConversation {
    /// Id of the conversation.
    pub conversation_id: String,
    /// Id of its tenant.
    pub tenant_id: String,
    /// Id of the conversation's model.
    pub model_id: String,
    /// Its configuration, if it has one.
    pub configuration: Option<StoredConfiguration>,
}

impl ConfigurationOf<'_> {
    fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Tenant(_) => ("tenant_configurations", "tenant_id"),
            Self::Conversation(_) => ("conversation_configurations", "conversation_id"),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Tenant(id) | Self::Conversation(id) => id,
        }
    }
}

fn read(row: &AnyRow) -> sqlx::Result<StoredConfiguration> {
    Ok(StoredConfiguration {
        version: row.try_get("version")?,
        document: row.try_get("document")?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

/// The configuration in a row of something that may have none.
fn read_joined(row: &AnyRow) -> sqlx::Result<Option<StoredConfiguration>> {
    let Some(version) = row.try_get("version")? else { return Ok(None) };
    let updated_at = from_micros(row.try_get("configured_at")?)?;
    Ok(Some(StoredConfiguration { version, document: row.try_get("document")?, updated_at }))
}

impl Store {
    /// A configuration; `None` where none was ever written.
    ///
    /// # Errors
    /// The database failed.
    pub async fn configuration(&self, of: ConfigurationOf<'_>) -> Result<Option<StoredConfiguration>, StoreError> {
        within(async {
            let (table, key) = of.table();
            let statement = sqlx::AssertSqlSafe(format!("SELECT * FROM {table} WHERE {key} = $1"));
            let row = sqlx::query(statement).bind(of.id()).fetch_optional(&self.0).await?;
            Ok(row.as_ref().map(read).transpose()?)
        })
        .await
    }

    /// Those of these tenants that exist, with their configurations, in any order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn configured_tenants(
        &self,
        ids: &[&str],
    ) -> Result<Vec<(Tenant, Option<StoredConfiguration>)>, StoreError> {
        within(async {
            let mut found = Vec::with_capacity(ids.len());
            for ids in ids.chunks(MOST_IDS) {
                let statement = sqlx::AssertSqlSafe(format!(
                    "SELECT t.*, d.version, d.document, d.updated_at AS configured_at
                     FROM tenants t LEFT JOIN tenant_configurations d ON d.tenant_id = t.tenant_id
                     WHERE t.tenant_id IN ({})",
                    parameters(1, ids.len())
                ));
                let query = ids.iter().fold(sqlx::query(statement), |query, id| query.bind(*id));
                for row in query.fetch_all(&self.0).await? {
                    found.push((tenants::read(&row)?, read_joined(&row)?));
                }
            }
            Ok(found)
        })
        .await
    }

    /// Those of these conversations that exist, in any order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn configured_conversations(&self, ids: &[&str]) -> Result<Vec<ConfiguredConversation>, StoreError> {
        within(async {
            let mut found = Vec::with_capacity(ids.len());
            for ids in ids.chunks(MOST_IDS) {
                let statement = sqlx::AssertSqlSafe(format!(
                    "SELECT c.conversation_id, c.tenant_id, c.model_id, d.version, d.document, d.updated_at AS configured_at
                     FROM conversations c LEFT JOIN conversation_configurations d ON d.conversation_id = c.conversation_id
                     WHERE c.conversation_id IN ({})",
                    parameters(1, ids.len())
                ));
                let query = ids.iter().fold(sqlx::query(statement), |query, id| query.bind(*id));
                for row in query.fetch_all(&self.0).await? {
                    found.push(ConfiguredConversation {
                        conversation_id: row.try_get("conversation_id")?,
                        tenant_id: row.try_get("tenant_id")?,
                        model_id: row.try_get("model_id")?,
                        configuration: read_joined(&row)?,
                    });
                }
            }
            Ok(found)
        })
        .await
    }

    /// Replaces a configuration whose version is `version`, which is 0 where there is none yet. Returns the new version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the version is another one, [`StoreError::NotFound`] if there is no such tenant or conversation.
    pub async fn write_configuration(
        &self,
        of: ConfigurationOf<'_>,
        version: i64,
        document: &str,
    ) -> Result<StoredConfiguration, StoreError> {
        within(async {
            let (table, key) = of.table();
            let mut transaction = self.0.begin().await?;
            // First a write, so that two writers wait for each other; in SQLite one that has read before would fail instead.
            note_change(&mut transaction).await?;
            let statement = match version {
                0 => format!(
                    "INSERT INTO {table} ({key}, version, document, updated_at) VALUES ($1, $2 + 1, $3, $4)
                     ON CONFLICT ({key}) DO NOTHING RETURNING *"
                ),
                _ => format!(
                    "UPDATE {table} SET version = version + 1, document = $3, updated_at = $4
                     WHERE {key} = $1 AND version = $2 RETURNING *"
                ),
            };
            let written = sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(of.id())
                .bind(version)
                .bind(document)
                .bind(to_micros(Timestamp::now()))
                .fetch_all(&mut *transaction)
                .await
                .map_err(|error| super::on_write(error, || "the configuration exists already".into(), key_name(of)))?
                .pop();
            let Some(written) = written else {
                transaction.rollback().await?;
                let now = self.configuration(of).await?.map_or(0, |now| now.version);
                return Err(StoreError::Conflict(format!(
                    "the configuration has version {now}, not {version}: read it again and repeat the change"
                )));
            };
            transaction.commit().await?;
            Ok(read(&written)?)
        })
        .await
    }

    /// Number of changes of configurations and vaults so far.
    ///
    /// # Errors
    /// The database failed.
    pub async fn configuration_changes(&self) -> Result<i64, StoreError> {
        within(async { Ok(sqlx::query_scalar("SELECT number FROM configuration_changes").fetch_one(&self.0).await?) })
            .await
    }
}

fn key_name(of: ConfigurationOf<'_>) -> &'static str {
    match of {
        ConfigurationOf::Tenant(_) => "tenant",
        ConfigurationOf::Conversation(_) => "conversation",
    }
}

/// Counts a change as part of the transaction that makes it.
pub(super) async fn note_change(transaction: &mut sqlx::Transaction<'_, sqlx::Any>) -> Result<(), StoreError> {
    sqlx::query("UPDATE configuration_changes SET number = number + 1").execute(&mut **transaction).await?;
    Ok(())
}
