//! State in an SQLite file, for a deployment of one server.

use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqliteConnection};

use super::quarantine::Quarantine;
use super::{PoolSize, Record, State, StateError, WriteOutcome};

/// How long a statement waits for the lock of another process.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);

/// The tables. A record is stored encoded; its conversation has a column of its own, so that the database enforces that no two rooms
/// have the same.
const SCHEMA: &str = "
    DROP TABLE IF EXISTS workspace;
    CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, conversation TEXT UNIQUE, text TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS quarantine (id TEXT NOT NULL, text TEXT NOT NULL, since INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS lock (conversation TEXT PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS pool (one INTEGER PRIMARY KEY CHECK (one = 1), min INTEGER NOT NULL, max INTEGER NOT NULL)
        STRICT;
";

/// The state of this deployment, in a file of the state directory.
#[derive(Debug)]
pub struct Embedded {
    pool: SqlitePool,
    quarantine: Quarantine,
}

impl Embedded {
    /// Opens the file and creates it if it is missing.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub async fn open(path: &Path) -> sqlx::Result<Self> {
        let pool = open_sqlite(path, 1).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool, quarantine: Quarantine::default() })
    }

    /// A state that nothing outlives.
    ///
    /// # Errors
    /// SQLite fails.
    pub async fn in_memory() -> sqlx::Result<Self> {
        // One connection, which stays: each has a database of its own.
        let options = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = options.connect_with(SqliteConnectOptions::new().in_memory(true)).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool, quarantine: Quarantine::default() })
    }

    /// The pool's size in a file that may be another process's, which is not changed; `None` where none is set, or there is no file.
    pub async fn pool_in(path: &Path) -> Option<PoolSize> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_DEADLINE);
        let mut connection = <SqliteConnection as sqlx::Connection>::connect_with(&options).await.ok()?;
        let row = sqlx::query_as::<_, (i64, i64)>("SELECT min, max FROM pool").fetch_optional(&mut connection).await;
        let (min, max) = row.ok()??;
        Some(PoolSize { min: usize::try_from(min).ok()?, max: usize::try_from(max).ok()? })
    }

    /// Decodes a row, or moves it to the quarantine table.
    async fn read(&self, row: sqlx::Result<Option<sqlx::sqlite::SqliteRow>>) -> Result<Option<Record>, StateError> {
        let Some(row) = row? else { return Ok(None) };
        let (id, text): (String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        match Record::decode(&id, &text) {
            Ok(record) => Ok(Some(record)),
            Err(why) => {
                let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query("INSERT INTO quarantine (id, text, since) SELECT id, text, ? FROM record WHERE id = ?")
                    .bind(now_ms())
                    .bind(&id)
                    .execute(&mut *change)
                    .await?;
                sqlx::query("DELETE FROM record WHERE id = ?").bind(&id).execute(&mut *change).await?;
                change.commit().await?;
                self.quarantine.report(&id, &why, "the table quarantine");
                Ok(None)
            }
        }
    }
}

/// Milliseconds since the Unix epoch. A monotonic clock does not do: a lock may outlive the process that acquired it.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn write(change: &mut SqliteConnection, record: &Record) -> sqlx::Result<()> {
    sqlx::query("INSERT OR REPLACE INTO record (id, conversation, text) VALUES (?, ?, ?)")
        .bind(&record.workspace)
        .bind(record.occupant.as_ref().map(|(conversation, _)| conversation))
        .bind(record.encode())
        .execute(change)
        .await
        .map(drop)
}

#[async_trait]
impl State for Embedded {
    async fn ping(&self) -> Result<(), StateError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    async fn epoch(&self) -> Result<String, StateError> {
        // A file loses no records while it is open, so the epoch never changes.
        Ok("file".into())
    }

