//! The log in PostgreSQL, where every server of the deployment can read it.
//!
//! A run has one owner, a server, and only the owner adds to its journal: each transaction that adds lines holds the rows of their runs and
//! leaves out those of other owners. So a server that was taken for dead can add nothing once another one has claimed its run.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::line::{EventLine, NOTE};

/// Connections: one adds lines, the others read.
const CONNECTIONS: u32 = 4;
/// How long a connection is waited for, and a statement or a transaction.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(15);
/// Bytes of lines that are read at a time.
const PAGE_BYTES: i64 = 4 << 20;
/// Additions that make one transaction, and their bytes.
const TOGETHER: usize = 1_000;
const TOGETHER_BYTES: usize = 4 << 20;
/// Events that are only of use while they are new; they are removed from a run once the next one has ended.
pub(super) const PASSING: [&str; 3] = ["text_delta", "ping", "progress"];

/// The log in PostgreSQL.
#[derive(Debug)]
pub struct SharedLog {
    pool: PgPool,
    owner: String,
    additions: mpsc::UnboundedSender<Addition>,
    adding: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

/// A run in the shared log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedRun {
    /// Id of the conversation.
    pub conversation: String,
    /// Id of the run.
    pub run_id: String,
    /// Id of the server process that adds to it.
    pub owner: String,
    /// Whether it has ended and is in the database.
    pub settled: bool,
}

/// Why the shared log did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SharedError {
    /// The run belongs to another server.
    #[error("the run belongs to another server")]
    Lost,
    /// The run is another server's or settled, or its conversation is deleted.
    #[error("the run is another one's, or its conversation is deleted")]
    Refused,
    /// The database does not answer in time.
    #[error("the database does not answer in time")]
    Slow,
    /// The database failed.
    #[error("{0}")]
    Failed(String),
}

impl From<sqlx::Error> for SharedError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SharedError> for std::io::Error {
    fn from(error: SharedError) -> Self {
        Self::other(format!("the shared log: {error}"))
    }
}

#[derive(Debug)]
struct Addition {
    run: Arc<str>,
    first: u64,
    lines: Vec<u8>,
    done: oneshot::Sender<Result<(), SharedError>>,
}

/// Lines that are being added.
pub(super) struct Added(oneshot::Receiver<Result<(), SharedError>>);

impl Added {
    pub(super) async fn wait(&mut self) -> Result<(), SharedError> {
        (&mut self.0).await.unwrap_or_else(|_| Err(SharedError::Failed("the log is closed".into())))
    }
}

