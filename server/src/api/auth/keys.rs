//! The table of valid keys in memory: read at the start, and again whenever they have changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::super::error::ApiError;
use super::configured::ApiKeys;
use super::ending::sleep_until;
use super::scopes::Scopes;
use super::secret::{Hash, from_hex, hash, is_well_formed};
use super::{Caller, Credential, Principal};
use crate::conversation::store::{ApiKey, KnownKey, Scope, Store, StoreError};

/// How often a server looks whether another one has changed keys. With the time that the look takes, a key that was revoked on
/// another server is refused, and its streams end, within a second.
const LOOK: Duration = Duration::from_millis(400);
/// How often it is written down when keys were last used.
const WRITE_USES: Duration = Duration::from_secs(60);
/// Shortest time between two looks that unknown keys cause.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A valid key.
#[derive(Debug)]
struct Entry {
    hash: Hash,
    id: Arc<str>,
    principal: Principal,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
    /// When the key was last used, in microseconds since the epoch; 0 if it was not, or if that is written down.
    used: Arc<AtomicI64>,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<Hash, Arc<Entry>>,
    by_id: HashMap<Arc<str>, Arc<Entry>>,
    required: bool,
}

/// A look at the database.
#[derive(Debug, Clone, Copy)]
struct Look {
    began: Instant,
    /// Numbers of changes and of deletions.
    numbers: (i64, i64),
}

/// Why a key does not let its owner go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was revoked, or lost the scope, or its tenant was deleted.
    Revoked,
    /// It has expired.
    Expired,
}

/// All keys: the configured ones, and those that were created at run time.
#[derive(Debug)]
pub struct Keys {
    configured: ApiKeys,
    store: Store,
    table: RwLock<Table>,
    /// What the last look at the database has found; the lock makes looks come one after the other.
    seen: Mutex<Option<Look>>,
    changed: watch::Sender<()>,
}

