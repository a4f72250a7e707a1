//! What a list of objects does not say of a conversation's files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conversation_store::StoredFile;

/// Written after the files. One that is older than they are only costs work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The room that has had every one of the files: what is missing in it was deleted there.
    pub room: Option<String>,
    /// The files by their paths.
    pub files: BTreeMap<String, ManifestEntry>,
}

impl Manifest {
    /// Makes it tell of the files that are there, and of no others: a sync that was cut off may have left it behind.
    pub(super) fn follow(&mut self, stored: &[StoredFile]) {
        let mut told = std::mem::take(&mut self.files);
        for StoredFile { path, size, .. } in stored {
            let known = told.remove(path).filter(|known| known.size == *size);
            let kept = known.unwrap_or_else(|| ManifestEntry { size: *size, sha256: String::new(), mode: 0o644 });
            self.files.insert(path.clone(), kept);
        }
    }
}

/// One file as it was last taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// In bytes.
    pub size: u64,
    /// Of its content, in lower-case hexadecimal; empty where nobody knows.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
}
