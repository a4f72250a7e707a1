//! Keys that are created at run time. The database has their hashes only.
//!
//! Every change has a number, which is written to the rows that it changes: so a server can ask for what has changed since it last
//! looked, without reading all keys again.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Row, Transaction};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Store, StoreError, from_micros, on_write, to_micros, within, words};

/// Keys that an owner may have at the same time, expired and revoked ones not counted.
pub const MOST_KEYS: i64 = 100;
/// Expired and revoked keys of an owner that are kept for the list; older ones are removed.
const KEPT_DEAD: i64 = 100;

words! {
    /// What a key may be used for.
    #[derive(PartialOrd, Ord, Hash)]
    Scope {
        /// Create, change and delete conversations; start, follow and cancel runs.
        Run = "run",
        /// Read tenants, models, conversations, messages and streams.
        Read = "read",
        /// List, read, write and delete files.
        Files = "files",
        /// Answer an agent's requests for permission.
        Approve = "approve",
        /// Manage keys; for an operator's key also tenants, models, workspaces and the pool.
        Admin = "admin",
        /// Read `/metrics`; only for operators' keys.
        Metrics = "metrics",
    }
}

/// A key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiKey {
    /// Id of the key, which the audit trail and the log name.
    pub key_id: String,
    /// Id of the key's tenant; `null` for an operator's key.
    pub tenant_id: Option<String>,
    /// Name of the key, for people.
    pub name: String,
    /// How the key begins, by which its owner recognises it.
    pub prefix: String,
    /// What the key may be used for.
    pub scopes: Vec<Scope>,
    /// When the key was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the key becomes invalid; `null` if it does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When the key was last used, written down at most once a minute; `null` if it never was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// When the key was revoked; `null` if it was not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether the key is neither revoked nor expired.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| end > now)
    }
}

/// A key to create, as in [`ApiKey`].
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Id of the key's tenant; `None` for an operator's key.
    pub tenant_id: Option<String>,
    /// Name of the key.
    pub name: String,
    /// How the key begins.
    pub prefix: String,
    /// SHA-256 of the key, in hexadecimal digits.
    pub hash: String,
    /// What the key may be used for.
    pub scopes: Vec<Scope>,
    /// When the key becomes invalid.
    pub expires_at: Option<Timestamp>,
}

/// A change of a key; fields that are `None` stay.
#[derive(Debug, Clone, Default)]
pub struct KeyChange {
    /// The new name.
    pub name: Option<String>,
    /// The new scopes.
    pub scopes: Option<Vec<Scope>>,
    /// The new end; `Some(None)`: the key does not expire.
    pub expires_at: Option<Option<Timestamp>>,
}

