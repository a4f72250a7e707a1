//! Vaults and their credentials in the store. What is sealed is opened elsewhere.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::configurations::note_change;
use super::{MOST_IDS, Store, StoreError, from_micros, on_write, parameters, to_micros, within};

/// Vaults of one tenant, and credentials of one vault, at most.
const MOST: i64 = 100;

/// A vault: a list of credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vault {
    /// Id of the vault.
    pub vault_id: String,
    /// Name of the vault, unique among the tenant's.
    pub name: String,
    /// Time when it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change of one of its credentials.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A credential as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCredential {
    /// Id of the credential.
    pub credential_id: String,
    /// Id of its vault.
    pub vault_id: String,
    /// Name, unique in its vault.
    pub name: String,
    /// What it is for, and of what kind it is, JSON.
    pub purpose: String,
    /// The secret: nonce, ciphertext and tag, Base64.
    pub sealed: String,
    /// Id of the key that it is sealed with.
    pub key_id: String,
    /// Time when it was created.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

fn read_vault(row: &AnyRow) -> sqlx::Result<Vault> {
    Ok(Vault {
        vault_id: row.try_get("vault_id")?,
        name: row.try_get("name")?,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

fn read_credential(row: &AnyRow) -> sqlx::Result<StoredCredential> {
    Ok(StoredCredential {
        credential_id: row.try_get("credential_id")?,
        vault_id: row.try_get("vault_id")?,
        name: row.try_get("name")?,
        purpose: row.try_get("purpose")?,
        sealed: row.try_get("sealed")?,
        key_id: row.try_get("key_id")?,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

impl Store {
    /// Creates a vault of a tenant.
    ///
    /// # Errors
    /// The tenant has one of this name already, or has as many as it may.
    pub async fn create_vault(&self, tenant: &str, vault_id: &str, name: &str) -> Result<Vault, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            note_change(&mut transaction).await?;
            let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM vaults WHERE tenant_id = $1")
                .bind(tenant)
                .fetch_one(&mut *transaction)
                .await?;
            if count >= MOST {
                return Err(StoreError::Conflict(format!("the tenant has {MOST} vaults, as many as it may")));
            }
            let row = sqlx::query(
                "INSERT INTO vaults (vault_id, tenant_id, name, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)
                 RETURNING *",
            )
            .bind(vault_id)
            .bind(tenant)
            .bind(name)
            .bind(to_micros(Timestamp::now()))
            .fetch_one(&mut *transaction)
            .await
            .map_err(|error| on_write(error, || format!("there is a vault named {name:?} already"), "tenant"))?;
            transaction.commit().await?;
            Ok(read_vault(&row)?)
        })
        .await
    }

    /// A tenant's vaults, the oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn vaults(&self, tenant: &str) -> Result<Vec<Vault>, StoreError> {
        within(async {
            let rows = sqlx::query("SELECT * FROM vaults WHERE tenant_id = $1 ORDER BY created_at, vault_id")
                .bind(tenant)
                .fetch_all(&self.0)
                .await?;
            Ok(rows.iter().map(read_vault).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// A tenant's vault.
    ///
    /// # Errors
    /// The tenant has no such vault.
    pub async fn vault(&self, tenant: &str, vault: &str) -> Result<Vault, StoreError> {
        within(async {
            let row = sqlx::query("SELECT * FROM vaults WHERE tenant_id = $1 AND vault_id = $2")
                .bind(tenant)
                .bind(vault)
                .fetch_optional(&self.0)
                .await?;
            Ok(read_vault(&row.ok_or(StoreError::NotFound("vault"))?)?)
        })
        .await
    }

    /// Deletes a tenant's vault with its credentials.
    ///
    /// # Errors
    /// The tenant has no such vault.
    pub async fn delete_vault(&self, tenant: &str, vault: &str) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            note_change(&mut transaction).await?;
            let deleted = sqlx::query("DELETE FROM vaults WHERE tenant_id = $1 AND vault_id = $2")
                .bind(tenant)
                .bind(vault)
                .execute(&mut *transaction)
                .await?;
            if deleted.rows_affected() == 0 {
                return Err(StoreError::NotFound("vault"));
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Adds a credential to a vault, after its others.
    ///
    /// # Errors
    /// The vault has one of this name already, or has as many as it may.
    pub async fn create_credential(&self, new: StoredCredential) -> Result<StoredCredential, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            note_change(&mut transaction).await?;
            let (count, last): (i64, i64) = sqlx::query_as(
                "SELECT COUNT(*), COALESCE(MAX(position), 0) FROM vault_credentials WHERE vault_id = $1",
            )
            .bind(&new.vault_id)
            .fetch_one(&mut *transaction)
            .await?;
            if count >= MOST {
                return Err(StoreError::Conflict(format!("the vault has {MOST} credentials, as many as it may")));
            }
            sqlx::query(
                "INSERT INTO vault_credentials (credential_id, vault_id, name, position, purpose, sealed, key_id,
                        created_at, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
            )
            .bind(&new.credential_id)
            .bind(&new.vault_id)
            .bind(&new.name)
            .bind(last + 1)
            .bind(&new.purpose)
            .bind(&new.sealed)
            .bind(&new.key_id)
            .bind(to_micros(new.created_at))
            .execute(&mut *transaction)
            .await
            .map_err(|error| {
                on_write(error, || format!("the vault has a credential named {:?} already", new.name), "vault")
            })?;
            touch(&mut transaction, &new.vault_id).await?;
            transaction.commit().await?;
            Ok(new)
        })
        .await
    }

    /// The credentials of these vaults of a tenant, those of each vault from the oldest on.
    ///
    /// # Errors
    /// The database failed.
    pub async fn credentials(&self, tenant: &str, vaults: &[&String]) -> Result<Vec<StoredCredential>, StoreError> {
        within(async {
            let mut all = Vec::new();
            for vaults in vaults.chunks(MOST_IDS) {
                let statement = sqlx::AssertSqlSafe(format!(
                    "SELECT c.* FROM vault_credentials c JOIN vaults v ON v.vault_id = c.vault_id
                     WHERE v.tenant_id = $1 AND v.vault_id IN ({}) ORDER BY c.position",
                    parameters(2, vaults.len())
                ));
                let query = vaults.iter().fold(sqlx::query(statement).bind(tenant), |query, id| query.bind(*id));
                let rows = query.fetch_all(&self.0).await?;
                all.extend(rows.iter().map(read_credential).collect::<sqlx::Result<Vec<_>>>()?);
            }
            Ok(all)
        })
        .await
    }

    /// Replaces what a credential is for and its secret; `false` if there is no such credential, or if `expected` is given and the
    /// sealed text is another one by now.
    ///
    /// # Errors
    /// The database failed, or the vault has another credential of the new name.
    pub async fn replace_credential(&self, new: &StoredCredential, expected: Option<&str>) -> Result<bool, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            note_change(&mut transaction).await?;
            let replaced = sqlx::query(
                "UPDATE vault_credentials SET name = $3, purpose = $4, sealed = $5, key_id = $6, updated_at = $7
                 WHERE vault_id = $1 AND credential_id = $2 AND ($8 = '' OR sealed = $8)",
            )
            .bind(&new.vault_id)
            .bind(&new.credential_id)
            .bind(&new.name)
            .bind(&new.purpose)
            .bind(&new.sealed)
            .bind(&new.key_id)
            .bind(to_micros(new.updated_at))
            .bind(expected.unwrap_or_default())
            .execute(&mut *transaction)
            .await
            .map_err(|error| {
                on_write(error, || format!("the vault has a credential named {:?} already", new.name), "vault")
            })?;
            touch(&mut transaction, &new.vault_id).await?;
            transaction.commit().await?;
            Ok(replaced.rows_affected() > 0)
        })
        .await
    }

    /// Deletes a credential.
    ///
    /// # Errors
    /// The vault has no such credential.
    pub async fn delete_credential(&self, vault: &str, credential: &str) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            note_change(&mut transaction).await?;
            let deleted = sqlx::query("DELETE FROM vault_credentials WHERE vault_id = $1 AND credential_id = $2")
                .bind(vault)
                .bind(credential)
                .execute(&mut *transaction)
                .await?;
            if deleted.rows_affected() == 0 {
                return Err(StoreError::NotFound("credential"));
            }
            touch(&mut transaction, vault).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Some credentials, with their tenants, that are not sealed with the key `key_id`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sealed_otherwise(
        &self,
        key_id: &str,
        after: &str,
    ) -> Result<Vec<(String, StoredCredential)>, StoreError> {
        within(async {
            let rows = sqlx::query(
                "SELECT c.*, v.tenant_id FROM vault_credentials c JOIN vaults v ON v.vault_id = c.vault_id
                 WHERE c.key_id <> $1 AND c.credential_id > $2 ORDER BY c.credential_id LIMIT 100",
            )
            .bind(key_id)
            .bind(after)
            .fetch_all(&self.0)
            .await?;
            let read = |row: &AnyRow| Ok((row.try_get("tenant_id")?, read_credential(row)?));
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }
}

async fn touch(transaction: &mut sqlx::Transaction<'_, sqlx::Any>, vault: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE vaults SET updated_at = $2 WHERE vault_id = $1")
        .bind(vault)
        .bind(to_micros(Timestamp::now()))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
