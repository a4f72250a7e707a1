//! What is kept of tenants, models, conversations and messages: one query layer, migrations in the binary.

mod conversations;
mod database;
mod messages;
mod models;
mod runs;
mod tenants;

use std::time::Duration;

pub use conversations::{
    Conversation, ConversationChange, ConversationFilter, ConversationStatus, NewConversation, Page,
};
pub use database::{Database, OpenError};
pub use messages::{Message, NewMessage};
pub use models::{Model, ModelChange, ModelStatus, NewModel};
pub use runs::{EndedRun, RunTotals};
pub use tenants::{NewTenant, Tenant, TenantChange, TenantStatus};

/// Why a question to the store has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It names something that is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// It does not go together with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The database failed.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// It has not answered for so long.
    #[error("the database has not answered within {0:?}")]
    Slow(Duration),
    /// What was to be kept cannot be read.
    #[error("the journal: {0}")]
    Journal(String),
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store(sqlx::AnyPool);

impl Store {
    /// Connects to the database, making it where it is a file that is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// It cannot be used, and what to do about it.
    pub async fn open(database: &Database) -> Result<Self, OpenError> {
        database.connect().await.map(Self)
    }

    /// Whether a database could be opened, without a change to it.
    ///
    /// # Errors
    /// It could not, and what to do about it.
    pub async fn look(database: &Database) -> Result<(), OpenError> {
        database.look().await
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
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
    /// Whether the same question may have an answer later: the database is away, locked or full.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(error) => database::is_away(error),
            Self::Slow(_) => true,
            Self::NotFound(_) | Self::Conflict(_) | Self::Journal(_) => false,
        }
    }
}

/// How long an answer of the database is waited for. It keeps deadlines of its own, which are shorter; one that stands still, or a
/// network that swallows everything, keeps none.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// What the database answers, if it does so in time. A connection that is given up in the middle of an answer is not used again
/// before it has been read to its end.
async fn within<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(LONGEST_WAIT, answer).await.unwrap_or(Err(StoreError::Slow(LONGEST_WAIT)))
}

/// The row that a statement with RETURNING gives, if any, once the statement is at its end: SQLite commits only there, and only there
/// tells that it could not (sqlite3_step(3)). `fetch_one` looks no further than the row.
async fn written(
    statement: sqlx::query::Query<'_, sqlx::Any, sqlx::any::AnyArguments>,
    pool: &sqlx::AnyPool,
) -> sqlx::Result<Option<sqlx::any::AnyRow>> {
    Ok(statement.fetch_all(pool).await?.pop())
}

/// Microseconds since the epoch, as times are kept.
fn to_micros(time: jiff::Timestamp) -> i64 {
    time.as_microsecond()
}

fn from_micros(micros: i64) -> sqlx::Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Reads a status or another word out of a closed set.
fn word<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> sqlx::Result<T> {
    parse(text).ok_or_else(|| sqlx::Error::Decode(format!("{text:?} is not a word this version knows").into()))
}

/// The fault of an insert: a row with this key is there, or it refers to one that is not.
fn on_write(error: sqlx::Error, exists: impl FnOnce() -> String, dangling: &'static str) -> StoreError {
    match error.as_database_error() {
        Some(db) if db.is_unique_violation() => StoreError::Conflict(exists()),
        Some(db) if db.is_foreign_key_violation() => StoreError::NotFound(dangling),
        _ => error.into(),
    }
}

/// The fault of a delete: others still refer to the row.
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
            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
use words;
