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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_say_which_files_there_are_and_the_manifest_only_what_is_known_of_them() {
        let entry = |size, sha256: &str, mode| ManifestEntry { size, sha256: sha256.into(), mode };
        let stored = |path: &str, size| StoredFile { path: path.into(), size, stored_at: jiff::Timestamp::UNIX_EPOCH };
        let known =
            [("same", entry(1, "aa", 0o755)), ("longer", entry(1, "bb", 0o755)), ("gone", entry(1, "cc", 0o755))];
        let files = known.map(|(path, entry)| (path.to_owned(), entry)).into();
        let mut manifest = Manifest { room: Some("room".into()), files };
        manifest.reconcile(&[stored("same", 1), stored("longer", 2), stored("new", 3)]);
        let expected = [("longer", entry(2, "", 0o644)), ("new", entry(3, "", 0o644)), ("same", entry(1, "aa", 0o755))];
        assert_eq!(manifest.room.as_deref(), Some("room"));
        assert_eq!(manifest.files, expected.map(|(path, entry)| (path.to_owned(), entry)).into());
        let text = serde_json::to_string(&manifest).expect("JSON");
        assert!(text.starts_with(r#"{"room":"room","files":{"longer":{"size":2,"sha256":"","mode":420}"#), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).expect("JSON"), manifest);
    }
}
