//! Conversations.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{QueryBuilder, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Store, StoreError, from_micros, on_write, to_micros, word, words};

words! {
    /// Whether a conversation may go on.
    ConversationStatus {
        /// It may.
        Active = "active",
        /// It is kept, but takes no further run.
        Archived = "archived",
    }
}

/// A conversation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: String,
    /// Driver's session of its last run; before the first, an id that nothing has yet.
    pub session_id: String,
    /// Whose it is.
    pub tenant_id: String,
    /// Which of the tenant's users.
    pub user_id: String,
    /// Its model.
    pub model_id: String,
    /// From the first exchange, or as set.
    pub title: Option<String>,
    /// Whether it may go on.
    pub status: ConversationStatus,
    /// Whether its runs have a room.
    pub workspace_enabled: bool,
    /// Input tokens of all runs, cached ones included.
    pub total_input_tokens: i64,
    /// Output tokens of all runs.
    pub total_output_tokens: i64,
    /// Estimate of what the next turn would send.
    pub estimated_context_tokens: i64,
    /// Whether the model's context is full.
    pub context_limit_reached: bool,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What makes a conversation.
#[derive(Debug, Clone)]
pub struct NewConversation {
    /// Whose it is.
    pub tenant_id: String,
    /// Which user's.
    pub user_id: String,
    /// Its model.
    pub model_id: String,
    /// Whether its runs have a room.
    pub workspace_enabled: bool,
}

/// What of a conversation is to change; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ConversationChange {
    /// Title.
    pub title: Option<String>,
    /// Status.
    pub status: Option<ConversationStatus>,
}

/// Which of a tenant's conversations are wanted.
#[derive(Debug, Clone, Default)]
pub struct ConversationFilter {
    /// This user's.
    pub user_id: Option<String>,
    /// In this status.
    pub status: Option<ConversationStatus>,
    /// Created at or after.
    pub from: Option<Timestamp>,
    /// Created at or before.
    pub to: Option<Timestamp>,
    /// At most so many.
    pub limit: i64,
    /// After so many.
    pub offset: i64,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Length of the whole.
    pub total: i64,
}

fn read(row: &SqliteRow) -> sqlx::Result<Conversation> {
    Ok(Conversation {
        conversation_id: row.try_get("conversation_id")?,
        session_id: row.try_get("session_id")?,
        tenant_id: row.try_get("tenant_id")?,
        user_id: row.try_get("user_id")?,
        model_id: row.try_get("model_id")?,
        title: row.try_get("title")?,
        status: word(row.try_get("status")?, ConversationStatus::from_text)?,
        workspace_enabled: row.try_get("workspace_enabled")?,
        total_input_tokens: row.try_get("total_input_tokens")?,
        total_output_tokens: row.try_get("total_output_tokens")?,
        estimated_context_tokens: row.try_get("estimated_context_tokens")?,
        context_limit_reached: row.try_get("context_limit_reached")?,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

impl ConversationFilter {
    fn push_where(&self, tenant: &str, query: &mut QueryBuilder<Sqlite>) {
        query.push(" WHERE tenant_id = ").push_bind(tenant.to_owned());
        if let Some(user) = &self.user_id {
            query.push(" AND user_id = ").push_bind(user.clone());
        }
        if let Some(status) = self.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(from) = self.from {
            query.push(" AND created_at >= ").push_bind(to_micros(from));
        }
        if let Some(to) = self.to {
            query.push(" AND created_at <= ").push_bind(to_micros(to));
        }
    }
}

impl Store {
    /// Creates a conversation.
    ///
    /// # Errors
    /// Tenant or model does not exist.
    pub async fn create_conversation(&self, new: NewConversation) -> Result<Conversation, StoreError> {
        let row = sqlx::query(
            "INSERT INTO conversations
                (conversation_id, session_id, tenant_id, user_id, model_id, status, workspace_enabled, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'active', ?6, ?7, ?7) RETURNING *",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(Uuid::new_v4().to_string())
        .bind(new.tenant_id)
        .bind(new.user_id)
        .bind(new.model_id)
        .bind(new.workspace_enabled)
        .bind(to_micros(Timestamp::now()))
        .fetch_one(&self.0)
        .await
        .map_err(|e| on_write(e, String::new, "tenant or model"))?;
        Ok(read(&row)?)
    }

    /// A page of a tenant's conversations, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn conversations(
        &self,
        tenant: &str,
        filter: &ConversationFilter,
    ) -> Result<Page<Conversation>, StoreError> {
        let mut count = QueryBuilder::new("SELECT COUNT(*) FROM conversations");
        filter.push_where(tenant, &mut count);
        let total = count.build_query_scalar::<i64>().fetch_one(&self.0).await?;
        let mut query = QueryBuilder::new("SELECT * FROM conversations");
        filter.push_where(tenant, &mut query);
        query.push(" ORDER BY created_at DESC, conversation_id LIMIT ").push_bind(filter.limit);
        query.push(" OFFSET ").push_bind(filter.offset);
        let rows = query.build().fetch_all(&self.0).await?;
        Ok(Page { items: rows.iter().map(read).collect::<sqlx::Result<_>>()?, total })
    }

    /// One of a tenant's conversations.
    ///
    /// # Errors
    /// The tenant has none of this id.
    pub async fn conversation(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError> {
        let row = sqlx::query("SELECT * FROM conversations WHERE conversation_id = ? AND tenant_id = ?")
            .bind(id)
            .bind(tenant)
            .fetch_optional(&self.0)
            .await?;
        Ok(read(&row.ok_or(StoreError::NotFound("conversation"))?)?)
    }

    /// Changes one of a tenant's conversations.
    ///
    /// # Errors
    /// The tenant has none of this id.
    pub async fn update_conversation(
        &self,
        tenant: &str,
        id: &str,
        change: ConversationChange,
    ) -> Result<Conversation, StoreError> {
        let row = sqlx::query(
            "UPDATE conversations SET title = COALESCE(?3, title), status = COALESCE(?4, status), updated_at = ?5
             WHERE conversation_id = ?1 AND tenant_id = ?2 RETURNING *",
        )
        .bind(id)
        .bind(tenant)
        .bind(change.title)
        .bind(change.status.map(ConversationStatus::as_str))
        .bind(to_micros(Timestamp::now()))
        .fetch_optional(&self.0)
        .await?;
        Ok(read(&row.ok_or(StoreError::NotFound("conversation"))?)?)
    }

    /// Deletes one of a tenant's conversations with its messages.
    ///
    /// # Errors
    /// The tenant has none of this id.
    pub async fn delete_conversation(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM conversations WHERE conversation_id = ? AND tenant_id = ?")
            .bind(id)
            .bind(tenant)
            .execute(&self.0)
            .await?;
        if done.rows_affected() == 0 { Err(StoreError::NotFound("conversation")) } else { Ok(()) }
    }
}
