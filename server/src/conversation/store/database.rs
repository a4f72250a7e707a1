//! The database's address, the connection to it, and the meaning of its errors.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sqlx::SqlSafeStr;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyPool, Executor};
use url::Url;

/// How long a statement waits for a connection, and for another transaction's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts to lock an SQLite file for its migration.
const PAUSE: Duration = Duration::from_millis(10);
/// How long PostgreSQL may work on one statement; none is expected to take a tenth of that.
const LONGEST_STATEMENT: Duration = Duration::from_secs(10);
/// Connections to an SQLite file, which allows one writer at a time; the others can read.
const SQLITE_CONNECTIONS: u32 = 4;
/// Connections to PostgreSQL, which allows a hundred to all clients together by default (max_connections).
const POSTGRES_CONNECTIONS: u32 = 16;

static SQLITE_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (1, "initial", include_str!("../../../migrations/sqlite/0001_initial.sql")),
        (2, "runs", include_str!("../../../migrations/sqlite/0002_runs.sql")),
        (3, "ledger", include_str!("../../../migrations/sqlite/0003_ledger.sql")),
        (4, "keys", include_str!("../../../migrations/sqlite/0004_keys.sql")),
        (5, "idempotency", include_str!("../../../migrations/sqlite/0005_idempotency.sql")),
        (6, "tenancy", include_str!("../../../migrations/sqlite/0006_tenancy.sql")),
        (7, "providers", include_str!("../../../migrations/sqlite/0007_providers.sql")),
        (8, "log", include_str!("../../../migrations/sqlite/0008_log.sql")),
        (9, "skills", include_str!("../../../migrations/sqlite/0009_skills.sql")),
    ])
});
static POSTGRES_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (1, "initial", include_str!("../../../migrations/postgres/0001_initial.sql")),
        (2, "runs", include_str!("../../../migrations/postgres/0002_runs.sql")),
        (3, "ledger", include_str!("../../../migrations/postgres/0003_ledger.sql")),
        (4, "keys", include_str!("../../../migrations/postgres/0004_keys.sql")),
        (5, "idempotency", include_str!("../../../migrations/postgres/0005_idempotency.sql")),
        (6, "tenancy", include_str!("../../../migrations/postgres/0006_tenancy.sql")),
        (7, "providers", include_str!("../../../migrations/postgres/0007_providers.sql")),
        (8, "log", include_str!("../../../migrations/postgres/0008_log.sql")),
        (9, "skills", include_str!("../../../migrations/postgres/0009_skills.sql")),
    ])
});

/// The migrations of these versions, names and statements. `sqlx::migrate!` would do the same at the price of compiling SQLx, SQLite
/// and PostgreSQL a second time, for the macro.
fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|(version, name, sql)| {
        let (name, sql) = (Cow::Borrowed(*name), sql.into_sql_str());
        Migration::new(*version, name, MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Address of the database.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// PostgreSQL, at this URL, which may contain a password. Neither `Debug` nor `Display` shows it.
    Postgres(Url),
}

impl FromStr for Database {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ACCEPTED: &str = "accepted: sqlite:///absolute/path, postgres://user:password@host:port/database, \
                                or nothing for a file in STATE_DIR";
        if let Some(path) = text.strip_prefix("sqlite://") {
            return if path.starts_with('/') { Ok(Self::Sqlite(path.into())) } else { Err(ACCEPTED) };
        }
        let url: Url = text.parse().map_err(|_| ACCEPTED)?;
        match url.scheme() {
            "postgres" | "postgresql" if url.path().len() > 1 => Ok(Self::Postgres(url)),
            _ => Err(ACCEPTED),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{path:?}"),
            Self::Postgres(url) => {
                let host = url.host_str().unwrap_or("(socket)");
                write!(f, "postgres://{host}:{}{}", url.port().unwrap_or(5432), url.path())
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why the database cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server rejects the user or the password.
    #[error("it rejects the user or password of DATABASE_URL ({0}); correct them, or the server's pg_hba.conf")]
    Refused(sqlx::Error),
    /// The server answers, but the database does not exist.
    #[error("the database does not exist ({0}); create it with createdb, or name another one in DATABASE_URL")]
    Missing(sqlx::Error),
    /// The server does not answer.
    #[error("it does not answer ({0}); start it, or correct DATABASE_URL")]
    Away(sqlx::Error),
    /// The database failed in another way.
    #[error(transparent)]
    Database(sqlx::Error),
    /// The schema was migrated by a newer version of this server.
    #[error(
        "its schema comes from a newer version of this server (migration {0} is not known to this one); start that version, or restore a backup"
    )]
    Newer(i64),
    /// The schema cannot be migrated.
    #[error("its schema cannot be migrated: {0}")]
    Schema(MigrateError),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error).as_deref() {
            Some("28P01" | "28000") => Self::Refused(error),
            Some("3D000") => Self::Missing(error),
            _ if is_away(&error) => Self::Away(error),
            _ => Self::Database(error),
        }
    }
}

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer(version),
            MigrateError::Execute(error) => error.into(),
            other => Self::Schema(other),
        }
    }
}

impl Database {
    /// Checks whether the database can be used, without changing it. A missing SQLite file is fine: the start creates it.
    pub(super) async fn check(&self) -> Result<(), OpenError> {
        sqlx::any::install_default_drivers();
        let (url, known) = match self {
            Self::Sqlite(path) if !path.exists() => return Ok(()),
            Self::Sqlite(path) => (file_url(path, "ro")?, &SQLITE_MIGRATIONS),
            Self::Postgres(url) => (with_deadlines(url.clone()).into(), &POSTGRES_MIGRATIONS),
        };
        let mut connection = connect_once(&url).await?;
        let newest = sqlx::query_scalar::<_, Option<i64>>("SELECT MAX(version) FROM _sqlx_migrations");
        let newest = match newest.fetch_one(&mut connection).await {
            Err(error) if is_away(&error) => return Err(error.into()),
            // There is no schema yet.
            Err(_) => None,
            Ok(newest) => newest,
        };
        sqlx::Connection::close(connection).await?;
        match newest.filter(|newest| !known.version_exists(*newest)) {
            Some(newest) => Err(OpenError::Newer(newest)),
            None => Ok(()),
        }
    }

