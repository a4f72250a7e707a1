//! Tenants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, on_delete, on_write, to_micros, within, word, words, written};

words! {
    /// Whether a tenant may start runs.
    TenantStatus {
        /// It may.
        Active = "active",
        /// It may not.
        Inactive = "inactive",
    }
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Chosen by whoever created it.
    pub tenant_id: String,
    /// Added to the driver's own system prompt in every run.
    pub system_prompt: Option<String>,
    /// Model of conversations that name none.
    pub model_id: Option<String>,
    /// Whether it may start runs.
    pub status: TenantStatus,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What makes a tenant.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub tenant_id: String,
    /// Its system prompt.
    pub system_prompt: Option<String>,
    /// Its model.
    pub model_id: Option<String>,
}

/// What of a tenant is to change; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// System prompt.
    pub system_prompt: Option<String>,
    /// Model.
    pub model_id: Option<String>,
    /// Status.
    pub status: Option<TenantStatus>,
}

fn read(row: &AnyRow) -> sqlx::Result<Tenant> {
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
    /// The id is taken, or the model does not exist.
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
            let row = written(statement, &self.0)
                .await
                .map_err(|e| on_write(e, || format!("tenant {} exists", new.tenant_id), "model"))?;
            Ok(read(&row.ok_or(sqlx::Error::RowNotFound)?)?)
        })
        .await
    }

    /// Every tenant, by id.
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

    /// One tenant.
    ///
    /// # Errors
    /// There is none of this id.
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
    /// There is none of this id, or the model does not exist.
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
            let row = written(statement, &self.0).await.map_err(|e| on_write(e, String::new, "model"))?;
            Ok(read(&row.ok_or(StoreError::NotFound("tenant"))?)?)
        })
        .await
    }

    /// Deletes a tenant that has no conversations.
    ///
    /// # Errors
    /// There is none of this id, or it has conversations.
    pub async fn delete_tenant(&self, id: &str) -> Result<(), StoreError> {
        within(async {
            let done = sqlx::query("DELETE FROM tenants WHERE tenant_id = $1")
                .bind(id)
                .execute(&self.0)
                .await
                .map_err(|e| on_delete(e, "the tenant has conversations; delete them first"))?;
            if done.rows_affected() == 0 { Err(StoreError::NotFound("tenant")) } else { Ok(()) }
        })
        .await
    }
}
