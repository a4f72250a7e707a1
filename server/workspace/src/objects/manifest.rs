//! The manifest: what a list of objects does not contain about a conversation's files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conversation_store::StoredFile;

/// The manifest. It is written after the files; an outdated one only causes needless transfers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Id of the room that all files were restored into. A file that is missing in that room was deleted there.
    pub room: Option<String>,
    /// The files by path.
    pub files: BTreeMap<String, ManifestEntry>,
}

impl Manifest {
    /// Brings the manifest into line with the list of objects, from which an interrupted sync may have left it different.
    pub(super) fn reconcile(&mut self, stored: &[StoredFile]) {
        let mut known = std::mem::take(&mut self.files);
        for StoredFile { path, size, .. } in stored {
            let entry = known.remove(path).filter(|entry| entry.size == *size);
            let entry = entry.unwrap_or_else(|| ManifestEntry { size: *size, sha256: String::new(), mode: 0o644 });
            self.files.insert(path.clone(), entry);
        }
    }
}

/// One file as it was last saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content in lower-case hexadecimal; empty if unknown.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
}
