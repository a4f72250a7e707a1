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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_the_last_one_counts_and_so_many_are_kept() {
        let losses = Losses::default();
        let loss = |why| Loss { why, files: FilesFate::Lost };
        losses.note("a".into(), loss(ReleaseReason::Dead));
        losses.note("a".into(), loss(ReleaseReason::Paused));
        assert_eq!(losses.take("b"), None);
        assert_eq!(losses.take("a"), Some(loss(ReleaseReason::Paused)));
        assert_eq!(losses.take("a"), None);
        (0..KEPT).for_each(|number| losses.note(number.to_string(), loss(ReleaseReason::Dead)));
        losses.note("one too many".into(), loss(ReleaseReason::Dead));
        losses.note("0".into(), loss(ReleaseReason::Timeout));
        assert_eq!(losses.take("one too many"), None);
        assert_eq!(losses.take("0"), Some(loss(ReleaseReason::Timeout)), "one that is known changes all the same");
        assert_eq!(losses.take(&(KEPT - 1).to_string()), Some(loss(ReleaseReason::Dead)));
    }
}
