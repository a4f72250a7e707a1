//! The evidence shown beside a failure: gathered while everything is still running, with secrets redacted.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::harness::exchanges::{Exchanges, Secrets};
use crate::harness::pace::within;

/// How long gathering may take; what is missing by then stays missing.
const LIMIT: Duration = Duration::from_secs(10);

/// A part of a deployment that can show what happened in it.
#[async_trait]
pub trait Witness: Send + Sync {
    /// Appends what this part shows.
    async fn testify(&self, all: &mut Vec<Evidence>);
}

/// One piece of evidence.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// What it is, for example `server log`.
    pub name: String,
    /// The text itself.
    pub text: String,
}

impl Evidence {
    /// Evidence of this name.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// Gathers the evidence of all witnesses, after the exchanges.
pub async fn gather(
    exchanges: &Exchanges,
    witnesses: impl IntoIterator<Item = impl AsRef<dyn Witness>>,
    secrets: &Secrets,
) -> Vec<Evidence> {
    let mut all = vec![Evidence::new("exchanges", exchanges.text())];
    let testimony = async {
        for witness in witnesses {
            witness.as_ref().testify(&mut all).await;
        }
    };
    if within(LIMIT, testimony).await.is_err() {
        all.push(Evidence::new("evidence", format!("incomplete: gathering took longer than {LIMIT:?}")));
    }
    all.retain(|one| !one.text.is_empty());
    all.into_iter().map(|one| Evidence { text: secrets.redact(&one.text), ..one }).collect()
}
