//! The usage of a tenant: what its runs have used, those of deleted conversations included.
//!
//! A run's usage is in its row until the conversation is deleted. Then it is added to the ledger, which has numbers only.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Row, Transaction};
use utoipa::ToSchema;

use super::{Store, StoreError, within};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// What a tenant's runs with one model have used on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DayUsage {
    /// The day, in UTC, on which the runs began.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// Id of the model.
    pub model_id: String,
    /// Number of runs that began on this day.
    pub runs: i64,
    /// Input tokens that were not read from the cache or written to it.
    pub input_tokens: i64,
    /// Tokens that the model generated.
    pub output_tokens: i64,
    /// Tokens that were written to the cache for five minutes.
    pub cache_creation_5m_tokens: i64,
    /// Tokens that were written to the cache for an hour.
    pub cache_creation_1h_tokens: i64,
    /// Tokens that were read from the cache.
    pub cache_read_tokens: i64,
    /// Cost in USD, a decimal.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, example = "0.0123")]
    pub cost_usd: Decimal,
}

fn as_text<S: serde::Serializer>(cost: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cost)
}

impl DayUsage {
    /// Adds numbers of the same day and model. Sums stop at the largest value.
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.runs, other.runs),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.cache_creation_5m_tokens, other.cache_creation_5m_tokens),
            (&mut self.cache_creation_1h_tokens, other.cache_creation_1h_tokens),
            (&mut self.cache_read_tokens, other.cache_read_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.cost_usd = self.cost_usd.saturating_add(other.cost_usd);
    }
}

/// Sums of rows by day and model.
fn sums(rows: impl IntoIterator<Item = DayUsage>) -> Vec<DayUsage> {
    let mut sums: BTreeMap<(Date, String), DayUsage> = BTreeMap::new();
    for row in rows {
        match sums.get_mut(&(row.day, row.model_id.clone())) {
            Some(sum) => sum.add(&row),
            None => drop(sums.insert((row.day, row.model_id.clone()), row)),
        }
    }
    sums.into_values().collect()
}

/// The sum of a column of runs. No run counts for more than a billion tokens, so that no sum leaves the integers.
macro_rules! sum {
    ($column:literal) => {
        concat!(
            "CAST(SUM(CASE WHEN r.",
            $column,
            " < 1000000000 THEN r.",
            $column,
            " ELSE 1000000000 END) AS BIGINT) AS ",
            $column
        )
    };
}

/// Selects runs by day, model and cost, up to the condition.
const RUNS: &str = concat!(
    "SELECT r.model_id, r.began_at / 86400000000 AS day, COUNT(*) AS runs, r.cost_usd, ",
    sum!("input_tokens"),
    ", ",
    sum!("output_tokens"),
    ", ",
    sum!("cache_creation_5m_tokens"),
    ", ",
    sum!("cache_creation_1h_tokens"),
    ", ",
    sum!("cache_read_tokens"),
    " FROM runs r JOIN conversations c ON c.conversation_id = r.conversation_id WHERE c.tenant_id = $1"
);
const GROUPS: &str = " GROUP BY r.model_id, r.began_at / 86400000000, r.cost_usd";

