//! Answers to requests with `Idempotency-Key`, so that a repeated request gets the answer of the first one.
//!
//! Whoever inserts the row of a request first works on it. A row without an answer whose worker does not confirm its claim any more is
//! taken over.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{Store, StoreError, from_micros, to_micros, within};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a claim holds that is not confirmed: that of a server which has died.
pub const CLAIM: Duration = Duration::from_secs(60);
/// Answers of one owner that are kept at the same time.
const MOST_ROWS: i64 = 100_000;
/// Size of these answers together, in bytes.
const MOST_BYTES: i64 = 64 << 20;

/// A request with an `Idempotency-Key`.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Hash of the key and its owner.
    pub slot: String,
    /// Id of the caller's tenant; `None` for operators.
    pub tenant_id: Option<String>,
    /// Hash of method and path.
    pub route: String,
    /// Hash of key and body; `None` if the body was not read yet.
    pub body: Option<String>,
}

/// What is known of the request that had a key first.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Hash of method and path.
    pub route: String,
    /// Hash of key and body; `None` while the body is being read.
    pub body: Option<String>,
    /// The run that it starts or has started.
    pub run_id: Option<String>,
    /// The answer; `None` while there is none.
    pub answer: Option<KeptAnswer>,
    claim: String,
    claimed_at: Timestamp,
    expires_at: Timestamp,
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The status code.
    pub status: u16,
    /// Some headers, as a JSON object.
    pub headers: String,
    /// The body; `None` if it is too long to be kept.
    pub body: Option<String>,
}

/// The right to work on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    slot: String,
    id: String,
    /// A run that an earlier worker may have started before it died.
    pub run_id: Option<String>,
}

/// Who may work on a request.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// The caller.
    Yes(Claim),
    /// Somebody else does, or has done so.
    No(Box<Earlier>),
}

fn read(row: &AnyRow) -> sqlx::Result<Earlier> {
    let status = row.try_get::<Option<i64>, _>("status")?;
    let answer = status.map(|status| {
        let status = u16::try_from(status).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let headers = row.try_get::<Option<String>, _>("headers")?.unwrap_or_default();
        Ok::<_, sqlx::Error>(KeptAnswer { status, headers, body: row.try_get("answer")? })
    });
    Ok(Earlier {
        route: row.try_get("route")?,
        body: row.try_get("body")?,
        run_id: row.try_get("run_id")?,
        answer: answer.transpose()?,
        claim: row.try_get("claim")?,
        claimed_at: from_micros(row.try_get("claimed_at")?)?,
        expires_at: from_micros(row.try_get("expires_at")?)?,
    })
}

impl Earlier {
    /// Whether another request may take over.
    fn is_over(&self, now: Timestamp) -> bool {
        let silent = Duration::try_from(now.duration_since(self.claimed_at)).unwrap_or_default();
        self.expires_at <= now || (self.answer.is_none() && silent > CLAIM)
    }

    /// The run that a worker which has died may have started; none of a request that is forgotten.
    fn left_run(&self, now: Timestamp) -> Option<String> {
        self.run_id.clone().filter(|_| self.expires_at > now)
    }
}

impl Store {
    /// Claims a request.
    ///
    /// # Errors
    /// The database failed, or the caller's tenant does not exist.
    pub async fn claim(&self, attempt: &Attempt) -> Result<Claimed, StoreError> {
        within(async {
            let id = Uuid::new_v4().to_string();
            // Twice: the row that was in the way may have been removed meanwhile.
            for _ in 0..2 {
                let now = Timestamp::now();
                let end = now.saturating_add(KEPT).unwrap_or(Timestamp::MAX);
                let insert = sqlx::query(
                    "INSERT INTO idempotency (slot, tenant_id, route, body, claim, claimed_at, bytes, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT (slot) DO NOTHING",
                );
                let insert = insert.bind(&attempt.slot).bind(&attempt.tenant_id).bind(&attempt.route);
                let insert = insert.bind(&attempt.body).bind(&id).bind(to_micros(now)).bind(to_micros(end));
                let done = insert.execute(&self.0).await.map_err(|e| super::on_write(e, String::new, "tenant"))?;
                if done.rows_affected() > 0 {
                    return Ok(Claimed::Yes(Claim { slot: attempt.slot.clone(), id, run_id: None }));
                }
                let row = sqlx::query("SELECT * FROM idempotency WHERE slot = $1").bind(&attempt.slot);
                let Some(row) = row.fetch_optional(&self.0).await? else { continue };
                let earlier = read(&row)?;
                if !earlier.is_over(now) {
                    return Ok(Claimed::No(Box::new(earlier)));
                }
                let differs = |ours: &Option<String>| ours.is_some() && earlier.body.is_some() && *ours != earlier.body;
                let another = earlier.route != attempt.route || differs(&attempt.body);
                if another && earlier.expires_at > now {
                    return Ok(Claimed::No(Box::new(earlier)));
                }
                let run_id = earlier.left_run(now);
                let update = sqlx::query(
                    "UPDATE idempotency SET route = $3, body = $4, claim = $5, claimed_at = $6, run_id = $7, status = NULL,
                            headers = NULL, answer = NULL, bytes = 0, expires_at = $8
                     WHERE slot = $1 AND claim = $2",
                );
                let update = update.bind(&attempt.slot).bind(&earlier.claim).bind(&attempt.route).bind(&attempt.body);
                let update = update.bind(&id).bind(to_micros(now)).bind(&run_id).bind(to_micros(end));
                if update.execute(&self.0).await?.rows_affected() > 0 {
                    return Ok(Claimed::Yes(Claim { slot: attempt.slot.clone(), id, run_id }));
                }
            }
            Err(StoreError::Conflict("another request with this Idempotency-Key is being answered".into()))
        })
        .await
    }

