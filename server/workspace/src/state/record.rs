//! The record of a workspace, and its encoding.

use serde::{Deserialize, Serialize};

use crate::session::{Living, Session};

/// What the shared state stores of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Id of the room.
    pub workspace: String,
    /// The conversation that the room belongs to, and its tenant; `None` while it is in the pool.
    pub occupant: Option<(String, String)>,
    /// What the last run in the room left of its driver.
    pub session: Option<Session>,
    /// Whether the room is being released. Such a room never serves a conversation again, whoever finds it: there may be files of the
    /// last one in it.
    pub retired: bool,
    /// Id of the server process that owns the room, or owned it when it died. Every start of a server has an id of its own.
    pub owner: String,
}

/// The fields of the encoded record. Unknown ones, which a newer server may add, are ignored.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    owner: std::borrow::Cow<'a, str>,
    conversation: Option<std::borrow::Cow<'a, str>>,
    tenant: Option<std::borrow::Cow<'a, str>>,
    session: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    living: Option<Living>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retired: bool,
}

impl Record {
    /// Encodes the record as JSON. Equal records have equal encodings, so the store compares text.
    #[must_use]
    pub fn encode(&self) -> String {
        let (conversation, tenant) = self.occupant.as_ref().map(|(c, t)| (c.into(), t.into())).unzip();
        let session = self.session.as_ref().map(|session| session.id.as_str().into());
        let living = self.session.as_ref().and_then(|session| session.living.clone());
        let text = Text { owner: (&self.owner).into(), conversation, tenant, session, living, retired: self.retired };
        // Serializing strings to JSON cannot fail.
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Decodes what a store has under a room's id.
    ///
    /// # Errors
    /// The reason why it is not a valid record.
    pub fn decode(workspace: &str, bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let text: Text<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let occupant = match (text.conversation, text.tenant) {
            (Some(conversation), Some(tenant)) => Some((conversation.into_owned(), tenant.into_owned())),
            (None, None) => None,
            _ => return Err("it has a conversation without a tenant, or a tenant without a conversation".into()),
        };
        Ok(Self {
            workspace: workspace.into(),
            occupant,
            session: text.session.map(|id| Session { id: id.into_owned(), living: text.living }),
            retired: text.retired,
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
        fn a_record_with_any_text_is_decoded_again(
            owner: String,
            occupant: Option<(String, String)>,
            session: Option<(String, Option<(String, u64)>)>,
        ) {
            let living = |(text, read): (String, u64)| Living { execution: text.clone(), read, options: text };
            let session = session.map(|(id, left)| Session { id, living: left.map(living) });
            let record = Record { workspace: "w".into(), occupant, session, retired: false, owner };
            prop_assert_eq!(Record::decode("w", record.encode().as_bytes()), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_are_rejected(junk: Vec<u8>) {
            prop_assert!(Record::decode("w", &junk).is_err());
        }
    }

    #[test]
    fn a_conversation_without_a_tenant_is_rejected() {
        assert!(Record::decode("w", br#"{"owner":"o","conversation":"c"}"#).is_err());
        assert!(Record::decode("w", br#"{"owner":"o","later":1}"#).is_ok(), "unknown fields are ignored");
    }
    #[test]
    fn a_record_is_written_as_other_versions_read_it() {
        let living = Living { execution: "e".into(), read: 7, options: "o".into() };
        let record = Record {
            workspace: "w".into(),
            occupant: Some(("c".into(), "t".into())),
            session: Some(Session { id: "s".into(), living: Some(living) }),
            retired: true,
            owner: "me".into(),
        };
        let text = r#"{"owner":"me","conversation":"c","tenant":"t","session":"s","living":{"execution":"e","read":7,"options":"o"},"retired":true}"#;
        assert_eq!(record.encode(), text);
        assert_eq!(Record::decode("w", text.as_bytes()), Ok(record));
        let bare = Record { workspace: "w".into(), occupant: None, session: None, retired: false, owner: "me".into() };
        assert_eq!(bare.encode(), r#"{"owner":"me","conversation":null,"tenant":null,"session":null}"#);
        for bad in
            ["{}", r#"{"owner":"o","tenant":"t"}"#, r#"{"owner":1}"#, "\"owner\"", r#"{"owner":"o","retired":"yes"}"#]
        {
            assert!(Record::decode("w", bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
