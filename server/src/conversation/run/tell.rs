//! What a run tells: its readers by the journal, the conversation's history by the database.

use serde_json::{Value, json};

use super::Run;
use crate::conversation::event::{ErrorType, Event};
use crate::conversation::journal::EventLine;
use crate::conversation::store::{NewMessage, StoreError};

/// Events that belong into the conversation's history.
const KEPT: [&str; 5] = ["assistant", "thinking", "tool_call", "tool_result", "error"];

impl Run {
    /// From here on, what is told comes of the agent's event of this number.
    pub(super) fn hear(&mut self, number: u64) {
        self.agent = number;
        self.told = if number == self.past.agent { self.past.of_agent } else { 0 };
    }

    pub(super) async fn fail(&mut self, error_type: ErrorType, message: String, recoverable: bool) {
        if self.told == 0 {
            self.errors.push(message.clone());
        }
        self.say(&Event::Error { error_type, message, recoverable }).await;
    }

    /// Tells an event at once.
    pub(super) async fn say(&mut self, event: &Event) {
        self.put(event).await;
        self.show(event);
    }

    /// Tells an event, to be seen after the journal's next flush; one that goes into the history is seen at once.
    pub(super) async fn put(&mut self, event: &Event) {
        // An earlier process has told it.
        if self.told > 0 {
            self.told -= 1;
            return;
        }
        let seq = self.journal.put(self.agent, event);
        if KEPT.contains(&event.name()) {
            // The readers need not wait for the database.
            self.show(event);
            self.keep(seq, event).await;
        }
    }

    fn show(&self, event: &Event) {
        if let Err(error) = self.journal.flush() {
            tracing::error!(run = self.journal.run_id(), event = event.name(), %error, "not in the journal");
        }
    }

    async fn keep(&mut self, seq: usize, event: &Event) {
        // Messages go in by their order: behind one that is missing, all wait for `catch_up`.
        if self.unkept.is_none()
            && let Err(error) = self.message(seq, event.name(), &json!(event)).await
        {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, seq, %error, "a message is not in the database yet");
            self.unkept = Some(seq);
        }
    }

    async fn message(&self, seq: usize, kind: &str, content: &Value) -> Result<(), StoreError> {
        let id = format!("{}:{seq}", self.journal.run_id());
        let conversation = &self.order.conversation.conversation_id;
        self.services.store.add_message(NewMessage { id: &id, conversation, kind, subtype: None, content }).await
    }

    /// Brings messages that are only in the journal into the database.
    pub(super) async fn catch_up(&mut self) {
        if let Err(error) = self.catch_up_now().await {
            let conversation = &self.order.conversation.conversation_id;
            tracing::warn!(conversation, %error, "messages are not in the database yet");
        }
    }

    pub(super) async fn catch_up_now(&mut self) -> Result<(), StoreError> {
        let Some(from) = self.unkept else { return Ok(()) };
        // What the disk did not take when it was told is read below, too.
        self.journal.flush().map_err(|error| StoreError::Journal(error.to_string()))?;
        if from == 0 {
            let mut said = json!({"text": self.order.user_input});
            if let Some(uploads) = &self.order.uploads {
                said["files"] = json!(uploads.files);
            }
            self.message(0, "user", &said).await?;
        }
        let mut seq = 0;
        let mut lines = self.journal.lines();
        while let Some(line) = lines.next_line().map_err(|error| StoreError::Journal(error.to_string()))? {
            let Some(event) = std::str::from_utf8(line).ok().and_then(EventLine::parse) else { continue };
            seq += 1;
            if seq < from || !KEPT.contains(&event.name) {
                continue;
            }
            let mut content: Value =
                serde_json::from_str(event.data).map_err(|error| StoreError::Journal(error.to_string()))?;
            if let Some(fields) = content.as_object_mut() {
                fields.retain(|name, _| name != "seq" && name != "timestamp");
            }
            self.message(seq, event.name, &content).await?;
        }
        self.unkept = None;
        Ok(())
    }
}
