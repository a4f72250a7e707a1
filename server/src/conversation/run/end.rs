//! The end of a run: first into the journal, then into the database, then told.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nagaya_protocol::Usage;
use serde_json::json;

use super::{Outcome, Run, millis};
use crate::conversation::cost;
use crate::conversation::event::{Done, DoneStatus, ErrorType, Event, UsageReport};
use crate::conversation::journal::{Ending, Journal, Note};
use crate::conversation::order::Order;
use crate::conversation::services::RunServices;
use crate::conversation::store::{EndedRun, RunTotals, StoreError};
use nagaya_telemetry::audit;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::backoff::Backoff;

/// How long the readers wait for the database before they are told the end without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries after that: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What still has to be said where a run's code panicked.
pub(in crate::conversation) struct Closing {
    journal: Arc<Journal>,
    services: RunServices,
    order: Order,
    began: Timestamp,
}

impl Closing {
    /// Tells it; the run has no more to settle.
    pub(in crate::conversation) fn after_panic(self) -> bool {
        let message = "the server failed while it was running this; it is a bug of the server".to_owned();
        tracing::error!(run = self.journal.run_id(), "a run panicked");
        let (error_type, recoverable) = (ErrorType::InternalError, false);
        let errors = vec![message.clone()];
        let done = Event::Done(done(&Outcome::error(), "0".into(), errors, self.began));
        self.journal.settle();
        let told = self
            .journal
            .append(0, &Event::Error { error_type, message, recoverable })
            .and_then(|_| self.journal.append(0, &done))
            .and_then(|_| self.journal.note(&Note::Settled));
        if let Err(error) = told {
            tracing::error!(run = self.journal.run_id(), %error, "its end is not in the journal");
        }
        if let Some(uploads) = &self.order.uploads {
            self.services.uploads.remove(uploads);
        }
        self.services.metrics.run_ended(RunOutcome::Error);
        self.services.audit.record(&audit::Event::RunEnded {
            subject: self.order.subject(None),
            run: self.journal.run_id(),
            request_id: self.order.request_id.as_deref(),
            status: RunOutcome::Error,
            input_tokens: 0,
            output_tokens: 0,
            duration_ms: millis(self.began),
        });
        true
    }
}

impl Run {
    pub(in crate::conversation) fn closing(&self) -> Closing {
        Closing {
            journal: self.journal.clone(),
            services: self.services.clone(),
            order: self.order.clone(),
            began: self.began,
        }
    }

    /// Leaves the run to the next process.
    pub(super) async fn leave(self) -> bool {
        if let Err(error) = self.journal.sync().await {
            tracing::error!(run = self.journal.run_id(), %error, "a run that goes on is not on disk");
        }
        false
    }

    /// How it ended, in the journal and on disk: whatever happens from here on, the run has ended like this.
    pub(super) async fn ending(&mut self, outcome: Outcome) -> Ending {
        let model = &self.order.model;
        let cost = cost::of_run(&outcome.usage, model.input_token_price, model.output_token_price);
        let context = context_tokens(&outcome.usage, outcome.turns);
        let window = model.context_window.unsigned_abs();
        if let Some(tokens) = context {
            self.say(&context_status(tokens, window)).await;
        }
        let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let ending = Ending {
            totals: RunTotals {
                session_id: outcome.session.clone(),
                title: (outcome.status == DoneStatus::Success).then(|| self.title()),
                input_tokens: signed(outcome.usage.total() - outcome.usage.output_tokens),
                output_tokens: signed(outcome.usage.output_tokens),
                context_tokens: context.map(signed),
                context_full: context.is_some_and(|tokens| tokens >= window),
            },
            usage: outcome.usage,
            outcome: outcome.outcome,
            done: done(&outcome, cost.to_string(), std::mem::take(&mut self.errors), self.began),
        };
        let written = self.journal.note(&Note::Ending(Box::new(ending.clone())));
        let written = match written {
            Ok(()) => self.journal.sync().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(run = self.journal.run_id(), %error, "a run's end is not on disk");
        }
        ending
    }