impl SharedLog {
    /// Connects to the database at `url`, whose schema is up to date. `owner` is the id of this server process.
    ///
    /// # Errors
    /// The address is none of PostgreSQL.
    pub fn open(url: &str, owner: &str) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        let pool =
            PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE).connect_lazy_with(options);
        let (additions, receiver) = mpsc::unbounded_channel();
        let adding = tokio::spawn(add_all(pool.clone(), owner.to_owned(), receiver));
        Ok(Self { pool, owner: owner.to_owned(), additions, adding: parking_lot::Mutex::new(Some(adding)) })
    }

    /// Closes the connections. What is added afterwards fails.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Some(adding) = self.adding.lock().take() {
            adding.abort();
        }
    }

    /// Id of this server process.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A run begins; it is this server's.
    ///
    /// # Errors
    /// The database failed, or knows the run already.
    pub async fn begin(&self, conversation: &str, run_id: &str) -> Result<(), SharedError> {
        within(async {
            let begun = sqlx::query(
                "INSERT INTO log_runs (run_id, conversation_id, owner) SELECT $1, conversation_id, $3
                 FROM conversations WHERE conversation_id = $2
                 ON CONFLICT (run_id) DO UPDATE SET owner = $3 WHERE log_runs.owner = $3 AND NOT log_runs.settled",
            );
            let begun = begun.bind(run_id).bind(conversation).bind(&self.owner).execute(&self.pool).await?;
            match begun.rows_affected() {
                0 => Err(SharedError::Refused),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Adds lines, of which `first` is the number of the first one; lines with numbers that are there already are not added again. They are
    /// added in the order of the calls.
    pub(super) fn add(&self, run: &str, first: u64, lines: Vec<u8>) -> Added {
        let (done, added) = oneshot::channel();
        // If nobody receives it, `done` is dropped, which says so.
        drop(self.additions.send(Addition { run: run.into(), first, lines, done }));
        Added(added)
    }

    /// Removes a run of this server that did not begin.
    pub(super) async fn withdraw(&self, run: &str) -> Result<(), SharedError> {
        within(async {
            let removed = sqlx::query("DELETE FROM log_runs WHERE run_id = $1 AND owner = $2 AND NOT settled");
            removed.bind(run).bind(&self.owner).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Number of lines of an unsettled run of this server's, from its beginning without a gap. What follows a gap is removed: a server that
    /// died may have added later lines before earlier ones, and it is not known what is missing.
    pub(super) async fn complete(&self, run: &str) -> Result<u64, SharedError> {
        within(async {
            let count: Option<i64> = sqlx::query_scalar(
                "SELECT MIN(n) FROM (SELECT line + 1 AS n FROM log_lines WHERE run_id = $1 UNION ALL SELECT 0::BIGINT) numbers
                 WHERE NOT EXISTS (SELECT 1 FROM log_lines l WHERE l.run_id = $1 AND l.line = n)",
            )
            .bind(run)
            .fetch_one(&self.pool)
            .await?;
            let cut = sqlx::query(
                "DELETE FROM log_lines l USING log_runs r
                 WHERE r.run_id = $1 AND r.owner = $2 AND NOT r.settled AND l.run_id = r.run_id AND l.line >= $3",
            );
            let cut = cut.bind(run).bind(&self.owner).bind(count).execute(&self.pool).await?.rows_affected();
            if cut > 0 {
                tracing::warn!(run, lines = cut, "lines after a gap in the shared log were removed");
            }
            Ok(count.unwrap_or(0).unsigned_abs())
        })
        .await
    }

    /// Lines of a run from number `from` on: at most `most`, and no more than fit into [`PAGE_BYTES`], but one in any case.
    pub(super) async fn lines(&self, run: &str, from: u64, most: u32) -> Result<Vec<(u64, String)>, SharedError> {
        within(async {
            let from = i64::try_from(from).unwrap_or(i64::MAX);
            // The sizes first, so that no more is read than is returned.
            let sizes: Vec<(i64, i32)> = sqlx::query_as(
                "SELECT line, OCTET_LENGTH(text) FROM log_lines WHERE run_id = $1 AND line >= $2 ORDER BY line LIMIT $3",
            )
            .bind(run)
            .bind(from)
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            let mut bytes = 0;
            let fitting = sizes.iter().take_while(|(_, size)| {
                let first = bytes == 0;
                bytes += i64::from(*size);
                first || bytes <= PAGE_BYTES
            });
            let Some((last, _)) = fitting.last() else { return Ok(Vec::new()) };
            let rows: Vec<(i64, String)> = sqlx::query_as(
                "SELECT line, text FROM log_lines WHERE run_id = $1 AND line >= $2 AND line <= $3 ORDER BY line",
            )
            .bind(run)
            .bind(from)
            .bind(last)
            .fetch_all(&self.pool)
            .await?;
            Ok(rows.into_iter().map(|(line, text)| (line.unsigned_abs(), text)).collect())
        })
        .await
    }

    /// A conversation's current or last run.
    ///
    /// # Errors
    /// The database failed.
    pub async fn latest(&self, conversation: &str) -> Result<Option<SharedRun>, SharedError> {
        within(async {
            let found = runs("WHERE conversation_id = $1 ORDER BY run_id DESC LIMIT 1").bind(conversation);
            Ok(found.fetch_optional(&self.pool).await?.map(SharedRun::from))
        })
        .await
    }

    /// A run.
    pub(super) async fn run(&self, run_id: &str) -> Result<Option<SharedRun>, SharedError> {
        within(async {
            let found = runs("WHERE run_id = $1").bind(run_id).fetch_optional(&self.pool).await?;
            Ok(found.map(SharedRun::from))
        })
        .await
    }

    /// Runs of a conversation from `from` on, in order, at most `most`.
    pub(super) async fn runs_from(
        &self,
        conversation: &str,
        from: &str,
        most: u32,
    ) -> Result<Vec<String>, SharedError> {
        within(async {
            let found = runs("WHERE conversation_id = $1 AND run_id >= $2 ORDER BY run_id LIMIT $3");
            let found = found.bind(conversation).bind(from).bind(i64::from(most)).fetch_all(&self.pool).await?;
            Ok(found.into_iter().map(|(_, run_id, ..)| run_id).collect())
        })
        .await
    }

    /// The runs that are not settled, of all servers.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unsettled(&self) -> Result<Vec<SharedRun>, SharedError> {
        within(async {
            let found = runs("WHERE NOT settled ORDER BY run_id");
            Ok(found.fetch_all(&self.pool).await?.into_iter().map(SharedRun::from).collect())
        })
        .await
    }

    /// Makes a run this server's that was `owner`'s; `false` if it is another one's by now, or settled.
    pub(super) async fn claim(&self, run: &str, owner: &str) -> Result<bool, SharedError> {
        within(async {
            let claimed =
                sqlx::query("UPDATE log_runs SET owner = $3 WHERE run_id = $1 AND owner = $2 AND NOT settled");
            let claimed = claimed.bind(run).bind(owner).bind(&self.owner).execute(&self.pool).await?;
            Ok(claimed.rows_affected() == 1)
        })
        .await
    }

    /// A run has ended and is in the database. What is only of use while it is new is removed from the runs before it.
    pub(super) async fn settle(&self, conversation: &str, run: &str) -> Result<(), SharedError> {
        within(async {
            let settled = sqlx::query(
                "UPDATE log_runs SET settled = TRUE, settled_at = now(), bytes =
                    (SELECT COALESCE(SUM(OCTET_LENGTH(text)), 0) FROM log_lines WHERE run_id = $1)
                 WHERE run_id = $1 AND owner = $2",
            );
            settled.bind(run).bind(&self.owner).execute(&self.pool).await?;
            let mut transaction = self.pool.begin().await?;
            let earlier: Vec<String> = sqlx::query_scalar(
                "UPDATE log_runs SET compacted = TRUE
                 WHERE conversation_id = $1 AND run_id < $2 AND settled AND NOT compacted RETURNING run_id",
            )
            .bind(conversation)
            .bind(run)
            .fetch_all(&mut *transaction)
            .await?;
            let shortened = sqlx::query(
                "WITH gone AS (DELETE FROM log_lines WHERE run_id = ANY($1) AND event = ANY($2)
                               RETURNING run_id, OCTET_LENGTH(text) AS size)
                 UPDATE log_runs r SET bytes = r.bytes - g.size
                 FROM (SELECT run_id, SUM(size)::BIGINT AS size FROM gone GROUP BY run_id) g WHERE r.run_id = g.run_id",
            );
            let passing = PASSING.map(str::to_owned).to_vec();
            shortened.bind(earlier).bind(passing).execute(&mut *transaction).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Removes runs that have ended longer ago than this, and more where the others have more bytes: the oldest of the tenant that has most.
    /// They are removed some at a time, because each may have many lines.
    pub(super) async fn forget(&self, older_than: Duration, most: u64) -> Result<(), SharedError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let seconds = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX).min(3_000_000_000);
        loop {
            let removed = sqlx::query(
                "DELETE FROM log_runs WHERE run_id IN (SELECT run_id FROM log_runs
                 WHERE settled AND settled_at < now() - $1 * INTERVAL '1 second' LIMIT 5)",
            );
            if removed.bind(seconds).execute(&self.pool).await?.rows_affected() == 0 {
                break;
            }
        }
        loop {
            let removed = sqlx::query(
                "WITH sizes AS (SELECT c.tenant_id, SUM(r.bytes)::BIGINT AS bytes FROM log_runs r JOIN conversations c USING (conversation_id)
                                WHERE r.settled GROUP BY c.tenant_id)
                 DELETE FROM log_runs WHERE (SELECT SUM(bytes)::BIGINT FROM sizes) > $1 AND run_id IN
                    (SELECT r.run_id FROM log_runs r JOIN conversations c USING (conversation_id)
                     WHERE r.settled AND c.tenant_id = (SELECT tenant_id FROM sizes ORDER BY bytes DESC LIMIT 1)
                     ORDER BY r.settled_at, r.run_id LIMIT 5)",
            );
            if removed.bind(most).execute(&self.pool).await?.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    /// Which of these conversations do not exist any more.
    pub(super) async fn deleted_among(&self, conversations: Vec<String>) -> Result<Vec<String>, SharedError> {
        within(async {
            let deleted = "SELECT id FROM UNNEST($1::TEXT[]) AS id
                           WHERE NOT EXISTS (SELECT 1 FROM conversations c WHERE c.conversation_id = id)";
            Ok(sqlx::query_scalar(deleted).bind(conversations).fetch_all(&self.pool).await?)
        })
        .await
    }

    /// Removes a conversation's runs, one at a time.
    ///
    /// # Errors
    /// The database failed.
    pub async fn remove(&self, conversation: &str) -> Result<(), SharedError> {
        loop {
            let removed = sqlx::query(
                "DELETE FROM log_runs WHERE run_id = (SELECT run_id FROM log_runs WHERE conversation_id = $1 LIMIT 1)",
            );
            if removed.bind(conversation).execute(&self.pool).await?.rows_affected() == 0 {
                return Ok(());
            }
        }
    }
}

/// Ends what the database does not do in time, for example because its host has gone.
async fn within<T>(work: impl Future<Output = Result<T, SharedError>>) -> Result<T, SharedError> {
    tokio::time::timeout(LONGEST, work).await.unwrap_or(Err(SharedError::Slow))
}

type Row = (String, String, String, bool);

fn runs(which: &'static str) -> sqlx::query::QueryAs<'static, sqlx::Postgres, Row, sqlx::postgres::PgArguments> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT conversation_id, run_id, owner, settled FROM log_runs {which}")))
}

impl From<Row> for SharedRun {
    fn from((conversation, run_id, owner, settled): Row) -> Self {
        Self { conversation, run_id, owner, settled }
    }
}

/// Adds what arrives, as much as has arrived in one transaction.
async fn add_all(pool: PgPool, owner: String, mut additions: mpsc::UnboundedReceiver<Addition>) {
    let mut batch = Vec::new();
    let mut held: Option<Addition> = None;
    loop {
        match held.take() {
            Some(addition) => batch.push(addition),
            None => match additions.recv().await {
                Some(addition) => batch.push(addition),
                None => return,
            },
        }
        batch.retain(|addition: &Addition| !addition.done.is_closed());
        let mut bytes = batch.iter().map(|addition| addition.lines.len()).sum::<usize>();
        while batch.len() < TOGETHER && bytes < TOGETHER_BYTES {
            let Ok(addition) = additions.try_recv() else { break };
            bytes += addition.lines.len();
            batch.push(addition);
        }
        if batch.is_empty() {
            continue;
        }
        let added = within(add_batch(&pool, &owner, &batch)).await;
        for Addition { run, done, .. } in batch.drain(..) {
            let result = match &added {
                Ok(owned) if owned.contains_key(&*run) => Ok(()),
                Ok(_) => Err(SharedError::Lost),
                Err(error) => Err(error.clone()),
            };
            // Whoever waited may have given up.
            drop(done.send(result));
        }
    }
}

/// Adds lines of this server's runs, and returns which are its own.
async fn add_batch(pool: &PgPool, owner: &str, batch: &[Addition]) -> Result<HashMap<String, ()>, SharedError> {
    let mut named: Vec<String> = batch.iter().map(|addition| addition.run.to_string()).collect();
    named.sort_unstable();
    named.dedup();
    let (mut runs, mut numbers, mut events, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Addition { run, first, lines, .. } in batch {
        let text = std::str::from_utf8(lines).map_err(|error| SharedError::Failed(error.to_string()))?;
        for (number, line) in (*first..).zip(text.lines()) {
            runs.push(run.to_string());
            numbers.push(i64::try_from(number).unwrap_or(i64::MAX));
            let event = EventLine::parse(line).filter(|_| line.as_bytes().first() != Some(&NOTE));
            events.push(event.map_or_else(String::new, |event| event.name.to_owned()));
            texts.push(line.to_owned());
        }
    }
    // One statement is one transaction and one round trip, where four would take most of the time.
    let owned: Vec<(String,)> = sqlx::query_as(
        "WITH owned AS MATERIALIZED (
             SELECT run_id FROM log_runs WHERE run_id = ANY($1) AND owner = $2 ORDER BY run_id FOR SHARE
         ), added AS (
             INSERT INTO log_lines (run_id, line, event, text)
             SELECT new.run_id, new.line, new.event, new.text
             FROM UNNEST($3::text[], $4::bigint[], $5::text[], $6::text[]) AS new (run_id, line, event, text)
             WHERE new.run_id IN (SELECT run_id FROM owned)
             ON CONFLICT (run_id, line) DO NOTHING
         )
         SELECT run_id FROM owned",
    )
    .bind(&named)
    .bind(owner)
    .bind(runs)
    .bind(numbers)
    .bind(events)
    .bind(texts)
    .fetch_all(pool)
    .await?;
    Ok(owned.into_iter().map(|(run,)| (run, ())).collect())
}
