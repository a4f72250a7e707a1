//! Waits for people: what the driver asks, what is decided, and what is told to whom.

use jiff::Timestamp;
use nagaya_driver::{Answer, Ask, AskKind};
use serde_json::json;

use super::Run;
use super::follow::Time;
use crate::conversation::approvals::{Decision, Pending};
use crate::conversation::asked::{Asked, Resolution};
use crate::conversation::event::Event;
use crate::conversation::recovery;
use nagaya_telemetry::audit;
use nagaya_workspace::Lease;
use nagaya_workspace::agent::AgentError;

/// Questions one after the other that nobody has answered; while further ones wait, the time is the run's.
const MOST_UNANSWERED: u32 = 5;
/// What the model is told of a tool about which nobody has decided in time.
const NOBODY: &str = "Nobody has decided about this in time, so it may not be done. Do something else, or end.";
/// The answer to a question that nobody has answered in time.
const NO_ANSWER: &str = "no answer";
/// The result of a tool of the caller's that nobody has sent in time.
const NO_RESULT: &str = "Nobody has sent the result of this tool in time. Whether it was carried out is not known.";

impl Run {
    /// Asks what the driver asks. The error says that it asks too much.
    pub(super) async fn ask(&mut self, ask: Ask) -> Result<(), String> {
        let expires_at = Timestamp::now() + self.services.approval_timeout;
        let pending = Pending { ask, expires_at };
        let event = event(&pending);
        if !self.approvals.ask(pending)? {
            return Ok(());
        }
        self.emit(&event).await;
        Ok(())
    }

    /// What an earlier process has asked is asked still, and what was decided may not have been delivered.
    pub(super) async fn ask_again(&mut self) {
        for (pending, decision) in std::mem::take(&mut self.past.asked) {
            let id = pending.ask.request_id.clone();
            let asked = self.approvals.ask(pending).is_ok();
            if let (true, Some(decision)) = (asked, decision)
                && let Err(error) = self.approvals.decide(&id, decision, async |_| Ok(())).await
            {
                tracing::warn!(run = self.journal.run_id(), id, %error, "a decision of before the restart was not found again");
            }
        }
    }

    /// The driver no longer asks this.
    pub(super) async fn withdrawn(&mut self, request_id: String) {
        if self.approvals.withdraw(&request_id) {
            let kind = self.approvals.asked(&request_id).map_or(AskKind::Approval, |ask| ask.kind);
            self.resolved(kind, request_id, Resolution::Withdrawn, None, None).await;
        }
    }

    /// Nothing is asked any more, because the turn has ended.
    pub(super) async fn withdraw_all(&mut self) {
        self.clear_agent_event();
        for pending in self.approvals.pending() {
            self.withdrawn(pending.ask.request_id).await;
        }
        // Decided too late for the driver to be told: clients that were told of the question are told that it came to nothing.
        while let Some((ask, Decision { by, .. })) = self.approvals.next_decided() {
            self.approvals.delivered(&ask.request_id);
            self.resolved(ask.kind, ask.request_id, Resolution::Withdrawn, by, None).await;
        }
    }

    /// Decides what nobody has decided in time.
    pub(super) async fn decide_expired(&mut self) {
        let now = Timestamp::now();
        for Pending { ask, .. } in self.approvals.pending().into_iter().filter(|pending| pending.expires_at <= now) {
            let answer = match ask.kind {
                AskKind::Approval => Answer::Deny { message: NOBODY.into() },
                AskKind::Question => self.services.driver.answers(&ask, &|_| Some(NO_ANSWER.into())),
                AskKind::ClientTool => Answer::Result { content: NO_RESULT.into(), is_error: true },
            };
            let decision = Decision { answer, by: None };
            match self.journal.decide(&self.approvals, &ask.request_id, decision).await {
                Ok(_) => self.unanswered = self.unanswered.saturating_add(1),
                Err(error) => {
                    tracing::warn!(run = self.journal.run_id(), id = ask.request_id, %error, "nobody has decided in time");
                }
            }
        }
    }

    /// When the next question expires.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.approvals.waiting().1
    }

    /// Whether nothing but people is waited for: then the time is not the run's. It is again where nobody seems to be there, because what
    /// is in the workspace decides how often it asks.
    pub(super) fn waits_for_people(&self) -> bool {
        let (waiting, _) = self.approvals.waiting();
        waiting > 0 && self.translator.open_tools() <= waiting && self.unanswered < MOST_UNANSWERED
    }

    /// Tells the driver what has been decided since the last time, until something else is to be done.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub(super) async fn deliver(&mut self, lease: &Lease, execution: &str, time: Time) -> Result<(), AgentError> {
        while !self.is_called(time)
            && let Some((ask, decision)) = self.approvals.next_decided()
        {
            self.clear_agent_event();
            let resolution = Resolution::of(&decision);
            let Decision { answer, by } = decision;
            let lines = self.services.driver.answer(&ask, &answer);
            match recovery::deliver(lease, execution, &ask.request_id, lines).await {
                // The stream says how the execution has ended; what was not delivered is then withdrawn.
                Err(error) if error.is_gone() => return Ok(()),
                delivered => delivered?,
            }
            self.approvals.delivered(&ask.request_id);
            if by.is_some() {
                self.unanswered = 0;
            }
            let message = match answer {
                Answer::Deny { message } => Some(message),
                Answer::Allow { .. } | Answer::Result { .. } => None,
            };
            self.resolved(ask.kind, ask.request_id, resolution, by, message).await;
        }
        Ok(())
    }

    async fn resolved(
        &mut self,
        kind: AskKind,
        request_id: String,
        decision: Resolution,
        by: Option<String>,
        message: Option<String>,
    ) {
        self.services.audit.record(&audit::Event::Approval {
            subject: self.order.subject(self.room.as_deref()),
            run: self.journal.run_id(),
            approval: &request_id,
            decision: json!(decision).as_str().unwrap_or_default(),
            by: by.as_deref(),
        });
        self.emit(&match kind {
            AskKind::ClientTool => Event::ToolRequestResolved { request_id, outcome: decision, by },
            AskKind::Approval | AskKind::Question => Event::ApprovalResolved { request_id, decision, by, message },
        })
        .await;
    }
}

fn event(pending: &Pending) -> Event {
    let asked = Asked::from(pending.clone());
    match pending.ask.kind {
        AskKind::Approval => Event::ApprovalRequired(asked),
        AskKind::Question => Event::Question(asked),
        AskKind::ClientTool => Event::ToolRequest(asked),
    }
}
