//! The end of a run. It is written to the journal first, then to the database, and then reported to the readers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nagaya_driver::Usage;
use serde_json::json;

use super::{Outcome, Run, Settled, millis};
use crate::conversation::event::{Done, DoneStatus, ErrorType, Event, UsageReport};
use crate::conversation::journal::{Ending, Journal, Note};
use crate::conversation::order::Order;
use crate::conversation::services::RunServices;
use crate::conversation::store::{EndedRun, RunTotals, StoreError};
use nagaya_telemetry::audit;
use nagaya_telemetry::metrics::RunOutcome;
use nagaya_workspace::backoff::Backoff;

/// How long `done` is held back for the database. After that it is sent although the database does not have the run yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a client is told of a run of which the database refuses a part. Why it does is in the log.
const REFUSED: &str =
    "the database refuses a part of what this run reported; that part is not stored, and the run counts as failed";
/// Pause between two attempts after that: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What is needed to end a run whose code panicked.
pub(in crate::conversation) struct AfterPanic {
    journal: Arc<Journal>,
    services: RunServices,
    order: Order,
    began: Timestamp,
}

impl AfterPanic {
    /// Ends the run with an error in the journal, the metrics and the audit trail. The database does not learn of the run.
    pub(in crate::conversation) async fn end_run(self) {
        let message = "the server failed during this run, because of a bug in the server".to_owned();
        tracing::error!(run = self.journal.run_id(), "a run panicked");
        let errors = vec![message.clone()];
        let done = Event::Done(done(&Outcome::error(), "0".into(), errors, self.began));
        self.journal.settle();
        let error = Event::Error { error_type: ErrorType::InternalError, message, recoverable: false };
        let written = async {
            self.journal.append(0, &error).await?;
            self.journal.append(0, &done).await?;
            self.journal.note(&Note::Settled).await
        };
        if let Err(error) = written.await {
            tracing::error!(run = self.journal.run_id(), %error, "the run's end was not written to the journal");
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
            cache_creation_5m_tokens: 0,
            cache_creation_1h_tokens: 0,
            cache_read_tokens: 0,
            cost_usd: "0",
            duration_ms: millis(self.began),
        });
    }
}

impl Run {
    pub(in crate::conversation) fn after_panic(&self) -> AfterPanic {
        AfterPanic {
            journal: self.journal.clone(),
            services: self.services.clone(),
            order: self.order.clone(),
            began: self.began,
        }
    }

    /// Leaves the run to the next process.
    pub(super) async fn leave(self) -> Settled {
        if let Err(error) = self.journal.sync().await {
            tracing::error!(run = self.journal.run_id(), %error, "the journal of a run in progress was not synced to disk");
        }
        Settled::No
    }