    async fn records(&self) -> Result<Vec<Record>, StateError> {
        let rows = sqlx::query("SELECT id, CAST(text AS BLOB) FROM record").fetch_all(&self.pool).await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            records.extend(self.read(Ok(Some(row))).await?);
        }
        Ok(records)
    }

    async fn record(&self, workspace: &str) -> Result<Option<Record>, StateError> {
        let query = sqlx::query("SELECT id, CAST(text AS BLOB) FROM record WHERE id = ?").bind(workspace);
        self.read(query.fetch_optional(&self.pool).await).await
    }

    async fn record_by_conversation(&self, conversation: &str) -> Result<Option<Record>, StateError> {
        let query = sqlx::query("SELECT id, CAST(text AS BLOB) FROM record WHERE conversation = ?").bind(conversation);
        let record = self.read(query.fetch_optional(&self.pool).await).await?;
        Ok(record.filter(|record| record.occupant.as_ref().is_some_and(|(theirs, _)| theirs == conversation)))
    }

    async fn compare_and_set(
        &self,
        workspace: &str,
        old: Option<&Record>,
        new: Option<&Record>,
    ) -> Result<WriteOutcome, StateError> {
        // Reading the record first moves one that cannot be decoded to quarantine.
        if old.is_none() && self.record(workspace).await?.is_some() {
            return Ok(WriteOutcome::Conflict);
        }
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query("SELECT text FROM record WHERE id = ?").bind(workspace).fetch_optional(&mut *change);
        let stored = row.await?.map(|row| row.try_get::<String, _>(0)).transpose()?;
        if stored != old.map(Record::encode) {
            return Ok(WriteOutcome::Conflict);
        }
        let Some(new) = new else {
            sqlx::query("DELETE FROM record WHERE id = ?").bind(workspace).execute(&mut *change).await?;
            change.commit().await?;
            return Ok(WriteOutcome::Written);
        };
        if let Some((conversation, _)) = &new.occupant {
            let other = sqlx::query("SELECT 1 FROM record WHERE conversation = ? AND id <> ?");
            let other = other.bind(conversation).bind(workspace).fetch_optional(&mut *change);
            if other.await?.is_some() {
                return Ok(WriteOutcome::ConversationTaken);
            }
        }
        write(&mut change, new).await?;
        change.commit().await?;
        Ok(WriteOutcome::Written)
    }

    async fn refresh(&self, _: &[Record]) -> Result<(), StateError> {
        // Records in a file do not expire; garbage collection deletes those without a room.
        Ok(())
    }

    async fn lock(
        &self,
        conversation: &str,
        holder: &str,
        dead_holder: Option<&str>,
        ttl: Duration,
    ) -> Result<Option<String>, StateError> {
        let now = now_ms();
        let until = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query("SELECT holder FROM lock WHERE conversation = ? AND until > ?");
        let row = row.bind(conversation).bind(now).fetch_optional(&mut *change).await?;
        if let Some(theirs) = row.map(|row| row.try_get::<String, _>(0)).transpose()?
            && theirs != holder
            && dead_holder != Some(theirs.as_str())
        {
            return Ok(Some(theirs));
        }
        sqlx::query("INSERT OR REPLACE INTO lock (conversation, holder, until) VALUES (?, ?, ?)")
            .bind(conversation)
            .bind(holder)
            .bind(until)
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(None)
    }

    async fn unlock(&self, conversation: &str, holder: &str) -> Result<(), StateError> {
        sqlx::query("DELETE FROM lock WHERE (conversation = ? AND holder = ?) OR until <= ?")
            .bind(conversation)
            .bind(holder)
            .bind(now_ms())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn pool(&self) -> Result<Option<PoolSize>, StateError> {
        let row = sqlx::query("SELECT min, max FROM pool").fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (min, max) = (row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?);
        Ok(usize::try_from(min).ok().zip(usize::try_from(max).ok()).map(|(min, max)| PoolSize { min, max }))
    }

    async fn set_pool(&self, size: PoolSize) -> Result<(), StateError> {
        let bounded = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        sqlx::query("INSERT OR REPLACE INTO pool (one, min, max) VALUES (1, ?, ?)")
            .bind(bounded(size.min))
            .bind(bounded(size.max))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    fn quarantined(&self) -> Option<String> {
        self.quarantine.message()
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Opens an SQLite file with the settings of all files of this server: write-ahead log, synced at checkpoints, foreign keys enforced.
///
/// # Errors
/// The file cannot be opened.
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
