//! Conversations.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Store, StoreError, from_micros, on_write, to_micros, within, word, words, written};

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

/// The columns as every database gives them: SQLite's booleans are none to sqlx's `Any`.
macro_rules! columns {
    () => {
        "conversation_id, session_id, tenant_id, user_id, model_id, title, status,
         CASE WHEN workspace_enabled THEN 1 ELSE 0 END AS workspace_enabled,
         total_input_tokens, total_output_tokens, estimated_context_tokens,
         CASE WHEN context_limit_reached THEN 1 ELSE 0 END AS context_limit_reached,
         created_at, updated_at"
    };
}

/// Which of a tenant's conversations a filter lets through; what it does not ask for is NULL.
macro_rules! filtered {
    () => {
        " FROM conversations
          WHERE tenant_id = $1 AND ($2 IS NULL OR user_id = $2) AND ($3 IS NULL OR status = $3)
            AND ($4 IS NULL OR created_at >= $4) AND ($5 IS NULL OR created_at <= $5)"
    };
}

fn read(row: &AnyRow) -> sqlx::Result<Conversation> {
    Ok(Conversation {
        conversation_id: row.try_get("conversation_id")?,
        session_id: row.try_get("session_id")?,
        tenant_id: row.try_get("tenant_id")?,
        user_id: row.try_get("user_id")?,
        model_id: row.try_get("model_id")?,
        title: row.try_get("title")?,
        status: word(row.try_get("status")?, ConversationStatus::from_text)?,
        workspace_enabled: row.try_get::<i64, _>("workspace_enabled")? != 0,
        total_input_tokens: row.try_get("total_input_tokens")?,
        total_output_tokens: row.try_get("total_output_tokens")?,
        estimated_context_tokens: row.try_get("estimated_context_tokens")?,
        context_limit_reached: row.try_get::<i64, _>("context_limit_reached")? != 0,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

impl Store {
    /// Creates a conversation.
    ///
    /// # Errors
    /// Tenant or model does not exist.
    pub async fn create_conversation(&self, new: NewConversation) -> Result<Conversation, StoreError> {
        within(async {
            let statement = sqlx::query(concat!(
                "INSERT INTO conversations (conversation_id, session_id, tenant_id, user_id, model_id, status,
                            workspace_enabled, created_at, updated_at)
                     VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $7) RETURNING ",
                columns!()
            ))
            .bind(Uuid::now_v7().to_string())
            .bind(Uuid::new_v4().to_string())
            .bind(new.tenant_id)
            .bind(new.user_id)
            .bind(new.model_id)
            .bind(new.workspace_enabled)
            .bind(to_micros(Timestamp::now()));
            let row = written(statement, &self.0).await.map_err(|e| on_write(e, String::new, "tenant or model"))?;
            Ok(read(&row.ok_or(sqlx::Error::RowNotFound)?)?)
        })
        .await
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
        within(async {
            let (from, to) = (filter.from.map(to_micros), filter.to.map(to_micros));
            let status = filter.status.map(ConversationStatus::as_str);
            let total = sqlx::query_scalar::<_, i64>(concat!("SELECT COUNT(*)", filtered!()))
                .bind(tenant)
                .bind(&filter.user_id)
                .bind(status)
                .bind(from)
                .bind(to)
                .fetch_one(&self.0)
                .await?;
            let rows = sqlx::query(concat!(
                "SELECT ",
                columns!(),
                filtered!(),
                " ORDER BY created_at DESC, conversation_id LIMIT $6 OFFSET $7"
            ))
            .bind(tenant)
            .bind(&filter.user_id)
            .bind(status)
            .bind(from)
            .bind(to)
            .bind(filter.limit)
            .bind(filter.offset)
            .fetch_all(&self.0)
            .await?;
            Ok(Page { items: rows.iter().map(read).collect::<sqlx::Result<_>>()?, total })
        })
        .await
    }

    /// One of a tenant's conversations.
    ///
    /// # Errors
    /// The tenant has none of this id.
    pub async fn conversation(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError> {
        within(async {
            let row = sqlx::query(concat!(
                "SELECT ",
                columns!(),
                " FROM conversations WHERE conversation_id = $1 AND tenant_id = $2"
            ))
            .bind(id)
            .bind(tenant)
            .fetch_optional(&self.0)
            .await?;
            Ok(read(&row.ok_or(StoreError::NotFound("conversation"))?)?)
        })
        .await
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
        within(async {
            let statement = sqlx::query(concat!(
                "UPDATE conversations SET title = COALESCE($3, title), status = COALESCE($4, status), updated_at = $5
                     WHERE conversation_id = $1 AND tenant_id = $2 RETURNING ",
                columns!()
            ))
            .bind(id)
            .bind(tenant)
            .bind(change.title)
            .bind(change.status.map(ConversationStatus::as_str))
            .bind(to_micros(Timestamp::now()));
            let row = written(statement, &self.0).await?;
            Ok(read(&row.ok_or(StoreError::NotFound("conversation"))?)?)
        })
        .await
    }

    /// Deletes one of a tenant's conversations with its messages.
    ///
    /// # Errors
    /// The tenant has none of this id.
    pub async fn delete_conversation(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        within(async {
            let done = sqlx::query("DELETE FROM conversations WHERE conversation_id = $1 AND tenant_id = $2")
                .bind(id)
                .bind(tenant)
                .execute(&self.0)
                .await?;
            if done.rows_affected() == 0 { Err(StoreError::NotFound("conversation")) } else { Ok(()) }
        })
        .await
    }
}
