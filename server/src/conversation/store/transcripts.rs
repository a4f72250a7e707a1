//! The drivers' own memory of conversations in the store: what a driver has reported of its transcript, in order.

use sqlx::Row;

use super::{Store, StoreError, within};

/// Bytes of one conversation's transcript. A longer one is not kept: the next session is then told the messages instead.
const MOST_BYTES: i64 = 64 << 20;
/// What a part takes beside its text, in bytes.
const ROW: usize = 64;

impl Store {
    /// Forgets a conversation's transcript: it belongs to a session that is not continued.
    ///
    /// # Errors
    /// The database failed.
    pub async fn forget_transcript(&self, conversation: &str) -> Result<(), StoreError> {
        within(async {
            sqlx::query("DELETE FROM transcripts WHERE conversation_id = $1")
                .bind(conversation)
                .execute(&self.0)
                .await?;
            Ok(())
        })
        .await
    }

    /// Adds lines to a conversation's transcript: the file of each part, and its lines. Nothing is added to a transcript that is too
    /// long, or [broken](Store::break_transcript), until it is forgotten.
    ///
    /// # Errors
    /// The database failed; nothing was added.
    pub async fn add_transcript(&self, conversation: &str, parts: &[(String, String)]) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            begin(&mut transaction, conversation).await?;
            for (file, lines) in parts {
                let bytes = i64::try_from(file.len() + lines.len() + ROW).unwrap_or(MOST_BYTES);
                let numbered = sqlx::query(
                    "UPDATE transcripts SET parts = parts + 1, bytes = bytes + $2
                     WHERE conversation_id = $1 AND bytes <= $3 RETURNING parts, bytes",
                );
                let numbered = numbered.bind(conversation).bind(bytes).bind(MOST_BYTES).fetch_all(&mut *transaction);
                // There is none if it is too long, or if the conversation has been deleted.
                let Some(row) = numbered.await?.pop() else { break };
                if row.try_get::<i64, _>("bytes")? > MOST_BYTES {
                    remove_parts(&mut transaction, conversation).await?;
                    break;
                }
                sqlx::query(
                    "INSERT INTO transcript_parts (conversation_id, number, file, lines) VALUES ($1, $2, $3, $4)",
                )
                .bind(conversation)
                .bind(row.try_get::<i64, _>("parts")?)
                .bind(file)
                .bind(lines)
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// Something of a conversation's transcript is missing: nothing of it is kept until another one begins.
    ///
    /// # Errors
    /// The database failed.
    pub async fn break_transcript(&self, conversation: &str) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            begin(&mut transaction, conversation).await?;
            sqlx::query("UPDATE transcripts SET bytes = $2 + 1 WHERE conversation_id = $1")
                .bind(conversation)
                .bind(MOST_BYTES)
                .execute(&mut *transaction)
                .await?;
            remove_parts(&mut transaction, conversation).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// A conversation's transcript in the order in which it was added; empty where none is kept.
    ///
    /// # Errors
    /// The database failed.
    pub async fn transcript(&self, conversation: &str) -> Result<Vec<(String, String)>, StoreError> {
        within(async {
            let rows =
                sqlx::query("SELECT file, lines FROM transcript_parts WHERE conversation_id = $1 ORDER BY number")
                    .bind(conversation)
                    .fetch_all(&self.0)
                    .await?;
            let part = |row: &sqlx::any::AnyRow| Ok((row.try_get("file")?, row.try_get("lines")?));
            Ok(rows.iter().map(part).collect::<sqlx::Result<_>>()?)
        })
        .await
    }
}

type Transaction<'a> = sqlx::Transaction<'a, sqlx::Any>;

async fn begin(transaction: &mut Transaction<'_>, conversation: &str) -> sqlx::Result<()> {
    let begun = sqlx::query(
        "INSERT INTO transcripts (conversation_id, bytes, parts)
         SELECT conversation_id, 0, 0 FROM conversations WHERE conversation_id = $1
         ON CONFLICT (conversation_id) DO NOTHING",
    );
    begun.bind(conversation).execute(&mut **transaction).await.map(drop)
}

async fn remove_parts(transaction: &mut Transaction<'_>, conversation: &str) -> sqlx::Result<()> {
    let removed = sqlx::query("DELETE FROM transcript_parts WHERE conversation_id = $1");
    removed.bind(conversation).execute(&mut **transaction).await.map(drop)
}
