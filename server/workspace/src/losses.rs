//! What was lost with workspaces that ended unexpectedly, kept until each conversation's next run can tell its client.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::reason::ReleaseReason;

/// Maximum number of losses that are kept. Those beyond it are only in the log.
const KEPT: usize = 10_000;

/// What has become of a lost workspace's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesFate {
    /// All of them are in the bucket.
    KeptInBucket,
    /// What was changed since they were last saved to the bucket is lost.
    LostSinceLastSave,
    /// There is no bucket: all of them are lost.
    Lost,
}

/// The loss of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Why the workspace was released.
    pub why: ReleaseReason,
    /// What has become of its files.
    pub files: FilesFate,
}

/// Losses of which no client has been told, by conversation.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<HashMap<String, Loss>>);

impl Losses {
    /// Takes the loss of the conversation's workspace, if there is one.
    pub(crate) fn take(&self, conversation: &str) -> Option<Loss> {
        self.0.lock().remove(conversation)
    }

    pub(crate) fn note(&self, conversation: String, loss: Loss) {
        let mut losses = self.0.lock();
        if losses.len() < KEPT || losses.contains_key(&conversation) {
            losses.insert(conversation, loss);
        }
    }
}
