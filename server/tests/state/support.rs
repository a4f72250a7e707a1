//! Both implementations of the state, and ways to corrupt them from outside.

use std::sync::Arc;
use std::time::Duration;

use nagaya_fixtures::redis::RedisServer;
use nagaya_workspace::Session;
use nagaya_workspace::state::{Embedded, Record, Redis, RedisAddress, State, open_sqlite};

pub(crate) const DEPLOYMENT: &str = "ours";
pub(crate) const TTL: Duration = Duration::from_secs(100);

/// Where the state under test is kept.
pub(crate) enum Backend {
    File(tempfile::TempDir),
    Redis(Box<RedisServer>),
}

impl Backend {
    pub(crate) fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(Box::new(RedisServer::start().expect("a Redis")))
    }

    /// Opens the state as one more server does.
    pub(crate) async fn open(&self) -> Arc<dyn State> {
        match self {
            Self::File(dir) => Arc::new(Embedded::open(&dir.path().join("s.sqlite")).await.expect("opens")),
            Self::Redis(server) => Arc::new(redis(&server.url())),
        }
    }

    /// Overwrites a room's record with invalid bytes.
    pub(crate) async fn corrupt(&self, workspace: &str) {
        match self {
            Self::File(dir) => {
                let file = open_sqlite(&dir.path().join("s.sqlite"), 1).await.expect("opens");
                let update =
                    sqlx::query("UPDATE record SET text = CAST(x'00ff7b' AS TEXT) WHERE id = ?").bind(workspace);
                assert_eq!(update.execute(&file).await.expect("updates").rows_affected(), 1);
                file.close().await;
            }
            Self::Redis(server) => {
                let key = format!("nagaya:{{{DEPLOYMENT}}}:room:{workspace}");
                assert_eq!(server.command(&format!("EXISTS {key}")).expect("asks"), "1");
                server.command(&format!("SET {key} \"\\x00\\xff{{\"")).expect("sets");
            }
        }
    }
}

pub(crate) fn redis(url: &str) -> Redis {
    Redis::new(RedisAddress::parse(url).expect("an address"), DEPLOYMENT, TTL).expect("a client")
}

pub(crate) fn record(workspace: &str, conversation: Option<&str>, owner: &str) -> Record {
    Record {
        workspace: workspace.into(),
        occupant: conversation.map(|c| (c.into(), "tenant — 長屋".into())),
        retired: false,
        session: Some(Session::ended("s\0\"\\")),
        owner: owner.into(),
    }
}