    /// Connects, and migrates the schema under a lock, because several servers may start at the same time.
    pub(super) async fn connect(&self) -> Result<AnyPool, OpenError> {
        sqlx::any::install_default_drivers();
        match self {
            Self::Sqlite(path) => {
                // sqlx locks the migrations of PostgreSQL itself, but not those of SQLite.
                let _lock = lock(path.parent().unwrap_or(Path::new("/"))).await?;
                let pool = sqlite(path).await?;
                SQLITE_MIGRATIONS.run(&pool).await?;
                Ok(pool)
            }
            Self::Postgres(url) => {
                let options = AnyPoolOptions::new().max_connections(POSTGRES_CONNECTIONS).acquire_timeout(PATIENCE);
                let url = with_deadlines(url.clone());
                sqlx::Connection::close(connect_once(url.as_str()).await?).await?;
                let pool = options.connect(url.as_str()).await?;
                POSTGRES_MIGRATIONS.run(&pool).await?;
                Ok(pool)
            }
        }
    }
}

/// Connects without the pool, which would report its own timeout instead of the cause.
async fn connect_once(url: &str) -> Result<sqlx::AnyConnection, OpenError> {
    let connection = tokio::time::timeout(PATIENCE, <sqlx::AnyConnection as sqlx::Connection>::connect(url));
    Ok(connection.await.map_err(|_| OpenError::Away(sqlx::Error::PoolTimedOut))??)
}

fn file_url(path: &Path, mode: &str) -> Result<String, OpenError> {
    let path = Url::from_file_path(path).map_err(|()| sqlx::Error::Configuration("not an absolute path".into()))?;
    Ok(format!("sqlite://{}?mode={mode}", path.path()))
}

/// Opens an SQLite file with a write-ahead log, synced at checkpoints, and enforced foreign keys.
async fn sqlite(path: &Path) -> Result<AnyPool, OpenError> {
    let url = file_url(path, "rwc")?;
    let options = AnyPoolOptions::new().max_connections(SQLITE_CONNECTIONS).acquire_timeout(PATIENCE);
    let options = options.after_connect(|connection, _| {
        Box::pin(async move {
            let busy = format!("PRAGMA busy_timeout = {}", PATIENCE.as_millis());
            connection.execute(sqlx::AssertSqlSafe(busy)).await?;
            for pragma in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA foreign_keys = ON"] {
                connection.execute(pragma).await?;
            }
            Ok(())
        })
    });
    Ok(options.connect(&url).await?)
}

/// Locks a directory for the migration of a file in it, until the returned value is dropped. The file itself cannot be locked this
/// way: closing it would release SQLite's locks of this process on it (fcntl(2)).
async fn lock(directory: &Path) -> Result<File, sqlx::Error> {
    let directory = File::open(directory)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// Adds deadlines that PostgreSQL enforces itself, unless the URL sets its own.
impl Database {
    /// The address of PostgreSQL with the deadlines of statements.
    #[must_use]
    pub fn address(url: &Url) -> Url {
        with_deadlines(url.clone())
    }
}

fn with_deadlines(mut url: Url) -> Url {
    let given = url.query().unwrap_or_default().to_owned();
    for (name, deadline) in [("statement_timeout", LONGEST_STATEMENT), ("lock_timeout", PATIENCE)] {
        if !given.contains(name) {
            url.query_pairs_mut().append_pair(&format!("options[{name}]"), &deadline.as_millis().to_string());
        }
    }
    url
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

/// Whether the database is unreachable, locked or full, so that the same statement may succeed later.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // The low byte is SQLite's primary result code (busy, locked, read-only, I/O, full, cannot open). The first two characters
        // are PostgreSQL's error class (connection, transaction rollback, resources, object state, operator intervention).
        _ => code(error).is_some_and(|code| match code.parse::<u32>() {
            Ok(number) if code.len() < 5 => [5, 6, 8, 10, 13, 14].contains(&(number & 0xff)),
            _ => ["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class)),
        }),
    }
}

/// Whether the database, or its driver, refuses a statement's values, so that the same statement cannot succeed later.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_)) {
        return true;
    }
    // A statement that contradicts another row may succeed once that row has changed.
    let Some(db) = error.as_database_error().filter(|db| !db.is_unique_violation() && !db.is_foreign_key_violation())
    else {
        return false;
    };
    // SQLite: too big, constraint, mismatch, out of range. PostgreSQL: invalid data, constraint, a limit of the program, such as a
    // text of more than a GiB.
    db.code().is_some_and(|code| match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => [18, 19, 20, 25].contains(&(number & 0xff)),
        _ => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_supported_addresses_are_accepted_and_none_shows_its_password() {
        let parse = |text: &str| text.parse::<Database>();
        assert_eq!(parse("sqlite:///a/b.sqlite"), Ok(Database::Sqlite("/a/b.sqlite".into())));
        let shown = parse("postgres://user:secret@db.example/nagaya").expect("an address").to_string();
        assert_eq!(shown, "postgres://db.example:5432/nagaya");
        for junk in ["sqlite://relative", "mysql://h/d", "postgres://host", "postgres://host/", "/a/path"] {
            assert!(parse(junk).is_err(), "{junk}");
        }
    }
}