fn read(row: &AnyRow, each_costs: bool) -> sqlx::Result<DayUsage> {
    let wrong = |error: String| sqlx::Error::Decode(error.into());
    let day: i64 = row.try_get("day")?;
    let began = Timestamp::from_microsecond(day.saturating_mul(DAY)).map_err(|error| wrong(error.to_string()))?;
    let runs: i64 = row.try_get("runs")?;
    let cost = Decimal::from_str(row.try_get("cost_usd")?).map_err(|error| wrong(error.to_string()))?;
    Ok(DayUsage {
        day: Offset::UTC.to_datetime(began).date(),
        model_id: row.try_get("model_id")?,
        runs,
        input_tokens: row.try_get("input_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        cache_creation_5m_tokens: row.try_get("cache_creation_5m_tokens")?,
        cache_creation_1h_tokens: row.try_get("cache_creation_1h_tokens")?,
        cache_read_tokens: row.try_get("cache_read_tokens")?,
        cost_usd: if each_costs { cost.saturating_mul(Decimal::from(runs)) } else { cost },
    })
}

fn day_number(date: Date) -> sqlx::Result<i64> {
    let midnight = Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(midnight.as_microsecond().div_euclid(DAY))
}

impl Store {
    /// What the tenant's runs have used, by day and model.
    ///
    /// # Errors
    /// The database failed.
    pub async fn usage(&self, tenant: &str) -> Result<Vec<DayUsage>, StoreError> {
        within(async {
            // In one transaction, so that a conversation that is deleted meanwhile counts once.
            let mut transaction = self.0.begin().await?;
            let deleted = sqlx::query("SELECT * FROM usage_ledger WHERE tenant_id = $1")
                .bind(tenant)
                .fetch_all(&mut *transaction)
                .await?;
            let kept = sqlx::AssertSqlSafe(format!("{RUNS}{GROUPS}"));
            let kept = sqlx::query(kept).bind(tenant).fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            let deleted = deleted.iter().map(|row| read(row, false));
            let rows = deleted.chain(kept.iter().map(|row| read(row, true)));
            Ok(sums(rows.collect::<sqlx::Result<Vec<_>>>()?))
        })
        .await
    }
}

/// Adds the usage of a conversation's runs to the ledger, as part of the conversation's deletion.
pub(super) async fn keep_usage(
    transaction: &mut Transaction<'_, sqlx::Any>,
    tenant: &str,
    conversation: &str,
) -> Result<(), StoreError> {
    let rows = sqlx::AssertSqlSafe(format!("{RUNS} AND c.conversation_id = $2{GROUPS}"));
    let rows = sqlx::query(rows).bind(tenant).bind(conversation).fetch_all(&mut **transaction).await?;
    let rows = rows.iter().map(|row| read(row, true)).collect::<sqlx::Result<Vec<_>>>()?;
    for usage in sums(rows) {
        let day = day_number(usage.day)?;
        sqlx::query(
            "INSERT INTO usage_ledger (tenant_id, model_id, day, runs, input_tokens, output_tokens,
                    cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_tokens, cost_usd)
             VALUES ($1, $2, $3, 0, 0, 0, 0, 0, 0, '0') ON CONFLICT (tenant_id, model_id, day) DO NOTHING",
        )
        .bind(tenant)
        .bind(&usage.model_id)
        .bind(day)
        .execute(&mut **transaction)
        .await?;
        // This locks the row. Costs are decimals, which SQLite cannot add.
        let row = sqlx::query(
            "UPDATE usage_ledger SET runs = runs + 0 WHERE tenant_id = $1 AND model_id = $2 AND day = $3 RETURNING *",
        )
        .bind(tenant)
        .bind(&usage.model_id)
        .bind(day)
        .fetch_all(&mut **transaction)
        .await?
        .pop();
        let mut sum = read(&row.ok_or(sqlx::Error::RowNotFound)?, false)?;
        sum.add(&usage);
        sqlx::query(
            "UPDATE usage_ledger SET runs = $4, input_tokens = $5, output_tokens = $6, cache_creation_5m_tokens = $7,
                    cache_creation_1h_tokens = $8, cache_read_tokens = $9, cost_usd = $10
             WHERE tenant_id = $1 AND model_id = $2 AND day = $3",
        )
        .bind(tenant)
        .bind(&usage.model_id)
        .bind(day)
        .bind(sum.runs)
        .bind(sum.input_tokens)
        .bind(sum.output_tokens)
        .bind(sum.cache_creation_5m_tokens)
        .bind(sum.cache_creation_1h_tokens)
        .bind(sum.cache_read_tokens)
        .bind(sum.cost_usd.to_string())
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
