//! Messages that were sent while a run was in progress: each begins a run of its own when the runs before it have ended. They are files,
//! so that they outlive the server.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::order::Order;

/// Messages of one conversation that may wait.
pub const MOST_WAITING: usize = 20;

/// A message that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Id of the run that it will begin; ids ascend with time.
    pub run_id: String,
    /// What the run will do, as it was decided when the message came.
    pub order: Order,
}

/// All messages that wait, by conversation.
#[derive(Debug)]
pub struct Waiting {
    dir: PathBuf,
    queues: Mutex<HashMap<String, VecDeque<Message>>>,
}

/// Why a message cannot wait.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Too many wait.
    #[error("{MOST_WAITING} messages of this conversation wait already; send it when a run has ended")]
    Full,
    /// The message cannot be written to disk.
    #[error("the message cannot be written to disk: {0}")]
    Disk(#[from] io::Error),
}

impl Waiting {
    /// Opens the directory, and creates it if it is missing. The messages that an earlier process left wait still; one that cannot be
    /// read is logged and left alone.
    ///
    /// # Errors
    /// The directory cannot be created or read.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut messages = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Message>(&text)?)) {
                Ok(message) => messages.push(message),
                // Its writing was cut off, and nobody was told that it waits.
                Err(error) => tracing::warn!(?path, %error, "a message that waited cannot be read"),
            }
        }
        messages.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
        let mut queues: HashMap<String, VecDeque<Message>> = HashMap::new();
        for message in messages {
            queues.entry(message.order.conversation.conversation_id.clone()).or_default().push_back(message);
        }
        Ok(Self { dir, queues: Mutex::new(queues) })
    }

    /// The conversations for which messages wait.
    #[must_use]
    pub fn conversations(&self) -> Vec<String> {
        self.queues.lock().keys().cloned().collect()
    }

    /// Uploads of the messages that wait.
    #[must_use]
    pub fn uploads(&self) -> Vec<super::uploads::Uploaded> {
        self.queues.lock().values().flatten().filter_map(|message| message.order.uploads.clone()).collect()
    }

    /// Adds a message, and returns how many are before it.
    ///
    /// # Errors
    /// It cannot wait.
    pub fn add(&self, message: Message) -> Result<usize, WaitError> {
        let mut queues = self.queues.lock();
        let queue = queues.entry(message.order.conversation.conversation_id.clone()).or_default();
        if queue.len() >= MOST_WAITING {
            return Err(WaitError::Full);
        }
        self.write(&message)?;
        queue.push_back(message);
        Ok(queue.len() - 1)
    }

    fn write(&self, message: &Message) -> io::Result<()> {
        let path = self.path(&message.run_id);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        let written = serde_json::to_vec(message).map_err(io::Error::from).and_then(|text| {
            file.write_all(&text)?;
            file.sync_data()
        });
        written.inspect_err(|_| remove(&path))
    }

    fn path(&self, run_id: &str) -> PathBuf {
        self.dir.join(format!("{run_id}.json"))
    }

    /// The next message of a conversation, which waits until it is [taken](Waiting::taken).
    #[must_use]
    pub fn next(&self, conversation: &str) -> Option<Message> {
        self.queues.lock().get(conversation)?.front().cloned()
    }

    /// The run has a journal, so the message that begins it waits no longer.
    pub fn taken(&self, conversation: &str, run_id: &str) {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(conversation) else { return };
        let waiting = queue.len();
        queue.retain(|message| message.run_id != run_id);
        if queue.len() < waiting {
            remove(&self.path(run_id));
        }
        if queue.is_empty() {
            queues.remove(conversation);
        }
    }

    /// Drops all messages of a conversation; returns them.
    pub fn drop_all(&self, conversation: &str) -> Vec<Message> {
        let dropped: Vec<Message> = self.queues.lock().remove(conversation).into_iter().flatten().collect();
        dropped.iter().for_each(|message| remove(&self.path(&message.run_id)));
        dropped
    }
}

fn remove(path: &std::path::Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "a message that no longer waits was not removed");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(run_id: usize) -> Message {
        let time = "2026-01-01T00:00:00Z";
        let order = json!({
            "conversation": {"conversation_id": "c", "session_id": "s", "tenant_id": "t", "user_id": "u", "model_id": "m", "title": null,
                "status": "active", "workspace_enabled": true, "total_input_tokens": 0, "total_output_tokens": 0,
                "estimated_context_tokens": 0, "context_limit_reached": false, "created_at": time, "updated_at": time},
            "tenant": {"tenant_id": "t", "system_prompt": null, "model_id": null, "status": "active", "created_at": time,
                "updated_at": time},
            "model": {"model_id": "m", "display_name": "M", "provider": "bedrock", "provider_model_id": "p", "model_region": null,
                "context_window": 1, "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0", "status": "active",
                "created_at": time, "updated_at": time},
            "user_input": "hello"
        });
        Message { run_id: format!("{run_id:03}"), order: serde_json::from_value(order).expect("an order") }
    }

    #[test]
    fn messages_wait_in_order_also_for_the_next_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Waiting::open(dir.path().join("waiting")).expect("opens");
        let waiting = open();
        for run in 0..MOST_WAITING {
            assert_eq!(waiting.add(message(run)).expect("waits"), run);
        }
        assert!(matches!(waiting.add(message(MOST_WAITING)), Err(WaitError::Full)));
        fs::write(dir.path().join("waiting/torn.json"), "{").expect("writes");
        let next = open();
        assert_eq!(next.conversations(), ["c"]);
        assert_eq!(next.next("c").map(|message| message.run_id).as_deref(), Some("000"));
        next.taken("c", "000");
        assert_eq!(next.next("c").map(|message| message.run_id).as_deref(), Some("001"));
        assert_eq!(next.drop_all("c").len(), MOST_WAITING - 1);
        assert!(open().conversations().is_empty());
    }
}