fn to_words(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

pub(super) fn read(row: &AnyRow) -> sqlx::Result<ApiKey> {
    let time = |name: &str| row.try_get::<Option<i64>, _>(name)?.map(from_micros).transpose();
    let scopes: String = row.try_get("scopes")?;
    Ok(ApiKey {
        key_id: row.try_get("key_id")?,
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        scopes: scopes.split(' ').map(|text| super::word(text, Scope::from_text)).collect::<sqlx::Result<_>>()?,
        created_at: from_micros(row.try_get("created_at")?)?,
        expires_at: time("expires_at")?,
        last_used_at: time("last_used_at")?,
        revoked_at: time("revoked_at")?,
    })
}

/// How rows name an owner: a tenant's id, or nothing for operators.
fn owner_text(owner: Option<&str>) -> &str {
    owner.unwrap_or_default()
}

/// Begins a change of keys: changes of all servers come one after the other, since this locks the row.
async fn count_change(transaction: &mut Transaction<'_, sqlx::Any>) -> Result<i64, StoreError> {
    let row = sqlx::query("UPDATE api_key_state SET changes = changes + 1 WHERE id = 1 RETURNING changes")
        .fetch_all(&mut **transaction)
        .await?
        .pop();
    Ok(row.ok_or(sqlx::Error::RowNotFound)?.try_get("changes")?)
}

/// Counts a change that removes keys together with their tenant.
pub(super) async fn count_deletion(transaction: &mut Transaction<'_, sqlx::Any>) -> Result<(), StoreError> {
    sqlx::query("UPDATE api_key_state SET changes = changes + 1, deletions = deletions + 1 WHERE id = 1")
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A key of this owner.
async fn find(
    transaction: &mut Transaction<'_, sqlx::Any>,
    owner: Option<&str>,
    id: &str,
) -> Result<ApiKey, StoreError> {
    let row = sqlx::query("SELECT * FROM api_keys WHERE key_id = $1 AND COALESCE(tenant_id, '') = $2")
        .bind(id)
        .bind(owner_text(owner))
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(read(&row.ok_or(StoreError::NotFound("key"))?)?)
}

/// The same, if the key is neither revoked nor expired.
async fn find_live(
    transaction: &mut Transaction<'_, sqlx::Any>,
    owner: Option<&str>,
    id: &str,
) -> Result<ApiKey, StoreError> {
    let key = find(transaction, owner, id).await?;
    if key.is_live(Timestamp::now()) {
        return Ok(key);
    }
    Err(StoreError::Conflict("the key is revoked or expired; create a new one".into()))
}

/// Number of an owner's keys that are neither revoked nor expired, `except` one.
async fn count_live(
    transaction: &mut Transaction<'_, sqlx::Any>,
    owner: Option<&str>,
    except: &str,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar::<_, i64>(
        "SELECT COUNT(*) FROM api_keys WHERE COALESCE(tenant_id, '') = $1 AND key_id <> $2 AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > $3)",
    );
    let count = count.bind(owner_text(owner)).bind(except).bind(to_micros(Timestamp::now()));
    Ok(count.fetch_one(&mut **transaction).await?)
}

/// Whether a key lets its owner manage keys for good.
fn is_lasting(key: &ApiKey) -> bool {
    key.expires_at.is_none() && key.scopes.contains(&Scope::Admin)
}

/// Checks that the owner has another key that is lasting.
async fn check_others(
    transaction: &mut Transaction<'_, sqlx::Any>,
    owner: Option<&str>,
    id: &str,
) -> Result<(), StoreError> {
    let others = sqlx::query_scalar::<_, i64>(
        "SELECT COUNT(*) FROM api_keys WHERE COALESCE(tenant_id, '') = $1 AND key_id <> $2 AND revoked_at IS NULL
            AND expires_at IS NULL AND scopes LIKE '%admin%'",
    );
    let others = others.bind(owner_text(owner)).bind(id).fetch_one(&mut **transaction).await?;
    if others > 0 {
        return Ok(());
    }
    let why = "no other operator's key has the scope admin and no end; create one first, or start with API_KEYS";
    Err(StoreError::Conflict(why.into()))
}

async fn insert(
    transaction: &mut Transaction<'_, sqlx::Any>,
    change: i64,
    new: NewKey,
    replaced: &str,
) -> Result<ApiKey, StoreError> {
    let owner = new.tenant_id.clone();
    if count_live(transaction, owner.as_deref(), replaced).await? >= MOST_KEYS {
        return Err(StoreError::Conflict(format!("there are {MOST_KEYS} keys already; revoke one that is not used")));
    }
    let row = sqlx::query(
        "INSERT INTO api_keys (key_id, tenant_id, name, prefix, hash, scopes, created_at, expires_at, change)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(&owner)
    .bind(new.name)
    .bind(new.prefix)
    .bind(new.hash)
    .bind(to_words(&new.scopes))
    .bind(to_micros(Timestamp::now()))
    .bind(new.expires_at.map(to_micros))
    .bind(change)
    .fetch_all(&mut **transaction)
    .await
    .map_err(|e| on_write(e, || "the key exists already".into(), "tenant"))?
    .pop();
    sqlx::query(
        "DELETE FROM api_keys WHERE key_id IN (
            SELECT key_id FROM api_keys WHERE COALESCE(tenant_id, '') = $1 AND (revoked_at IS NOT NULL OR expires_at <= $2)
            ORDER BY created_at DESC LIMIT 1000000 OFFSET $3)",
    )
    .bind(owner_text(owner.as_deref()))
    .bind(to_micros(Timestamp::now()))
    .bind(KEPT_DEAD)
    .execute(&mut **transaction)
    .await?;
    Ok(read(&row.ok_or(sqlx::Error::RowNotFound)?)?)
}

impl Store {
    /// Creates a key. The first operator's key makes keys necessary for every request.
    ///
    /// # Errors
    /// The tenant does not exist, or has as many keys as it may.
    pub async fn create_key(&self, new: NewKey) -> Result<ApiKey, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            let change = count_change(&mut transaction).await?;
            if new.tenant_id.is_none() {
                sqlx::query("UPDATE api_key_state SET required = 1 WHERE id = 1").execute(&mut *transaction).await?;
            }
            let created = insert(&mut transaction, change, new, "").await?;
            transaction.commit().await?;
            Ok(created)
        })
        .await
    }

    /// The keys of a tenant, or of operators, the newest first; some that are revoked or expired are among them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keys(&self, owner: Option<&str>) -> Result<Vec<ApiKey>, StoreError> {
        within(async {
            let rows = sqlx::query(
                "SELECT * FROM api_keys WHERE COALESCE(tenant_id, '') = $1 ORDER BY created_at DESC, key_id DESC",
            );
            let rows = rows.bind(owner_text(owner)).fetch_all(&self.0).await?;
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// A key of this owner.
    ///
    /// # Errors
    /// The owner has no such key.
    pub async fn key(&self, owner: Option<&str>, id: &str) -> Result<ApiKey, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            let key = find(&mut transaction, owner, id).await?;
            transaction.commit().await?;
            Ok(key)
        })
        .await
    }

    /// Changes a key. With `keep_one`, an owner's last valid key with the scope `admin` and without an end stays so.
    ///
    /// # Errors
    /// The owner has no such key, it is revoked or expired, or it is the last one.
    pub async fn update_key(
        &self,
        owner: Option<&str>,
        id: &str,
        change: KeyChange,
        keep_one: bool,
    ) -> Result<ApiKey, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            let number = count_change(&mut transaction).await?;
            let mut key = find_live(&mut transaction, owner, id).await?;
            let was_lasting = is_lasting(&key);
            key.name = change.name.unwrap_or(key.name);
            key.scopes = change.scopes.unwrap_or(key.scopes);
            key.expires_at = change.expires_at.unwrap_or(key.expires_at);
            if keep_one && was_lasting && !is_lasting(&key) {
                check_others(&mut transaction, owner, id).await?;
            }
            let update = sqlx::query(
                "UPDATE api_keys SET name = $2, scopes = $3, expires_at = $4, change = $5 WHERE key_id = $1",
            );
            let update = update.bind(id).bind(&key.name).bind(to_words(&key.scopes));
            update.bind(key.expires_at.map(to_micros)).bind(number).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(key)
        })
        .await
    }

    /// Creates a key in place of another one, which stays valid until `overlap` at the latest.
    ///
    /// # Errors
    /// The owner has no such key, it is revoked or expired, or there are too many.
    pub async fn rotate_key(&self, id: &str, new: NewKey, overlap: Timestamp) -> Result<ApiKey, StoreError> {
        within(async {
            let owner = new.tenant_id.clone();
            let mut transaction = self.0.begin().await?;
            let number = count_change(&mut transaction).await?;
            let old = find_live(&mut transaction, owner.as_deref(), id).await?;
            let end = old.expires_at.map_or(overlap, |end| end.min(overlap));
            let created = insert(&mut transaction, number, new, id).await?;
            sqlx::query("UPDATE api_keys SET expires_at = $2, change = $3 WHERE key_id = $1")
                .bind(id)
                .bind(to_micros(end))
                .bind(number)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(created)
        })
        .await
    }

    /// Revokes a key; `false` if it was revoked before. With `keep_one`, an owner's last valid key with the scope `admin` stays.
    ///
    /// # Errors
    /// The owner has no such key, or it is the last one.
    pub async fn revoke_key(&self, owner: Option<&str>, id: &str, keep_one: bool) -> Result<bool, StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            let number = count_change(&mut transaction).await?;
            let key = find(&mut transaction, owner, id).await?;
            let now = Timestamp::now();
            if keep_one && key.is_live(now) && is_lasting(&key) {
                check_others(&mut transaction, owner, id).await?;
            }
            let update = sqlx::query(
                "UPDATE api_keys SET revoked_at = $2, change = $3 WHERE key_id = $1 AND revoked_at IS NULL",
            );
            let done = update.bind(id).bind(to_micros(now)).bind(number).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }
}
