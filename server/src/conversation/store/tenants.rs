//! Tenants in the store.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, on_delete, on_write, returned_row, to_micros, within, word, words};

words! {
    /// Whether a tenant may start runs.
    TenantStatus {
        /// The tenant may start runs.
        Active = "active",
        /// The tenant may not start runs.
        Inactive = "inactive",
    }
}

/// A tenant: the owner of conversations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Id of the tenant, chosen by the client that created it.
    pub tenant_id: String,
    /// Text added to the driver's system prompt in every run.
    pub system_prompt: Option<String>,
    /// Id of the model for conversations that do not name one.
    pub model_id: Option<String>,
    /// Whether the tenant may start runs.
    pub status: TenantStatus,
    /// Time when the tenant was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The fields of a new tenant, as in [`Tenant`].
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Id of the tenant.
    pub tenant_id: String,
    /// Text added to the driver's system prompt.
    pub system_prompt: Option<String>,
    /// Id of the default model.
    pub model_id: Option<String>,
}

/// A change of a tenant; fields that are `None` stay.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// The new system prompt.
    pub system_prompt: Option<String>,
    /// Id of the new default model.
    pub model_id: Option<String>,
    /// The new status; `None` leaves it unchanged.
    pub status: Option<TenantStatus>,
}

pub(super) fn read(row: &AnyRow) -> sqlx::Result<Tenant> {
    Ok(Tenant {
        tenant_id: row.try_get("tenant_id")?,
        system_prompt: row.try_get("system_prompt")?,
        model_id: row.try_get("model_id")?,
        status: word(row.try_get("status")?, TenantStatus::from_text)?,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

impl Store {
    /// Creates a tenant.
    ///
    /// # Errors
    /// A tenant with this id exists already, or the model does not exist.
    pub async fn create_tenant(&self, new: NewTenant) -> Result<Tenant, StoreError> {
        within(async {
            let statement = sqlx::query(
                "INSERT INTO tenants (tenant_id, system_prompt, model_id, status, created_at, updated_at)
                 VALUES ($1, $2, $3, 'active', $4, $4) RETURNING *",
            )
            .bind(&new.tenant_id)
            .bind(new.system_prompt)
            .bind(new.model_id)
            .bind(to_micros(Timestamp::now()));
            let row = returned_row(statement, &self.0)
                .await
                .map_err(|e| on_write(e, || format!("tenant {} exists already", new.tenant_id), "model"))?;
            Ok(read(&row.ok_or(sqlx::Error::RowNotFound)?)?)
        })
        .await
    }

    /// All tenants, sorted by id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        within(async {
            let rows = sqlx::query("SELECT * FROM tenants ORDER BY tenant_id").fetch_all(&self.0).await?;
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// The tenant with this id.
    ///
    /// # Errors
    /// There is no tenant with this id.
    pub async fn tenant(&self, id: &str) -> Result<Tenant, StoreError> {
        within(async {
            let row =
                sqlx::query("SELECT * FROM tenants WHERE tenant_id = $1").bind(id).fetch_optional(&self.0).await?;
            Ok(read(&row.ok_or(StoreError::NotFound("tenant"))?)?)
        })
        .await
    }

    /// Changes a tenant.
    ///
    /// # Errors
    /// There is no tenant with this id, or the model does not exist.
    pub async fn update_tenant(&self, id: &str, change: TenantChange) -> Result<Tenant, StoreError> {
        within(async {
            let statement = sqlx::query(
                "UPDATE tenants SET system_prompt = COALESCE($2, system_prompt), model_id = COALESCE($3, model_id),
                        status = COALESCE($4, status), updated_at = $5
                 WHERE tenant_id = $1 RETURNING *",
            )
            .bind(id)
            .bind(change.system_prompt)
            .bind(change.model_id)
            .bind(change.status.map(TenantStatus::as_str))
            .bind(to_micros(Timestamp::now()));
            let row = returned_row(statement, &self.0).await.map_err(|e| on_write(e, String::new, "model"))?;
            Ok(read(&row.ok_or(StoreError::NotFound("tenant"))?)?)
        })
        .await
    }

    /// Deletes a tenant that has no conversations.
    ///
    /// # Errors
    /// There is no tenant with this id, or it has conversations.
    pub async fn delete_tenant(&self, id: &str) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            // The tenant's keys go with it, and every server must notice.
            super::keys::count_deletion(&mut transaction).await?;
            let done = sqlx::query("DELETE FROM tenants WHERE tenant_id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await
                .map_err(|e| on_delete(e, "the tenant has conversations; delete them first"))?;
            if done.rows_affected() == 0 {
                return Err(StoreError::NotFound("tenant"));
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}
