//! Records what happens in a run: events in the journal, which clients read, and messages in the database, the conversation's
//! history.

use serde_json::{Value, json};

use super::Run;
use crate::conversation::event::{ErrorType, Event};
use crate::conversation::journal::EventLine;
use crate::conversation::store::{NewMessage, StoreError};

/// Names of the events that become messages of the conversation.
const MESSAGES: [&str; 5] = ["assistant", "thinking", "tool_call", "tool_result", "error"];

impl Run {
    /// Attributes the events that follow to the agent's event of this number. A resumed run receives the last of these again, and
    /// must not repeat the events that the earlier process has recorded for it.
    pub(super) fn set_agent_event(&mut self, number: u64) {
        self.agent_event = number;
        self.recorded = if number == self.past.agent_event { self.past.recorded } else { 0 };
    }

    /// Attributes the events that follow to the server itself.
    pub(super) fn clear_agent_event(&mut self) {
        (self.agent_event, self.recorded) = (0, 0);
    }

    /// Emits an `error` event after which another run may succeed.
    pub(super) async fn fail(&mut self, error_type: ErrorType, message: String) {
        self.emit_error(error_type, message, true).await;
    }

    /// Emits an `error` event after which another run fails in the same way, unless something is done first.
    pub(super) async fn fail_for_good(&mut self, error_type: ErrorType, message: String) {
        self.emit_error(error_type, message, false).await;
    }

    async fn emit_error(&mut self, error_type: ErrorType, message: String, recoverable: bool) {
        if self.recorded == 0 {
            self.errors.push(message.clone());
        }
        self.emit(&Event::Error { error_type, message, recoverable }).await;
    }

    /// Records an event and flushes the journal, so that readers see the event at once.
    pub(super) async fn emit(&mut self, event: &Event) {
        self.put(event).await;
        self.flush(event).await;
    }

    /// Records an event. Readers see it after the journal's next flush; an event that becomes a message is flushed at once.
    pub(super) async fn put(&mut self, event: &Event) {
        if self.recorded > 0 {
            self.recorded -= 1;
            return;
        }
        let seq = self.journal.put(self.agent_event, event);
        if MESSAGES.contains(&event.name()) {
            // Before the write to the database, so that readers need not wait for it.
            self.flush(event).await;
            self.add_message(seq, event).await;
        }
    }

    async fn flush(&self, event: &Event) {
        if let Err(error) = self.journal.flush().await {
            tracing::error!(run = self.journal.run_id(), event = event.name(), %error, "the event was not written to the journal");
        }
    }

    async fn add_message(&mut self, seq: usize, event: &Event) {
        // The database numbers messages as they arrive: once one is missing, all later ones wait for `catch_up`.
        if self.first_missing.is_none()
            && let Err(error) = self.store_message(seq, event.name(), &json!(event)).await
        {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, seq, %error, "the message is not in the database yet");
            self.first_missing = Some(seq);
        }
    }

    /// Adds a message to the database. One that the database refuses is left out for good: it must not hold up those after it.
    async fn store_message(&mut self, seq: usize, kind: &str, content: &Value) -> Result<(), StoreError> {
        let id = format!("{}:{seq}", self.journal.run_id());
        let conversation = &self.order.conversation.conversation_id;
        let new = NewMessage { id: &id, conversation, kind, subtype: None, content };
        match self.services.store.add_message(new).await {
            Err(refusal) if refusal.is_refusal() => {
                self.note_refusal(&refusal);
                Ok(())
            }
            result => result,
        }
    }

    /// Notes that the database refuses a part of the run, which makes the run a failed one. Only the first refusal is a line in the
    /// log: a room may cause any number of them.
    pub(super) fn note_refusal(&mut self, refusal: &StoreError) {
        if !std::mem::replace(&mut self.refused, true) {
            let conversation = &self.order.conversation.conversation_id;
            tracing::error!(conversation, run = self.journal.run_id(), error = %refusal, "the database refuses a part of the run");
        }
    }

    /// Adds the messages that are only in the journal to the database; a failure is logged and left to the next attempt.
    pub(super) async fn catch_up(&mut self) {
        if let Err(error) = self.try_catch_up().await {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, %error, "messages are not in the database yet");
        }
    }

    /// As [`Run::catch_up`].
    ///
    /// # Errors
    /// The journal cannot be read, or the database failed.
    pub(super) async fn try_catch_up(&mut self) -> Result<(), StoreError> {
        // A gap in it shows when it is needed: then another workspace is told the messages.
        if let Err(error) = self.store_transcript().await {
            tracing::debug!(run = self.journal.run_id(), %error, "the driver's transcript is not stored yet");
        }
        let Some(from) = self.first_missing else { return Ok(()) };
        // The file, which is read below, must also hold the events that an earlier flush could not write.
        self.journal.flush().await.map_err(|error| StoreError::Journal(error.to_string()))?;
        if from == 0 {
            self.store_message(0, "user", &self.order.message()).await?;
        }
        let mut seq = 0;
        let journal = self.journal.clone();
        let mut lines = journal.lines();
        while let Some(line) = lines.next_line().map_err(|error| StoreError::Journal(error.to_string()))? {
            let Some(event) = std::str::from_utf8(line).ok().and_then(EventLine::parse) else { continue };
            seq += 1;
            if seq < from || !MESSAGES.contains(&event.name) {
                continue;
            }
            let mut content: Value =
                serde_json::from_str(event.data).map_err(|error| StoreError::Journal(error.to_string()))?;
            if let Some(fields) = content.as_object_mut() {
                fields.retain(|name, _| name != "seq" && name != "timestamp");
            }
            self.store_message(seq, event.name, &content).await?;
        }
        self.first_missing = None;
        Ok(())
    }
}
