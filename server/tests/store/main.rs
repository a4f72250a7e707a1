//! The store over SQLite and PostgreSQL: one suite for both, and the behaviour while PostgreSQL is unreachable.

/// Declares each test once over SQLite and once over PostgreSQL.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::Home::file()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::Home::server()).await;
            })+
        }
    };
}

mod away;
mod configurations;
mod keys;
mod log;
mod refusals;
mod runs;
mod same;
mod skills;

use nagaya_fixtures::postgres::Postgres;
use nagaya_server::conversation::store::{Database, Store};

/// A database under test, with the directory or server that it needs.
pub(crate) enum Home {
    File(tempfile::TempDir),
    Server(Postgres),
}

impl Home {
    pub(crate) fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn server() -> Self {
        Self::Server(Postgres::start().expect("PostgreSQL"))
    }

    pub(crate) fn database(&self) -> Database {
        match self {
            Self::File(dir) => Database::Sqlite(dir.path().join("a name % of 100?.sqlite")),
            Self::Server(server) => server.url().parse().expect("an address"),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.database()).await.expect("opens")
    }
}
