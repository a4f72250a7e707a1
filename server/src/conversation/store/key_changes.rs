//! What a server reads and writes of keys all the time: which of them have changed, and when they were used.

use jiff::Timestamp;
use sqlx::Row;

use super::keys::read;
use super::{ApiKey, Store, StoreError, to_micros, within};

/// A key with its hash.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// SHA-256 of the key, in hexadecimal digits.
    pub hash: String,
    /// The key.
    pub key: ApiKey,
}

/// What has changed since a server last looked.
#[derive(Debug, Clone, Default)]
pub struct KeyChanges {
    /// Number of the latest change.
    pub changes: i64,
    /// Number of changes that removed keys.
    pub deletions: i64,
    /// Whether an operator's key has ever been created.
    pub required: bool,
    /// Whether `keys` are all keys, and not only those that have changed.
    pub all: bool,
    /// The keys that have changed, revoked and expired ones included.
    pub keys: Vec<KnownKey>,
}

impl Store {
    /// What has changed since the given numbers of [`KeyChanges`]; everything, if keys were removed meanwhile or `seen` is `None`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn key_changes(&self, seen: Option<(i64, i64)>) -> Result<KeyChanges, StoreError> {
        within(async {
            // Without a transaction: a change between the two statements is read now and once more at the next look.
            let row = sqlx::query("SELECT changes, deletions, required FROM api_key_state WHERE id = 1");
            let row = row.fetch_one(&self.0).await?;
            let (changes, deletions): (i64, i64) = (row.try_get("changes")?, row.try_get("deletions")?);
            let since = seen.filter(|(_, before)| *before == deletions).map(|(changes, _)| changes);
            let required = row.try_get::<i64, _>("required")? != 0;
            let mut found = KeyChanges { changes, deletions, required, all: since.is_none(), keys: Vec::new() };
            if since != Some(changes) {
                let rows = sqlx::query("SELECT * FROM api_keys WHERE change > $1");
                for row in &rows.bind(since.unwrap_or(-1)).fetch_all(&self.0).await? {
                    found.keys.push(KnownKey { hash: row.try_get("hash")?, key: read(row)? });
                }
            }
            Ok(found)
        })
        .await
    }

    /// Writes down when keys were last used. Servers may do this in any order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keys_used(&self, uses: &[(String, Timestamp)]) -> Result<(), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            for (id, at) in uses {
                let update = sqlx::query(
                    "UPDATE api_keys SET last_used_at = $2 WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
                );
                update.bind(id).bind(to_micros(*at)).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}
