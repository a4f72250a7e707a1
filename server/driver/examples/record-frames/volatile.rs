//! Replaces what differs from one recording to the next: ids, times, costs, paths. What was equal stays equal.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

/// A time as the CLI writes it, digits as `0`.
const TIME: &str = "0000-00-00T00:00:00.000Z";
/// A UUID, hexadecimal digits as `0`.
const UUID: &str = "00000000-0000-0000-0000-000000000000";
/// Beginnings of the ids of messages, calls and requests.
const PREFIXES: [&str; 3] = ["msg_", "toolu_", "req_"];

/// Characters of a description that is kept. Longer ones are the CLI's own.
const LONGEST_DESCRIPTION: usize = 40;

/// What was replaced so far.
pub struct Volatile {
    paths: Vec<(String, String)>,
    ids: HashMap<String, usize>,
}

impl Volatile {
    /// `paths` are directories of this recording, each with its name in a workspace.
    pub fn new(paths: &[(&Path, &str)]) -> Self {
        // In the names of its own files the CLI writes a path with hyphens.
        let dashed = |path: &str| path.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let pairs = paths.iter().map(|(path, name)| (path.display().to_string(), (*name).to_owned()));
        let paths = pairs.flat_map(|(path, name)| [(dashed(&path), dashed(&name)), (path, name)]).collect();
        Self { paths, ids: HashMap::new() }
    }

    pub fn replaced(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text(&text).into(),
            Value::Array(items) => items.into_iter().map(|item| self.replaced(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| {
                    let value = match (key.as_str(), value) {
                        (key, Value::Number(_)) if is_measured(key) => 0.into(),
                        // What the CLI tells the model of its own, of the host and of the day. Only the CLI reads it again.
                        ("attachment", Value::Object(fields)) => json!({"type": fields.get("type")}),
                        ("rendered", Value::Array(_)) => json!([]),
                        ("description", Value::String(text)) if text.chars().count() > LONGEST_DESCRIPTION => {
                            "…".into()
                        }
                        ("messaging_socket_path", Value::String(_)) => "/tmp/1.sock".into(),
                        (_, value) => self.replaced(value),
                    };
                    (self.text(&key), value)
                })
                .collect(),
            other => other,
        }
    }

    fn text(&mut self, text: &str) -> String {
        let text = self.paths.iter().fold(text.to_owned(), |text, (path, name)| text.replace(path, name));
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let begins_word = replaced.chars().last().is_none_or(|last| !last.is_alphanumeric());
            if is_like(rest, TIME, u8::is_ascii_digit) {
                replaced.push_str("2026-01-01T00:00:00.000Z");
                rest = &rest[TIME.len()..];
            } else if begins_word && is_like(rest, UUID, u8::is_ascii_hexdigit) {
                let id = self.number(&rest[..UUID.len()]);
                replaced.push_str(&format!("00000000-0000-4000-8000-{id:012}"));
                rest = &rest[UUID.len()..];
            } else if let Some((prefix, end)) = id(rest).filter(|_| begins_word) {
                let id = self.number(&rest[..end]);
                replaced.push_str(&format!("{prefix}{id:04}"));
                rest = &rest[end..];
            } else {
                replaced.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        replaced
    }

    fn number(&mut self, id: &str) -> usize {
        let next = self.ids.len() + 1;
        *self.ids.entry(id.to_owned()).or_insert(next)
    }
}

/// The prefix and the end of an id with which a text begins.
fn id(text: &str) -> Option<(&'static str, usize)> {
    let prefix = PREFIXES.into_iter().find(|prefix| text.starts_with(prefix))?;
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let own = &text[prefix.len()..end];
    (own.len() >= 8 && !own.contains('_')).then_some((prefix, end))
}

/// Whether a text begins like the pattern, in which `0` stands for a digit.
fn is_like(text: &str, pattern: &str, digit: fn(&u8) -> bool) -> bool {
    let alike = |(byte, like): (&u8, u8)| if like == b'0' { digit(byte) } else { *byte == like };
    text.len() >= pattern.len() && text.as_bytes().iter().zip(pattern.bytes()).all(alike)
}

fn is_measured(key: &str) -> bool {
    key.ends_with("_ms") || key.ends_with("Ms") || key.ends_with("_usd") || key.ends_with("USD") || key == "pid"
}
