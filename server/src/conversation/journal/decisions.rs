//! What became of the questions of a run that has ended.

use std::io;

use serde_json::Value;

use super::line::{EventLine, NOTE, Note};
use super::{Journal, past};
use crate::conversation::approvals::{Decision, Pending};

impl Journal {
    /// A question of the run, with the decision that was made; `None` if it was not asked.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn asked(&self, id: &str) -> io::Result<Option<(Pending, Option<Decision>)>> {
        let mut lines = self.lines();
        let (mut asked, mut decided) = (None, None);
        while let Some(line) = lines.next_line()? {
            let Ok(text) = std::str::from_utf8(line) else { continue };
            if !text.contains(id) {
                continue;
            }
            if text.as_bytes().first() == Some(&NOTE) {
                if let Some(Note::Decision { request_id, decision }) = past::note(text)
                    && request_id == id
                {
                    decided = Some(decision);
                }
            } else if let Some(event) = EventLine::parse(text).filter(|event| past::asks(event.name)) {
                let data: Value = serde_json::from_str(event.data)?;
                let pending = past::pending(event.name, &data);
                if pending.ask.request_id == id {
                    asked = Some(pending);
                }
            }
        }
        Ok(asked.map(|ask| (ask, decided)))
    }
}
