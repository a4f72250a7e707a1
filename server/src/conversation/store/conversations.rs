//! Conversations in the store.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::configurations::note_change;
use super::ledger::keep_usage;
use super::{Store, StoreError, from_micros, on_write, returned_row, to_micros, within, word, words};

words! {
    /// Whether a conversation accepts further runs.
    ConversationStatus {
        /// The conversation accepts runs.
        Active = "active",
        /// The conversation is kept, but accepts no further run.
        Archived = "archived",
    }
}

/// A conversation of one of a tenant's users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Id of the conversation.
    pub conversation_id: String,
    /// Id of the driver's session of the last run; before the first run, an id without a session.
    pub session_id: String,
    /// Id of the tenant that owns the conversation.
    pub tenant_id: String,
    /// Id of the user, chosen by the tenant.
    pub user_id: String,
    /// Id of the conversation's model.
    pub model_id: String,
    /// Title, taken from the first prompt or set by a client.
    pub title: Option<String>,
    /// Whether the conversation accepts further runs.
    pub status: ConversationStatus,
    /// Whether the conversation's runs get a workspace.
    pub workspace_enabled: bool,
    /// Input tokens of all runs, cached ones included.
    pub total_input_tokens: i64,
    /// Output tokens of all runs.
    pub total_output_tokens: i64,
    /// Estimated input tokens of the next turn.
    pub estimated_context_tokens: i64,
    /// Whether the model's context window is full.
    pub context_limit_reached: bool,
    /// Time when the conversation was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The fields of a new conversation.
#[derive(Debug, Clone)]
pub struct NewConversation {
    /// Id of the tenant that owns the conversation.
    pub tenant_id: String,
    /// Id of the user, chosen by the tenant.
    pub user_id: String,
    /// Id of the conversation's model.
    pub model_id: String,
    /// Whether the conversation's runs get a workspace.
    pub workspace_enabled: bool,
}

/// A change of a conversation; fields that are `None` stay.
#[derive(Debug, Clone, Default)]
pub struct ConversationChange {
    /// The new title.
    pub title: Option<String>,
    /// The new status; `None` leaves it unchanged.
    pub status: Option<ConversationStatus>,
    /// Id of the new model.
    pub model_id: Option<String>,
}

/// Selects some of a tenant's conversations.
#[derive(Debug, Clone, Default)]
pub struct ConversationFilter {
    /// Only conversations of this user.
    pub user_id: Option<String>,
    /// Only conversations in this status.
    pub status: Option<ConversationStatus>,
    /// Only conversations created at this time or later.
    pub from: Option<Timestamp>,
    /// Only conversations created at this time or earlier.
    pub to: Option<Timestamp>,
    /// Largest number of conversations to return.
    pub limit: i64,
    /// How many conversations to skip.
    pub offset: i64,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items of the page.
    pub items: Vec<T>,
    /// Number of items in the whole list.
    pub total: i64,
}

/// The columns in a form common to both databases: sqlx's `Any` driver does not read SQLite's booleans. Sums may be REAL in an SQLite
/// file that was written by version 0.1, where they could overflow; the cast cuts them to the largest integer.
macro_rules! columns {
    () => {
        "conversation_id, session_id, tenant_id, user_id, model_id, title, status,
         CASE WHEN workspace_enabled THEN 1 ELSE 0 END AS workspace_enabled,
         CAST(total_input_tokens AS BIGINT) AS total_input_tokens,
         CAST(total_output_tokens AS BIGINT) AS total_output_tokens,
         CAST(estimated_context_tokens AS BIGINT) AS estimated_context_tokens,
         CASE WHEN context_limit_reached THEN 1 ELSE 0 END AS context_limit_reached,
         created_at, updated_at"
    };
}

/// The conversations that match a [`ConversationFilter`]; fields that are not set are NULL.
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
    /// The tenant or the model does not exist.
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
            let row =
                returned_row(statement, &self.0).await.map_err(|e| on_write(e, String::new, "tenant or model"))?;
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
    /// The tenant has no conversation with this id.
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
    /// The tenant has no conversation with this id.
    pub async fn update_conversation(
        &self,
        tenant: &str,
        id: &str,
        change: ConversationChange,
    ) -> Result<Conversation, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            if change.model_id.is_some() {
                note_change(&mut transaction).await?;
            }
            let row = sqlx::query(concat!(
                "UPDATE conversations SET title = COALESCE($3, title), status = COALESCE($4, status), updated_at = $5,
                     model_id = COALESCE($6, model_id)
                     WHERE conversation_id = $1 AND tenant_id = $2 RETURNING ",
                columns!()
            ))
            .bind(id)
            .bind(tenant)
            .bind(change.title)
            .bind(change.status.map(ConversationStatus::as_str))
            .bind(to_micros(Timestamp::now()))
            .bind(change.model_id)
            .fetch_all(&mut *transaction)
            .await
            .map_err(|error| on_write(error, String::new, "model"))?
            .pop();
            let changed = read(&row.ok_or(StoreError::NotFound("conversation"))?)?;
            transaction.commit().await?;
            Ok(changed)
        })
        .await
    }

    /// Deletes one of a tenant's conversations with its messages.
    ///
    /// # Errors
    /// The tenant has no conversation with this id.
    pub async fn delete_conversation(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            // Writing first: a transaction of SQLite that has read something fails at its first write, without waiting, if another
            // connection has written meanwhile (SQLITE_BUSY_SNAPSHOT).
            sqlx::query("UPDATE conversations SET tenant_id = tenant_id WHERE conversation_id = $1 AND tenant_id = $2")
                .bind(id)
                .bind(tenant)
                .execute(&mut *transaction)
                .await?;
            keep_usage(&mut transaction, tenant, id).await?;
            let done = sqlx::query("DELETE FROM conversations WHERE conversation_id = $1 AND tenant_id = $2")
                .bind(id)
                .bind(tenant)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            if done.rows_affected() == 0 { Err(StoreError::NotFound("conversation")) } else { Ok(()) }
        })
        .await
    }
}
