//! Ids of rooms.

use std::fmt;

use sha2::{Digest, Sha256};

/// Names a room on the engine, on disk and in logs: sixteen hexadecimal digits. The first six are the deployment's, so
/// that deployments that share a socket base can distinguish their directories; the rest is random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(String);

impl RoomId {
    /// Length of an id in characters.
    pub const LENGTH: usize = 16;
    const PREFIX: usize = 6;

    /// Generates a random id for a deployment.
    #[must_use]
    pub fn generate(deployment: &str) -> Self {
        let random: u64 = rand::random();
        let mut id = Self::prefix(deployment);
        id.push_str(&format!("{random:016x}")[..Self::LENGTH - Self::PREFIX]);
        Self(id)
    }

    /// Parses an id; `None` if the text is not a valid one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == Self::LENGTH && hex).then(|| Self(text.to_owned()))
    }

    /// Whether the id belongs to this deployment.
    #[must_use]
    pub fn is_of(&self, deployment: &str) -> bool {
        self.0.starts_with(&Self::prefix(deployment))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the room's container.
    #[must_use]
    pub fn container(&self) -> String {
        format!("nagaya-ws-{}", self.0)
    }

    fn prefix(deployment: &str) -> String {
        let hash = Sha256::digest(deployment.as_bytes());
        hash.iter().take(Self::PREFIX / 2).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_again_and_identifies_its_deployment() {
        let id = RoomId::generate("one");
        assert_eq!(RoomId::parse(id.as_str()), Some(id.clone()));
        assert!(id.is_of("one") && !id.is_of("two"));
        for junk in ["", "..", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", "../../../../etc/"] {
            assert_eq!(RoomId::parse(junk), None, "{junk}");
        }
    }
}
