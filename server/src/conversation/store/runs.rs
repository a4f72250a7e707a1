//! Finished runs in the store: their usage and cost.

use jiff::Timestamp;
use nagaya_driver::Usage;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::messages::{self, NewMessage};
use super::{Store, StoreError, to_micros, within};

/// The changes that a finished run makes to its conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunTotals {
    /// Id of the driver's session, if the driver started one.
    pub session_id: Option<String>,
    /// Title for a conversation that has none.
    pub title: Option<String>,
    /// Input tokens to add to the conversation's total.
    pub input_tokens: i64,
    /// Output tokens to add to the conversation's total.
    pub output_tokens: i64,
    /// Estimated input tokens of the next turn; `None` keeps the previous estimate.
    pub context_tokens: Option<i64>,
    /// Whether the model's context window is full.
    pub context_full: bool,
}

/// A finished run.
#[derive(Debug, Clone, Copy)]
pub struct EndedRun<'a> {
    /// Id of the run.
    pub id: &'a str,
    /// Id of the conversation.
    pub conversation: &'a str,
    /// Id of the model that the run is billed for.
    pub model: &'a str,
    /// How the run ended: `success`, `error` or `cancelled`.
    pub status: &'a str,
    /// Time when the run began.
    pub began: Timestamp,
    /// Tokens that the run used, by kind.
    pub usage: Usage,
    /// Cost in USD, an exact decimal.
    pub cost_usd: &'a str,
    /// Number of model turns.
    pub turns: u32,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Changes to the conversation.
    pub totals: &'a RunTotals,
    /// Data of the `done` event, which becomes a message.
    pub done: &'a Value,
}

/// A column's new value: its old one, which may be REAL in an SQLite file of version 0.1, and an amount that is not negative, up to the
/// largest integer. An overflowing sum turns REAL in SQLite and fails in PostgreSQL.
macro_rules! added {
    ($column:literal, $amount:literal) => {
        concat!(
            $column,
            " = CASE WHEN CAST(",
            $column,
            " AS BIGINT) > 9223372036854775807 - ",
            $amount,
            " THEN 9223372036854775807 ELSE CAST(",
            $column,
            " AS BIGINT) + ",
            $amount,
            " END"
        )
    };
}

impl Store {
    /// Adds a run, its `done` message and its totals to the conversation. A run whose id is there already is not added again, and
    /// nothing is added to a conversation that has been deleted.
    ///
    /// Totals stop at the largest integer.
    ///
    /// # Errors
    /// The database failed, or refuses one of the values; nothing was added.
    pub async fn add_run(&self, run: EndedRun<'_>) -> Result<(), StoreError> {
        within(async {
            let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let now = to_micros(Timestamp::now());
            let mut transaction = self.0.begin().await?;
            let added = sqlx::query(
                "INSERT INTO runs (run_id, conversation_id, model_id, status, input_tokens, output_tokens,
                        cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_tokens, cost_usd, turn_count,
                        duration_ms, began_at, ended_at)
                 SELECT $1, conversation_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14
                 FROM conversations WHERE conversation_id = $2
                 ON CONFLICT (run_id) DO NOTHING",
            )
            .bind(run.id)
            .bind(run.conversation)
            .bind(run.model)
            .bind(run.status)
            .bind(signed(run.usage.input_tokens))
            .bind(signed(run.usage.output_tokens))
            .bind(signed(run.usage.cache_creation_5m_tokens))
            .bind(signed(run.usage.cache_creation_1h_tokens))
            .bind(signed(run.usage.cache_read_tokens))
            .bind(run.cost_usd)
            .bind(i64::from(run.turns))
            .bind(signed(run.duration_ms))
            .bind(to_micros(run.began))
            .bind(now)
            .execute(&mut *transaction)
            .await?;
            if added.rows_affected() > 0 {
                sqlx::query(concat!(
                    "UPDATE conversations SET session_id = COALESCE($2, session_id), title = COALESCE(title, $3), ",
                    added!("total_input_tokens", "$4"),
                    ", ",
                    added!("total_output_tokens", "$5"),
                    ", estimated_context_tokens = COALESCE($6, CAST(estimated_context_tokens AS BIGINT)),
                            context_limit_reached = $7, updated_at = $8
                     WHERE conversation_id = $1",
                ))
                .bind(run.conversation)
                .bind(&run.totals.session_id)
                .bind(&run.totals.title)
                .bind(run.totals.input_tokens.max(0))
                .bind(run.totals.output_tokens.max(0))
                .bind(run.totals.context_tokens)
                .bind(run.totals.context_full)
                .bind(now)
                .execute(&mut *transaction)
                .await?;
                let id = format!("{}:done", run.id);
                let (conversation, subtype) = (run.conversation, Some(run.status));
                let message = NewMessage { id: &id, conversation, kind: "done", subtype, content: run.done };
                messages::add(&mut *transaction, message).await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}