    /// Writes the run's end to the journal and syncs it to disk. From here on a restart reports this end.
    pub(super) async fn write_ending(&mut self, mut outcome: Outcome) -> Ending {
        if self.refused {
            self.clear_agent_event();
            self.fail(ErrorType::RecordError, REFUSED.into()).await;
            outcome.fail();
        }
        if outcome.usage == Usage::default() {
            // Cut off: what the model's answers have reported so far counts.
            outcome.usage = self.usage;
        }
        let model = &self.order.model;
        let cost = self.meter.cost(outcome.usage);
        let context = context_tokens(&outcome.usage, outcome.turns);
        let window = model.context_window.unsigned_abs();
        if let Some(tokens) = context {
            self.emit(&context_status(tokens, window)).await;
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
        self.keep_ending(&ending).await;
        ending
    }

    async fn keep_ending(&self, ending: &Ending) {
        if let Err(error) = self.journal.keep_ending(ending).await {
            tracing::error!(run = self.journal.run_id(), %error, "the run's end was not synced to disk");
        }
    }

    /// Writes the run to the database and emits `done`. The run is left unsettled only if the server stops before the database has
    /// it.
    pub(super) async fn conclude(mut self, mut ending: Ending) -> Settled {
        let first = tokio::time::timeout(PATIENCE, self.settle(&mut ending)).await;
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
                cache_creation_5m_tokens: ending.usage.cache_creation_5m_tokens,
                cache_creation_1h_tokens: ending.usage.cache_creation_1h_tokens,
                cache_read_tokens: ending.usage.cache_read_tokens,
                cost_usd: &ending.done.cost_usd,
                duration_ms: ending.done.duration_ms,
            });
            let (status, took_ms) = (ending.done.status, ending.done.duration_ms);
            let conversation = &self.order.conversation.conversation_id;
            tracing::info!(conversation, run = self.journal.run_id(), ?status, took_ms, "run ended");
            self.clear_agent_event();
            self.emit(&Event::Done(ending.done.clone())).await;
        }
        let mut backoff = Backoff::new(PAUSE);
        while let Err(error) = settled {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, run = self.journal.run_id(), %error, "the run is not in the database yet");
            if self.stop.clone().run_until_cancelled_owned(backoff.pause()).await.is_none() {
                return Settled::No;
            }
            settled = self.settle(&mut ending).await;
        }
        self.mark_settled().await
    }

    /// Marks the run as settled: the next start need not look at it.
    pub(super) async fn mark_settled(&self) -> Settled {
        self.remove_uploads();
        self.journal.settle();
        if let Err(error) = self.journal.note(&Note::Settled).await {
            tracing::warn!(run = self.journal.run_id(), %error, "the run was not marked as settled; the next start settles it again");
        }
        Settled::Yes
    }

    /// Adds the run's missing messages and totals to the database; may be repeated. A run of which the database refuses a part is
    /// added as a failed one: another attempt could only fail again, and would hold up the conversation.
    async fn settle(&mut self, ending: &mut Ending) -> Result<(), StoreError> {
        self.try_catch_up().await?;
        if self.refused && ending.done.status != DoneStatus::Error {
            ending.fail(REFUSED);
            self.keep_ending(ending).await;
        }
        match self.add(ending).await {
            Err(refusal) if refusal.is_refusal() => self.note_refusal(&refusal),
            result => return result,
        }
        ending.strip();
        ending.fail(REFUSED);
        self.keep_ending(ending).await;
        match self.add(ending).await {
            Err(refusal) if refusal.is_refusal() => {
                tracing::error!(run = self.journal.run_id(), error = %refusal, "the database refuses the whole run; only its journal has it");
                Ok(())
            }
            result => result,
        }
    }

    async fn add(&self, ending: &Ending) -> Result<(), StoreError> {
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

impl Ending {
    /// Makes this the end of a failed run.
    fn fail(&mut self, why: &str) {
        self.outcome = RunOutcome::Error;
        (self.done.status, self.done.is_error) = (DoneStatus::Error, true);
        if !self.done.errors.iter().any(|error| error == why) {
            self.done.errors.push(why.to_owned());
        }
    }

    /// Removes everything that the workspace has reported.
    fn strip(&mut self) {
        self.usage = Usage::default();
        self.totals = RunTotals {
            session_id: None,
            title: None,
            input_tokens: 0,
            output_tokens: 0,
            context_tokens: None,
            context_full: false,
        };
        self.done = Done {
            status: DoneStatus::Error,
            result: String::new(),
            is_error: true,
            errors: Vec::new(),
            usage: UsageReport::default(),
            cost_usd: "0".into(),
            turn_count: 0,
            duration_ms: self.done.duration_ms,
            session_id: None,
            stop_reason: None,
            structured_output: None,
        };
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
        stop_reason: outcome.stop_reason.clone(),
        structured_output: outcome.structured_output.clone(),
    }
}

/// Estimated input tokens of the next turn: the mean input of this run's turns, and all of the run's output.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_of_the_next_turn_is_the_mean_input_and_all_output() {
        let usage = Usage { input_tokens: 300, output_tokens: 70, ..Usage::default() };
        assert_eq!(context_tokens(&usage, 3), Some(170));
        assert_eq!(context_tokens(&usage, 1), Some(370));
        assert_eq!(context_tokens(&usage, 0), None);
        let cached = Usage {
            input_tokens: 1,
            output_tokens: 2,
            cache_creation_5m_tokens: 10,
            cache_creation_1h_tokens: 20,
            cache_read_tokens: 30,
        };
        assert_eq!(context_tokens(&cached, 1), Some(63), "what is cached is input, too");
    }

    #[test]
    fn a_context_is_blocked_once_it_is_full_and_warned_of_before() {
        for (tokens, window, level, goes_on, percent) in [
            (0, 1000, "normal", true, 0.0),
            (749, 1000, "normal", true, 74.9),
            (750, 1000, "warning", true, 75.0),
            (899, 1000, "warning", true, 89.9),
            (900, 1000, "critical", true, 90.0),
            (999, 1000, "critical", true, 99.9),
            (1000, 1000, "blocked", false, 100.0),
            (2000, 1000, "blocked", false, 200.0),
            (1, 3, "normal", true, 33.3),
            (1, 0, "blocked", false, 100.0),
        ] {
            let Event::ContextStatus {
                current_context_tokens,
                max_context_tokens,
                usage_percent,
                warning_level,
                can_continue,
            } = context_status(tokens, window)
            else {
                panic!("another event")
            };
            assert_eq!((current_context_tokens, max_context_tokens), (tokens, window));
            assert_eq!((warning_level, can_continue), (level, goes_on), "{tokens} of {window}");
            assert!((usage_percent - percent).abs() < 1e-9, "{tokens} of {window}: {usage_percent}");
        }
    }
}
