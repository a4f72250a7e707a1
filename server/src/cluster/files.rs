//! A conversation's files, wherever its workspace is.

use nagaya_workspace::ReleaseReason;
use nagaya_workspace::files::{ConversationFiles, FileStream, FilesError, Source};
use nagaya_workspace::rooms::Occupant;

use super::Cluster;

impl Cluster {
    /// The files of a conversation: those in its workspace if it has one, else those in the bucket.
    ///
    /// # Errors
    /// Another server has the workspace, or it cannot be found out who has it.
    pub async fn files(&self, occupant: &Occupant) -> Result<ConversationFiles, FilesError> {
        let room = self.room_of(occupant).await?;
        Ok(self.workspaces().files_of(occupant, room))
    }

    /// Creates a file from what arrives, or replaces it once everything has arrived. A conversation that has neither a workspace
    /// nor a bucket gets a workspace for it.
    ///
    /// # Errors
    /// The file does not fit or is incomplete. An existing file is unchanged.
    pub async fn write_file(&self, occupant: &Occupant, path: &str, content: FileStream) -> Result<(), FilesError> {
        let files = self.files(occupant).await?;
        match files.source() {
            Source::Nowhere => {
                let lease = self.acquire(occupant.clone()).await?;
                lease.put_file(path, None, nagaya_workspace::files::limit_upload(content)).await
            }
            _ => files.write(path, content).await,
        }
    }

    /// Undoes a write to a conversation that was deleted or archived meanwhile: its deletion looked for workspaces and files before
    /// this one existed. What cannot be undone is logged.
    pub async fn take_back(&self, occupant: &Occupant, path: &str) {
        let conversation = &occupant.conversation;
        let deleted = match self.files(occupant).await {
            Ok(files) => files.delete(path).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) | Err(FilesError::NotFound) => {}
            Err(error) => tracing::error!(conversation, path, %error, "a file that arrived too late is left"),
        }
        if let Err(error) = self.release_conversation(conversation, ReleaseReason::Conversation).await {
            tracing::error!(conversation, %error, "a workspace that was opened too late is left to garbage collection");
        }
    }
}
