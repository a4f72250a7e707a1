//! A workspace record, and its one form as text.

use serde::{Deserialize, Serialize};

/// What is remembered of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The room's id.
    pub workspace: String,
    /// The conversation in it, and its tenant; `None` while it waits in the pool.
    pub occupant: Option<(String, String)>,
    /// Driver's session of the last run in it.
    pub session: Option<String>,
    /// The server that has the room, or had it when it died: one life of one process.
    pub owner: String,
}

/// The text's fields. What a newer server adds is ignored.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    owner: std::borrow::Cow<'a, str>,
    conversation: Option<std::borrow::Cow<'a, str>>,
    tenant: Option<std::borrow::Cow<'a, str>>,
    session: Option<std::borrow::Cow<'a, str>>,
}

impl Record {
    /// The record as text. Equal records have equal texts: a comparison in the store is one of texts.
    #[must_use]
    pub fn encode(&self) -> String {
        let (conversation, tenant) = self.occupant.as_ref().map(|(c, t)| (c.into(), t.into())).unzip();
        let session = self.session.as_ref().map(Into::into);
        let text = Text { owner: (&self.owner).into(), conversation, tenant, session };
        // Texts alone: there is nothing in it that JSON could not say.
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Reads what a store has under a room's id. The only place where a record is decoded.
    ///
    /// # Errors
    /// Why it is no record.
    pub fn decode(workspace: &str, bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let text: Text<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let occupant = match (text.conversation, text.tenant) {
            (Some(conversation), Some(tenant)) => Some((conversation.into_owned(), tenant.into_owned())),
            (None, None) => None,
            _ => return Err("a conversation and its tenant come together".into()),
        };
        Ok(Self {
            workspace: workspace.into(),
            occupant,
            session: text.session.map(Into::into),
            owner: text.owner.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(owner: String, occupant: Option<(String, String)>, session: Option<String>) {
            let record = Record { workspace: "w".into(), occupant, session, owner };
            prop_assert_eq!(Record::decode("w", record.encode().as_bytes()), Ok(record));
        }

        #[test]
        fn junk_is_refused_and_nothing_worse(junk: Vec<u8>) {
            prop_assert!(Record::decode("w", &junk).is_err());
        }
    }

    #[test]
    fn half_an_occupant_is_none() {
        assert!(Record::decode("w", br#"{"owner":"o","conversation":"c"}"#).is_err());
        assert!(Record::decode("w", br#"{"owner":"o","later":1}"#).is_ok(), "a newer server may add to it");
    }
}
