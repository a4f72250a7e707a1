//! The store of tenants, models, conversations, messages and runs, in SQLite or PostgreSQL. The migrations are part of the binary.

mod configurations;
mod conversations;
mod database;
mod idempotency;
mod key_changes;
mod keys;
mod ledger;
mod messages;
mod models;
mod runs;
mod skills;
mod tenants;
mod transcripts;
mod vaults;

use std::time::Duration;

pub use configurations::{ConfigurationOf, ConfiguredConversation, StoredConfiguration};
pub use conversations::{
    Conversation, ConversationChange, ConversationFilter, ConversationStatus, NewConversation, Page,
};
pub use database::{Database, OpenError};
pub use idempotency::{Attempt, Claim, Claimed, Earlier, KeptAnswer};
pub use key_changes::{KeyChanges, KnownKey};
pub use keys::{ApiKey, KeyChange, MOST_KEYS, NewKey, Scope};
pub use ledger::DayUsage;
pub use messages::{Held, Message, MessagePage, NewMessage};
pub use models::{Model, ModelChange, ModelStatus, NewModel};
pub use runs::{EndedRun, RunTotals};
pub use skills::{NewSkill, Skill};
pub use tenants::{NewTenant, Tenant, TenantChange, TenantStatus};
pub use vaults::{StoredCredential, Vault};

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something that the operation names does not exist.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The operation contradicts existing data.
    #[error("{0}")]
    Conflict(String),
    /// The database failed.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// The database did not answer within this time.
    #[error("the database did not answer within {0:?}")]
    Slow(Duration),
    /// A run's journal, from which messages were to be added, cannot be read.
    #[error("the journal: {0}")]
    Journal(String),
}

/// A connection pool to the database.
#[derive(Debug, Clone)]
pub struct Store(sqlx::AnyPool);

impl Store {
    /// Connects to the database and migrates its schema; creates an SQLite file that does not exist.
    ///
    /// # Errors
    /// The database cannot be used; the error says what to do.
    pub async fn open(database: &Database) -> Result<Self, OpenError> {
        database.connect().await.map(Self)
    }

    /// Checks whether a database can be opened, without changing it.
    ///
    /// # Errors
    /// The database cannot be used; the error says what to do.
    pub async fn check(database: &Database) -> Result<(), OpenError> {
        database.check().await
    }

    /// Checks whether the database answers.
    ///
    /// # Errors
    /// The database does not answer, or failed.
    pub async fn ping(&self) -> Result<(), StoreError> {
        within(async {
            sqlx::query("SELECT 1").execute(&self.0).await?;
            Ok(())
        })
        .await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

impl StoreError {
    /// Whether the same operation may succeed later: the database is unreachable, locked or full.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(error) => database::is_away(error),
            Self::Slow(_) => true,
            Self::NotFound(_) | Self::Conflict(_) | Self::Journal(_) => false,
        }
    }

    /// Whether the database refuses the values themselves, so that the same operation can never succeed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Database(error) if database::is_refusal(error))
    }
}

/// Longest wait for the database. PostgreSQL enforces shorter deadlines itself, but a stopped server or a broken network enforces
/// none.
const DEADLINE: Duration = Duration::from_secs(15);

/// Waits for an operation up to [`DEADLINE`]. sqlx reuses a connection that was abandoned during an answer only after it has read
/// that answer to its end.
async fn within<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, operation).await.unwrap_or(Err(StoreError::Slow(DEADLINE)))
}

/// Runs a statement with RETURNING to its end and returns its row, if any. SQLite commits at the end of the statement, and reports a
/// failed commit only there (sqlite3_step(3)); `fetch_one` stops at the first row.
async fn returned_row(
    statement: sqlx::query::Query<'_, sqlx::Any, sqlx::any::AnyArguments>,
    pool: &sqlx::AnyPool,
) -> sqlx::Result<Option<sqlx::any::AnyRow>> {
    Ok(statement.fetch_all(pool).await?.pop())
}

/// Ids that one statement asks for, at most: both databases limit the number of a statement's parameters.
const MOST_IDS: usize = 500;

/// The numbers of `count` parameters from `first` on, for a list of values in a statement.
fn parameters(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// Microseconds since the epoch, the form in which times are stored.
fn to_micros(time: jiff::Timestamp) -> i64 {
    time.as_microsecond()
}

fn from_micros(micros: i64) -> sqlx::Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Parses a stored word of a closed set, such as a status.
fn word<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> sqlx::Result<T> {
    parse(text).ok_or_else(|| sqlx::Error::Decode(format!("the value {text:?} is not known to this version").into()))
}

/// Maps the error of a write: the key exists already, or the row refers to one that does not exist.
fn on_write(error: sqlx::Error, exists: impl FnOnce() -> String, dangling: &'static str) -> StoreError {
    match error.as_database_error() {
        Some(db) if db.is_unique_violation() => StoreError::Conflict(exists()),
        Some(db) if db.is_foreign_key_violation() => StoreError::NotFound(dangling),
        _ => error.into(),
    }
}

/// Maps the error of a delete: other rows still refer to the row.
fn on_delete(error: sqlx::Error, in_use: &str) -> StoreError {
    match error.as_database_error() {
        Some(db) if db.is_foreign_key_violation() => StoreError::Conflict(in_use.to_owned()),
        _ => error.into(),
    }
}

/// Declares a closed set of words that is stored, sent and received as text.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// The word that stands for the value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            #[doc = "The value that a word stands for."]
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
use words;
