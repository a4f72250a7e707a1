//! Messages that were sent while a run was in progress: each begins a run of its own when the runs before it have ended. They are notes in
//! the journal of the run in progress, so that they outlive the server.

use std::collections::{HashMap, VecDeque};
use std::io;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::order::Order;

/// Messages of one conversation that may wait.
pub const MOST_WAITING: usize = 20;
/// Their size together, in bytes. The journal of each run repeats those that still wait.
const MOST_BYTES: usize = 32 << 20;

/// A message that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Id of the run that it will begin; ids ascend with time.
    pub run_id: String,
    /// What the run will do, as it was decided when the message came.
    pub order: Order,
    /// Id of the run that is interrupted for it: the one that was in progress when it came, and no later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<String>,
}

impl Message {
    fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }
}

/// All messages that wait, by conversation.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<String, VecDeque<Message>>>);

/// Why a message cannot wait.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Too many wait.
    #[error("{MOST_WAITING} messages of this conversation wait already; send it when a run has ended")]
    Full,
    /// Those that wait are too large together.
    #[error("the messages of this conversation that wait have at most {} MiB together; send it when a run has ended", MOST_BYTES >> 20)]
    TooLarge,
    /// The message cannot be written to the journal.
    #[error("the message cannot be written to disk: {0}")]
    Disk(#[from] io::Error),
}

impl Waiting {
    /// Takes up the messages that an earlier process has left in a journal.
    pub fn restore(&self, messages: Vec<Message>) {
        let mut queues = self.0.lock();
        for message in messages {
            let queue = queues.entry(message.order.conversation.conversation_id.clone()).or_default();
            // The next run's journal repeats those that were not its own.
            match queue.binary_search_by(|other| other.run_id.cmp(&message.run_id)) {
                Ok(at) => queue[at].interrupts = queue[at].interrupts.take().or(message.interrupts),
                Err(at) => queue.insert(at, message),
            }
        }
    }

    /// The conversations for which messages wait.
    #[must_use]
    pub fn conversations(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// Uploads of the messages that wait.
    #[must_use]
    pub fn uploads(&self) -> Vec<super::uploads::Uploaded> {
        self.0.lock().values().flatten().filter_map(|message| message.order.uploads.clone()).collect()
    }

    /// Adds a message, and returns how many are before it.
    ///
    /// # Errors
    /// Too many wait.
    pub fn add(&self, message: Message) -> Result<usize, WaitError> {
        let mut queues = self.0.lock();
        let queue = queues.entry(message.order.conversation.conversation_id.clone()).or_default();
        if queue.len() >= MOST_WAITING {
            return Err(WaitError::Full);
        }
        if !queue.is_empty() && queue.iter().chain([&message]).map(Message::bytes).sum::<usize>() > MOST_BYTES {
            return Err(WaitError::TooLarge);
        }
        // In the order of the ids, as they are found again after a restart.
        let at = queue.partition_point(|other| other.run_id < message.run_id);
        queue.insert(at, message);
        Ok(at)
    }

    /// Notes which run is interrupted for a message that waits.
    pub fn interrupts(&self, conversation: &str, run_id: &str, interrupted: &str) {
        let mut queues = self.0.lock();
        let mut queue = queues.get_mut(conversation).into_iter().flatten();
        if let Some(message) = queue.find(|message| message.run_id == run_id) {
            message.interrupts = Some(interrupted.to_owned());
        }
    }

    /// The run that is interrupted for a message that waits.
    #[must_use]
    pub fn interrupted_for(&self, conversation: &str, run_id: &str) -> Option<String> {
        self.0.lock().get(conversation)?.iter().find(|message| message.run_id == run_id)?.interrupts.clone()
    }

    /// The next message of a conversation, which waits until it is [taken](Waiting::take).
    #[must_use]
    pub fn next(&self, conversation: &str) -> Option<Message> {
        self.0.lock().get(conversation)?.front().cloned()
    }

    /// The messages of a conversation that wait, in order.
    #[must_use]
    pub fn all(&self, conversation: &str) -> Vec<Message> {
        self.0.lock().get(conversation).map(|queue| queue.iter().cloned().collect()).unwrap_or_default()
    }

    /// A message waits no longer, because its run has begun or will never begin; `false` if it did not wait.
    pub fn take(&self, conversation: &str, run_id: &str) -> bool {
        let mut queues = self.0.lock();
        let Some(queue) = queues.get_mut(conversation) else { return false };
        let waiting = queue.len();
        queue.retain(|message| message.run_id != run_id);
        let waited = queue.len() < waiting;
        if queue.is_empty() {
            queues.remove(conversation);
        }
        waited
    }

    /// Drops all messages of a conversation; returns them.
    pub fn drop_all(&self, conversation: &str) -> Vec<Message> {
        self.0.lock().remove(conversation).into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::journal::tests::order;

    fn message(run_id: usize) -> Message {
        Message { run_id: format!("{run_id:03}"), order: order(), interrupts: None }
    }

    #[test]
    fn which_run_is_interrupted_for_a_message_is_known_after_a_restart() {
        let waiting = Waiting::default();
        for run in 1..=2 {
            waiting.add(message(run)).expect("waits");
        }
        let earlier = waiting.all("c");
        waiting.interrupts("c", "002", "000");
        waiting.interrupts("c", "003", "000");
        let next = Waiting::default();
        // The journals of two runs: the earlier one has been written before it was known.
        next.restore(earlier);
        let written = serde_json::to_string(&waiting.all("c")).expect("JSON");
        next.restore(serde_json::from_str(&written).expect("messages"));
        let interrupted = ["001", "002", "003"].map(|run| next.interrupted_for("c", run));
        assert_eq!(interrupted, [None, Some("000".to_owned()), None]);
    }

    #[test]
    fn messages_wait_in_order() {
        let waiting = Waiting::default();
        for run in 0..MOST_WAITING {
            assert_eq!(waiting.add(message(run)).expect("waits"), run);
        }
        assert!(matches!(waiting.add(message(MOST_WAITING)), Err(WaitError::Full)));
        let next = Waiting::default();
        next.restore(waiting.all("c").into_iter().rev().collect());
        next.restore(waiting.all("c"));
        assert_eq!((next.conversations(), next.all("c").len()), (vec!["c".to_owned()], MOST_WAITING));
        assert_eq!(next.next("c").map(|message| message.run_id).as_deref(), Some("000"));
        assert!(next.take("c", "000") && !next.take("c", "000"));
        assert_eq!(next.next("c").map(|message| message.run_id).as_deref(), Some("001"));
        assert_eq!(next.drop_all("c").len(), MOST_WAITING - 1);
        assert!(next.conversations().is_empty());
        let mut large = message(0);
        large.order.user_input = "x".repeat(MOST_BYTES);
        assert_eq!(waiting.drop_all("c").len(), MOST_WAITING);
        assert_eq!(waiting.add(large.clone()).expect("begins its run at once"), 0);
        assert!(matches!(waiting.add(message(1)), Err(WaitError::TooLarge)));
    }
}
