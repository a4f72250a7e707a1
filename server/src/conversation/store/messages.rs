//! Messages in the store.

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
    /// Id of the message.
    pub message_id: String,
    /// Id of the conversation.
    pub conversation_id: String,
    /// Number of the message in its conversation, from 1 without gaps.
    pub message_seq: i64,
    /// Type of the message: `user`, or the name of the event it was.
    pub message_type: String,
    /// For `done`, how the run ended; absent otherwise.
    pub message_subtype: Option<String>,
    /// The event's fields; for `user`, `{"text": …}` with the user's input.
    #[schema(value_type = Object)]
    pub content: Value,
    /// Time when the message was added.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

/// The fields of a new message.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// Id of the message.
    pub id: &'a str,
    /// Id of the conversation.
    pub conversation: &'a str,
    /// Type of the message: `user`, or the name of the event it was.
    pub kind: &'a str,
    /// For `done`, how the run ended; absent otherwise.
    pub subtype: Option<&'a str>,
    /// Content, as in [`Message`].
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
    /// Appends a message to a conversation. A message whose id is there already is not added again, and nothing is added to a
    /// conversation that has been deleted.
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

    /// Passes a conversation's messages to `wanted` one by one, the latest first, until it returns `false`.
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
