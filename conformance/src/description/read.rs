//! Reads a target file as keys and values, and collects every fault with its line and a cure.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Kind, MAPS, sections};

/// Something that is wrong in a target file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A value, as its key's kind says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Text(String),
    Words(Vec<String>),
    Seconds(f64),
}

/// What a file says: `section.key` → the line and the value. Keys of a map stand under `map:key`.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) values: BTreeMap<String, (usize, Content)>,
    pub(super) faults: Vec<Fault>,
}

impl Said {
    pub(super) fn fault(&mut self, line: usize, what: impl Into<String>) {
        self.faults.push(Fault { line, what: what.into() });
    }

    /// The line of a key, if it is there.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.values.get(key).map(|(line, _)| *line)
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        match self.values.get(key) {
            Some((_, Content::Text(text))) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn words(&self, key: &str) -> Option<Vec<String>> {
        match self.values.get(key) {
            Some((_, Content::Words(words))) => Some(words.clone()),
            _ => None,
        }
    }

    pub(super) fn seconds(&self, key: &str) -> Option<f64> {
        match self.values.get(key) {
            Some((_, Content::Seconds(seconds))) => Some(*seconds),
            _ => None,
        }
    }

    /// The keys of a map, each with its line and its value.
    pub(super) fn map(&self, name: &str) -> Vec<(String, usize, String)> {
        let prefix = format!("{name}:");
        let of = |(key, (line, content)): (&String, &(usize, Content))| match content {
            Content::Text(text) => Some((key.strip_prefix(&prefix)?.to_owned(), *line, text.clone())),
            _ => None,
        };
        self.values.iter().filter_map(of).collect()
    }
}

/// Reads a file. What cannot be understood is a fault, and everything else is read nevertheless.
pub(super) fn read(text: &str) -> Said {
    let mut said = Said::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    let line = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let cure =
            if error.message().contains("duplicate") { ": remove one of them" } else { ": correct it (TOML 1.0)" };
        said.fault(line(at), format!("{}{cure}", error.message()));
    }
    read_table("", table.get_ref(), &line, &mut said);
    said
}

fn read_table(section: &str, table: &DeTable<'_>, line: &impl Fn(usize) -> usize, said: &mut Said) {
    for (name, value) in table {
        let (at, name) = (line(name.span().start), name.get_ref().as_ref());
        let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if let Some(key) = KEYS.iter().find(|key| key.section == section && key.name == name) {
            match content(key.kind, value.get_ref()) {
                Ok(content) => _ = said.values.insert(path, (at, content)),
                Err(accepted) => said.fault(at, format!("{path} is {}: {accepted}", shown(value))),
            }
        } else if MAPS.iter().any(|(map, _)| *map == path) || sections().contains(&path.as_str()) {
            match value.get_ref().as_table() {
                Some(entries) if MAPS.iter().any(|(map, _)| *map == path) => read_map(&path, entries, line, said),
                Some(inner) => read_table(&path, inner, line, said),
                None => said.fault(at, format!("{path} is {}: it is a table, begin it with [{path}]", shown(value))),
            }
        } else {
            let known = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
            let tables = sections().into_iter().filter(|_| section.is_empty());
            let cure = match closest(name, known.chain(tables).filter(|word| !word.is_empty())) {
                Some(word) => format!("write {word}, or remove it"),
                None => elsewhere(name).unwrap_or_else(|| "remove it".to_owned()),
            };
            let kind = if value.get_ref().is_table() { "table" } else { "key" };
            said.fault(at, format!("{path} is no {kind} of a target file: {cure}"));
        }
    }
}

fn read_map(map: &str, entries: &DeTable<'_>, line: &impl Fn(usize) -> usize, said: &mut Said) {
    for (name, value) in entries {
        let (at, name) = (line(name.span().start), name.get_ref().as_ref());
        match value.get_ref().as_str() {
            Some(text) => _ = said.values.insert(format!("{map}:{name}"), (at, Content::Text(text.to_owned()))),
            None => said.fault(at, format!("{name} in [{map}] is {}: give a text in quotation marks", shown(value))),
        }
    }
}

/// Where a key of this name would be right.
fn elsewhere(name: &str) -> Option<String> {
    let key = KEYS.iter().find(|key| key.name == name)?;
    Some(if key.section.is_empty() {
        "it belongs to the top of the file".to_owned()
    } else {
        format!("it belongs to [{}]", key.section)
    })
}

fn shown(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

fn content(kind: Kind, value: &DeValue<'_>) -> Result<Content, String> {
    let words =
        || value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let one_of = |known: &[&str]| format!("{} accepted", list(known));
    match kind {
        Kind::Text => {
            let text = value.as_str().filter(|text| !text.is_empty());
            text.map(|text| Content::Text(text.to_owned())).ok_or_else(|| "give a text that is not empty".to_owned())
        }
        Kind::Free => value
            .as_str()
            .map(|text| Content::Text(text.to_owned()))
            .ok_or_else(|| "give a text in quotation marks".to_owned()),
        Kind::Words => words().map(Content::Words).ok_or_else(|| "give a list of texts".to_owned()),
        Kind::Seconds => {
            let number = value.as_float().map(|float| float.as_str().to_owned());
            let number = number.or_else(|| value.as_integer().map(|integer| integer.as_str().to_owned()));
            let seconds = number.and_then(|text| text.parse::<f64>().ok()).filter(|it| *it > 0.0 && *it <= 3600.0);
            seconds.map(Content::Seconds).ok_or_else(|| "give seconds, more than 0 and at most 3600".to_owned())
        }
        Kind::Choice(known) => {
            let word = value.as_str().filter(|word| known.contains(word));
            word.map(|word| Content::Text(word.to_owned())).ok_or_else(|| one_of(known))
        }
        Kind::Choices(known) => {
            let words = words().filter(|words| words.iter().all(|word| known.contains(&word.as_str())));
            words.map(Content::Words).ok_or_else(|| format!("a list is expected, in which {}", one_of(known)))
        }
    }
}

/// `"a", "b" and "c" are`
fn list(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last} are", rest.join(", ")),
        _ => format!("{} is", quoted.join("")),
    }
}

/// The word that is most like `name`, if one is: at most a third of its letters differ.
pub(super) fn closest<'w>(name: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let near = words.map(|word| (distance(name, word), word)).min()?;
    (near.0 * 3 <= near.1.len().max(name.len())).then_some(near.1)
}

/// How many letters have to be added, removed or replaced (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