    /// Confirms a claim, and writes down what is known of the request by now; `false` if somebody else has taken over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn confirm(&self, claim: &Claim, body: Option<&str>, run_id: Option<&str>) -> Result<bool, StoreError> {
        within(async {
            let update = sqlx::query(
                "UPDATE idempotency SET claimed_at = $3, body = COALESCE($4, body), run_id = COALESCE($5, run_id)
                 WHERE slot = $1 AND claim = $2",
            );
            let update = update.bind(&claim.slot).bind(&claim.id).bind(to_micros(Timestamp::now()));
            Ok(update.bind(body).bind(run_id).execute(&self.0).await?.rows_affected() > 0)
        })
        .await
    }

    /// Keeps the answer to a request; `false` if somebody else has taken over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keep_answer(
        &self,
        claim: &Claim,
        body: Option<&str>,
        answer: &KeptAnswer,
    ) -> Result<bool, StoreError> {
        within(async {
            let bytes = answer.headers.len() + answer.body.as_ref().map_or(0, String::len);
            let update = sqlx::query(
                "UPDATE idempotency SET status = $3, headers = $4, answer = $5, bytes = $6, body = COALESCE($7, body)
                 WHERE slot = $1 AND claim = $2",
            );
            let update = update.bind(&claim.slot).bind(&claim.id).bind(i64::from(answer.status)).bind(&answer.headers);
            let update = update.bind(&answer.body).bind(i64::try_from(bytes).unwrap_or(i64::MAX)).bind(body);
            Ok(update.execute(&self.0).await?.rows_affected() > 0)
        })
        .await
    }

    /// Gives a claim up: the next request with its key takes over at once, and is told which run this one may have begun.
    ///
    /// # Errors
    /// The database failed.
    pub async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        within(async {
            let update = sqlx::query("UPDATE idempotency SET claimed_at = 0 WHERE slot = $1 AND claim = $2");
            update.bind(&claim.slot).bind(&claim.id).execute(&self.0).await?;
            Ok(())
        })
        .await
    }

    /// Forgets a request, so that the next one with its key is answered anew.
    ///
    /// # Errors
    /// The database failed.
    pub async fn forget(&self, claim: &Claim) -> Result<(), StoreError> {
        within(async {
            let delete = sqlx::query("DELETE FROM idempotency WHERE slot = $1 AND claim = $2");
            delete.bind(&claim.slot).bind(&claim.id).execute(&self.0).await?;
            Ok(())
        })
        .await
    }

    /// Removes answers that are too old, and returns the owners who have as many as they may: ids of tenants, or nothing for operators.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sweep_answers(&self) -> Result<Vec<String>, StoreError> {
        within(async {
            let old = sqlx::query("DELETE FROM idempotency WHERE expires_at <= $1");
            old.bind(to_micros(Timestamp::now())).execute(&self.0).await?;
            let full = sqlx::query_scalar::<_, String>(
                "SELECT COALESCE(tenant_id, '') FROM idempotency GROUP BY COALESCE(tenant_id, '')
                 HAVING COUNT(*) >= $1 OR SUM(bytes) >= $2",
            );
            Ok(full.bind(MOST_ROWS).bind(MOST_BYTES).fetch_all(&self.0).await?)
        })
        .await
    }

    /// Whether the database knows a run, which it does once the run has ended.
    ///
    /// # Errors
    /// The database failed.
    pub async fn has_run(&self, run_id: &str) -> Result<bool, StoreError> {
        within(async {
            let found = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM runs WHERE run_id = $1").bind(run_id);
            Ok(found.fetch_one(&self.0).await? > 0)
        })
        .await
    }
}
