//! Notes what is lost with a room that is released unexpectedly.

use std::sync::atomic::Ordering;

use crate::losses::{FilesFate, Loss};
use crate::reason::ReleaseReason;
use crate::rooms::Room;
use crate::workspaces::Workspaces;

impl Workspaces {
    /// Notes, once for each room, what is lost with a room that is released for this reason.
    pub(crate) fn note_loss(&self, room: &Room, why: ReleaseReason) {
        let Some(occupant) = room.occupant() else { return };
        if !why.is_loss() || room.loss_noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let files = match room.unsaved.load(Ordering::Acquire) {
            false if self.bucket().is_some() => FilesFate::KeptInBucket,
            _ => self.assumed_files_fate(),
        };
        self.losses.note(occupant.conversation, Loss { why, files });
    }

    /// What has to be assumed of the files of a workspace that was lost while no server watched it.
    #[must_use]
    pub fn assumed_files_fate(&self) -> FilesFate {
        match self.bucket() {
            Some(_) => FilesFate::LostSinceLastSave,
            None => FilesFate::Lost,
        }
    }
}
