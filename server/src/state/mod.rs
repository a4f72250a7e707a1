//! Workspace records: an index over the engine's truth, from which a restarted server learns which room was whose.
//!
//! The engine's labels say which rooms exist; a record only adds what a label cannot hold because it changes: the
//! conversation and the driver's session. A lost record costs a room, never a conversation.

pub mod directory;

use std::path::Path;
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

/// How long a statement waits for another process's lock.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);

/// What is remembered of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The room's id.
    pub workspace: String,
    /// The conversation in it, and its tenant; `None` while it waits in the pool.
    pub occupant: Option<(String, String)>,
    /// Driver's session of the last run in it.
    pub session: Option<String>,
}

/// The records of this deployment, in a file of the state directory.
#[derive(Debug, Clone)]
pub struct Records(SqlitePool);

impl Records {
    /// Opens the file, making it where there is none.
    ///
    /// # Errors
    /// It cannot be opened or written.
    pub async fn open(path: &Path) -> sqlx::Result<Self> {
        let pool = open_sqlite(path, 1).await?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS workspace (
                id TEXT PRIMARY KEY, conversation TEXT UNIQUE, tenant TEXT, session TEXT
            ) STRICT",
        )
        .execute(&pool)
        .await?;
        Ok(Self(pool))
    }

    /// Writes a record, replacing the room's earlier one.
    ///
    /// # Errors
    /// It was not written.
    pub async fn put(&self, record: &Record) -> sqlx::Result<()> {
        let (conversation, tenant) = record.occupant.as_ref().map_or((None, None), |(c, t)| (Some(c), Some(t)));
        sqlx::query("INSERT OR REPLACE INTO workspace (id, conversation, tenant, session) VALUES (?, ?, ?, ?)")
            .bind(&record.workspace)
            .bind(conversation)
            .bind(tenant)
            .bind(&record.session)
            .execute(&self.0)
            .await
            .map(|_| ())
    }

    /// Forgets a room. One that is unknown is fine.
    ///
    /// # Errors
    /// It was not forgotten.
    pub async fn delete(&self, workspace: &str) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM workspace WHERE id = ?").bind(workspace).execute(&self.0).await.map(|_| ())
    }

    /// Every record.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn all(&self) -> sqlx::Result<Vec<Record>> {
        let rows = sqlx::query("SELECT id, conversation, tenant, session FROM workspace").fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                let occupant = row.try_get::<Option<String>, _>(1)?.zip(row.try_get::<Option<String>, _>(2)?);
                Ok(Record { workspace: row.try_get(0)?, occupant, session: row.try_get(3)? })
            })
            .collect()
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

/// Opens an SQLite file with the settings all of ours have: write-ahead log, durable at checkpoints, foreign keys kept.
///
/// # Errors
/// It cannot be opened.
pub async fn open_sqlite(path: &Path, connections: u32) -> sqlx::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(true)
        .busy_timeout(BUSY_DEADLINE);
    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(BUSY_DEADLINE).connect_with(options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_comes_back_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("w.sqlite");
        let record = |id: &str, conversation: Option<&str>| Record {
            workspace: id.into(),
            occupant: conversation.map(|c| (c.into(), "tenant — 長屋".into())),
            session: Some("s".into()),
        };
        let records = Records::open(&path).await.expect("opens");
        records.put(&record("a", None)).await.expect("writes");
        records.put(&record("a", Some("c"))).await.expect("overwrites");
        records.put(&record("b", None)).await.expect("writes");
        records.delete("b").await.expect("deletes");
        records.close().await;
        let again = Records::open(&path).await.expect("opens");
        assert_eq!(again.all().await.expect("reads"), vec![record("a", Some("c"))]);
    }
}
