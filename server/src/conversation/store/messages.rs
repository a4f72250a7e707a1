//! Messages.

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, to_micros, within};

/// One message of a conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Message {
    /// Its id.
    pub message_id: String,
    /// The conversation.
    pub conversation_id: String,
    /// From 1, without gaps.
    pub message_seq: i64,
    /// `user`, or the name of the event it was.
    pub message_type: String,
    /// How a `done` ended.
    pub message_subtype: Option<String>,
    /// The event's fields; for `user`, `{"text": …}`.
    #[schema(value_type = Object)]
    pub content: Value,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

/// What makes a message.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// Its id.
    pub id: &'a str,
    /// The conversation.
    pub conversation: &'a str,
    /// `user`, or the name of the event it was.
    pub kind: &'a str,
    /// How a `done` ended.
    pub subtype: Option<&'a str>,
    /// As in [`Message`].
    pub content: &'a Value,
}

pub(super) async fn add<'e>(
    database: impl sqlx::Executor<'e, Database = sqlx::Any>,
    new: NewMessage<'_>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO messages (message_id, conversation_id, message_seq, message_type, message_subtype, content, timestamp)
         SELECT $1, conversation_id,
                (SELECT COALESCE(MAX(message_seq), 0) + 1 FROM messages WHERE conversation_id = $2), $3, $4, $5, $6
         FROM conversations WHERE conversation_id = $2
         ON CONFLICT (message_id) DO NOTHING",
    )
    .bind(new.id)
    .bind(new.conversation)
    .bind(new.kind)
    .bind(new.subtype)
    .bind(new.content.to_string())
    .bind(to_micros(Timestamp::now()))
    .execute(database)
    .await
    .map(|_| ())
}

impl Store {
    /// Adds a message to the end of a conversation, once however often it is told to: its id says which it is. To a
    /// conversation that was deleted meanwhile, nothing is added.
    ///
    /// # Errors
    /// The database failed.
    pub async fn add_message(&self, new: NewMessage<'_>) -> Result<(), StoreError> {
        within(async {
            add(&self.0, new).await?;
            Ok(())
        })
        .await
    }

    /// All messages of a conversation, in order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn messages(&self, conversation: &str) -> Result<Vec<Message>, StoreError> {
        within(async {
            let rows = sqlx::query("SELECT * FROM messages WHERE conversation_id = $1 ORDER BY message_seq")
                .bind(conversation)
                .fetch_all(&self.0)
                .await?;
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// A conversation's messages one by one, the latest first, for as long as `wanted` says so.
    ///
    /// # Errors
    /// The database failed.
    pub async fn each_latest_message(
        &self,
        conversation: &str,
        mut wanted: impl FnMut(Message) -> bool,
    ) -> Result<(), StoreError> {
        within(async {
            let mut rows = sqlx::query("SELECT * FROM messages WHERE conversation_id = $1 ORDER BY message_seq DESC")
                .bind(conversation)
                .fetch(&self.0);
            while let Some(row) = rows.try_next().await? {
                if !wanted(read(&row)?) {
                    break;
                }
            }
            Ok(())
        })
        .await
    }
}

fn read(row: &sqlx::any::AnyRow) -> sqlx::Result<Message> {
    let content: String = row.try_get("content")?;
    Ok(Message {
        message_id: row.try_get("message_id")?,
        conversation_id: row.try_get("conversation_id")?,
        message_seq: row.try_get("message_seq")?,
        message_type: row.try_get("message_type")?,
        message_subtype: row.try_get("message_subtype")?,
        content: serde_json::from_str(&content).map_err(|error| sqlx::Error::Decode(error.into()))?,
        timestamp: from_micros(row.try_get("timestamp")?)?,
    })
}
