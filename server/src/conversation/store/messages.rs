//! Messages in the store.

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::Row;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, to_micros, within};

/// Content of one page of messages, in bytes; a page has one message in any case.
const LARGEST_PAGE: i64 = 8 << 20;
/// Messages that a conversation may hold: with more, it gets no further run.
const MOST_MESSAGES: i64 = 100_000;
/// The content of a message whose stored content is not JSON.
const UNREADABLE: &str = r#"{"unreadable":true}"#;
/// Content of all messages of such a conversation, in bytes.
const MOST_BYTES: i64 = 512 << 20;

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
    pub content: Box<RawValue>,
    /// Time when the message was added.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

/// Some of a conversation's messages, in order.
#[derive(Debug, Clone)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<Message>,
    /// Whether the conversation has further messages after these.
    pub more: bool,
}

/// How much a conversation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Number of messages.
    pub messages: i64,
    /// Content of all messages, in bytes.
    pub bytes: i64,
}

impl Held {
    /// Whether that is as much as a conversation may hold.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages >= MOST_MESSAGES || self.bytes >= MOST_BYTES
    }
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

    /// A conversation's messages after number `after`, in order: at most `limit`, and no more than fit into a page.
    ///
    /// # Errors
    /// The database failed.
    pub async fn messages(&self, conversation: &str, after: i64, limit: i64) -> Result<MessagePage, StoreError> {
        within(async {
            // The sizes first, so that no more is read than is returned.
            let sizes = sqlx::query(
                "SELECT message_seq, CAST(OCTET_LENGTH(content) AS BIGINT) AS bytes FROM messages
                 WHERE conversation_id = $1 AND message_seq > $2 ORDER BY message_seq LIMIT $3",
            )
            .bind(conversation)
            .bind(after)
            .bind(limit.saturating_add(1))
            .fetch_all(&self.0)
            .await?;
            let (mut last, mut bytes, mut count) = (after, 0, 0);
            for row in &sizes {
                bytes += row.try_get::<i64, _>("bytes")?;
                if count == limit || (count > 0 && bytes > LARGEST_PAGE) {
                    break;
                }
                (last, count) = (row.try_get("message_seq")?, count + 1);
            }
            let rows = sqlx::query(
                "SELECT * FROM messages WHERE conversation_id = $1 AND message_seq > $2 AND message_seq <= $3
                 ORDER BY message_seq",
            )
            .bind(conversation)
            .bind(after)
            .bind(last)
            .fetch_all(&self.0)
            .await?;
            let messages = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
            Ok(MessagePage { messages, more: i64::try_from(sizes.len()).is_ok_and(|found| found > count) })
        })
        .await
    }

    /// How much a conversation holds.
    ///
    /// # Errors
    /// The database failed.
    pub async fn held(&self, conversation: &str) -> Result<Held, StoreError> {
        within(async {
            let row = sqlx::query(
                "SELECT COUNT(*) AS messages, CAST(COALESCE(SUM(OCTET_LENGTH(content)), 0) AS BIGINT) AS bytes
                 FROM messages WHERE conversation_id = $1",
            )
            .bind(conversation)
            .fetch_one(&self.0)
            .await?;
            Ok(Held { messages: row.try_get("messages")?, bytes: row.try_get("bytes")? })
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
        // One row that cannot be read must not hide the others.
        content: RawValue::from_string(content)
            .or_else(|_| RawValue::from_string(UNREADABLE.to_owned()))
            .map_err(|error| sqlx::Error::Decode(error.into()))?,
        timestamp: from_micros(row.try_get("timestamp")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_full_once_it_has_as_much_as_it_may() {
        let full = |messages, bytes| Held { messages, bytes }.is_full();
        assert!(!full(0, 0) && !full(MOST_MESSAGES - 1, MOST_BYTES - 1));
        assert!(full(MOST_MESSAGES, 0) && full(0, MOST_BYTES));
    }
}
