//! What a list of objects does not say of a conversation's files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Written after the files. One that is older than they are only costs work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The room that has had every one of the files: what is missing in it was deleted there.
    pub room: Option<String>,
    /// The files by their paths.
    pub files: BTreeMap<String, Kept>,
}

/// One file as it was last taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// In bytes.
    pub size: u64,
    /// Of its content, in lower-case hexadecimal.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
}