impl Keys {
    /// The configured keys and those in the database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn open(configured: ApiKeys, store: Store) -> Result<Self, StoreError> {
        let (table, seen) = (RwLock::default(), Mutex::default());
        let keys = Self { configured, store, table, seen, changed: watch::Sender::new(()) };
        keys.refresh().await?;
        Ok(keys)
    }

    /// Whether requests need a key: some are configured, or an operator's key has ever been created.
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.configured.is_empty() || self.table.read().required
    }

    /// Whether the configuration has an operator's key, by which an operator can always come back.
    pub(in crate::api) fn have_configured_operator(&self) -> bool {
        self.configured.have_operators()
    }

    /// The caller that a key belongs to; `None` if the key is not valid. A key that is not known may have been created on another server
    /// a moment ago, so the database is asked; many unknown keys share one look.
    ///
    /// # Errors
    /// The key is not known, and the database does not answer.
    pub(super) async fn find(&self, key: &str) -> Result<Option<Caller>, ApiError> {
        let hash = hash(key);
        if let Some((number, principal)) = self.configured.find(&hash) {
            return Ok(Some(Caller::configured(number, principal)));
        }
        if !is_well_formed(key) {
            return Ok(None);
        }
        if self.table.read().by_hash.contains_key(&hash) {
            return Ok(self.known(&hash));
        }
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        if let Some(last) = seen.as_ref().filter(|last| last.began <= asked) {
            tokio::time::sleep_until(last.began + LOOK_AGAIN).await;
            self.look(&mut seen).await?;
        }
        drop(seen);
        Ok(self.known(&hash))
    }

    /// The caller that a known key belongs to. Notes the use, in memory.
    fn known(&self, hash: &Hash) -> Option<Caller> {
        let entry = self.table.read().by_hash.get(hash).cloned()?;
        let now = Timestamp::now();
        if !bool::from(entry.hash.ct_eq(hash)) || entry.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        entry.used.store(now.as_microsecond(), Ordering::Relaxed);
        let (principal, scopes) = (entry.principal.clone(), entry.scopes);
        Some(Caller { principal, scopes, credential: Credential::Key(entry.id.clone()), until: None })
    }

    /// When the key was last used here, if that is not written down yet.
    pub(in crate::api) fn last_use(&self, id: &str) -> Option<Timestamp> {
        let used = self.table.read().by_id.get(id)?.used.load(Ordering::Relaxed);
        Timestamp::from_microsecond(used).ok().filter(|_| used != 0)
    }

    /// Waits until a key is no longer valid for one of these scopes.
    pub(super) async fn ended(&self, id: &str, needed: &[Scope]) -> Ending {
        let mut changed = self.changed.subscribe();
        loop {
            let entry = self.table.read().by_id.get(id).cloned();
            let Some(entry) = entry.filter(|entry| needed.iter().any(|scope| entry.scopes.contains(*scope))) else {
                return Ending::Revoked;
            };
            tokio::select! {
                // The sender lives as long as this value.
                _ = changed.changed() => {}
                goes_on = sleep_until(entry.expires_at) => {
                    if !goes_on {
                        return Ending::Expired;
                    }
                }
            }
        }
    }

    /// Reads what has changed. Called after every change on this server, and all the time for those on others.
    ///
    /// # Errors
    /// The database does not answer; the known keys stay as they are.
    pub(in crate::api) async fn refresh(&self) -> Result<(), StoreError> {
        self.look(&mut *self.seen.lock().await).await
    }

    async fn look(&self, seen: &mut Option<Look>) -> Result<(), StoreError> {
        let began = Instant::now();
        let found = self.store.key_changes(seen.map(|look| look.numbers)).await?;
        let news = found.all || !found.keys.is_empty();
        {
            let mut table = self.table.write();
            let before = if found.all { std::mem::take(&mut *table) } else { Table::default() };
            table.required = found.required;
            for known in found.keys {
                table.put(known, &before);
            }
        }
        *seen = Some(Look { began, numbers: (found.changes, found.deletions) });
        if news {
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// Follows changes of keys on other servers, and writes down when keys were used, until `closing` is cancelled.
    pub async fn follow(&self, closing: CancellationToken) {
        let (mut look, mut written, mut away) = (interval(LOOK), Instant::now(), false);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while closing.run_until_cancelled(look.tick()).await.is_some() {
            let mut result = self.refresh().await;
            if result.is_ok() && written.elapsed() >= WRITE_USES {
                written = Instant::now();
                result = self.write_uses().await;
            }
            match result {
                Err(error) if !away => {
                    tracing::warn!(%error, "changes of keys are not known; the known keys stay valid");
                    away = true;
                }
                Ok(()) if away => {
                    tracing::info!("changes of keys are known again");
                    away = false;
                }
                _ => {}
            }
        }
        if let Err(error) = self.write_uses().await {
            tracing::warn!(%error, "when keys were last used was not written down");
        }
    }

    async fn write_uses(&self) -> Result<(), StoreError> {
        let used = |entry: &Arc<Entry>| {
            let at = entry.used.swap(0, Ordering::Relaxed);
            Some((entry.id.to_string(), Timestamp::from_microsecond(at).ok().filter(|_| at != 0)?))
        };
        let uses: Vec<_> = self.table.read().by_id.values().filter_map(used).collect();
        self.table.write().remove_expired(Timestamp::now());
        match uses.is_empty() {
            true => Ok(()),
            false => self.store.keys_used(&uses).await,
        }
    }
}

impl Table {
    fn remove_expired(&mut self, now: Timestamp) {
        let lives = |entry: &Arc<Entry>| entry.expires_at.is_none_or(|end| end > now);
        self.by_hash.retain(|_, entry| lives(entry));
        self.by_id.retain(|_, entry| lives(entry));
    }

    /// Adds, replaces or removes a key. What is known of its use is kept, also from the table `before`.
    fn put(&mut self, known: KnownKey, before: &Table) {
        let key = known.key;
        let earlier = self.by_id.remove(key.key_id.as_str());
        if let Some(earlier) = &earlier {
            self.by_hash.remove(&earlier.hash);
        }
        if !key.is_live(Timestamp::now()) {
            return;
        }
        let Some(hash) = from_hex(&known.hash) else {
            tracing::error!(key = key.key_id, "the hash of a key in the database is not one; the key is not accepted");
            return;
        };
        let used = earlier.as_ref().or_else(|| before.by_id.get(key.key_id.as_str())).map(|entry| entry.used.clone());
        let entry = Arc::new(entry(key, hash, used.unwrap_or_default()));
        self.by_hash.insert(hash, entry.clone());
        self.by_id.insert(entry.id.clone(), entry);
    }
}

fn entry(key: ApiKey, hash: Hash, used: Arc<AtomicI64>) -> Entry {
    Entry {
        hash,
        id: key.key_id.into(),
        principal: key.tenant_id.map_or(Principal::Operator, Principal::Tenant),
        scopes: key.scopes.into_iter().collect(),
        expires_at: key.expires_at,
        used,
    }
}