    /// Settles the run with the database, tells its end, and is `false` only where the server stops before the database
    /// has it.
    pub(super) async fn conclude(mut self, ending: Ending) -> bool {
        let first = tokio::time::timeout(PATIENCE, self.settle(&ending)).await;
        let mut settled = match first {
            Ok(result) => result,
            Err(_) => Err(StoreError::Slow(PATIENCE)),
        };
        if settled.is_ok() {
            self.journal.settle();
        }
        if !self.past.done {
            self.services.metrics.run_ended(ending.outcome);
            self.services.audit.record(&audit::Event::RunEnded {
                subject: self.order.subject(self.room.as_deref()),
                run: self.journal.run_id(),
                request_id: self.order.request_id.as_deref(),
                status: ending.outcome,
                input_tokens: ending.usage.total() - ending.usage.output_tokens,
                output_tokens: ending.usage.output_tokens,
                duration_ms: ending.done.duration_ms,
            });
            let (status, took_ms) = (ending.done.status, ending.done.duration_ms);
            let conversation = &self.order.conversation.conversation_id;
            tracing::info!(conversation, run = self.journal.run_id(), ?status, took_ms, "run ended");
            self.agent = 0;
            self.told = 0;
            self.say(&Event::Done(ending.done.clone())).await;
        }
        let mut backoff = Backoff::new(PAUSE);
        while let Err(error) = settled {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, run = self.journal.run_id(), %error, "the run is not in the database yet");
            if self.stop.clone().run_until_cancelled_owned(backoff.pause()).await.is_none() {
                return false;
            }
            settled = self.settle(&ending).await;
        }
        self.settled()
    }

    /// Nothing is left to be done.
    pub(super) fn settled(&self) -> bool {
        self.forget_uploads();
        self.journal.settle();
        if let Err(error) = self.journal.note(&Note::Settled) {
            tracing::warn!(run = self.journal.run_id(), %error, "the next start settles the run once more");
        }
        true
    }

    async fn settle(&mut self, ending: &Ending) -> Result<(), StoreError> {
        self.catch_up_now().await?;
        let status = json!(ending.done.status);
        self.services
            .store
            .add_run(EndedRun {
                id: self.journal.run_id(),
                conversation: &self.order.conversation.conversation_id,
                model: &self.order.model.model_id,
                status: status.as_str().unwrap_or_default(),
                began: self.began,
                usage: ending.usage,
                cost_usd: &ending.done.cost_usd,
                turns: ending.done.turn_count,
                duration_ms: ending.done.duration_ms,
                totals: &ending.totals,
                done: &json!(ending.done),
            })
            .await
    }
}

fn done(outcome: &Outcome, cost_usd: String, errors: Vec<String>, began: Timestamp) -> Done {
    Done {
        status: outcome.status,
        result: outcome.result.clone(),
        is_error: outcome.status == DoneStatus::Error,
        errors,
        usage: UsageReport::from(outcome.usage),
        cost_usd,
        turn_count: outcome.turns,
        duration_ms: millis(began),
        session_id: outcome.session.clone(),
    }
}

/// Estimate of what the next turn would send: the mean input of this run's turns, and all it has put out.
fn context_tokens(usage: &Usage, turns: u32) -> Option<u64> {
    let input = usage.total() - usage.output_tokens;
    (turns > 0).then(|| input / u64::from(turns) + usage.output_tokens)
}

fn context_status(tokens: u64, window: u64) -> Event {
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    let percent = if window == 0 { 100.0 } else { tokens as f64 * 100.0 / window as f64 };
    let warning_level = match percent {
        p if p >= 100.0 => "blocked",
        p if p >= 90.0 => "critical",
        p if p >= 75.0 => "warning",
        _ => "normal",
    };
    Event::ContextStatus {
        current_context_tokens: tokens,
        max_context_tokens: window,
        usage_percent: (percent * 10.0).round() / 10.0,
        warning_level,
        can_continue: percent < 100.0,
    }
}
