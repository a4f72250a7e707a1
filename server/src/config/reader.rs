//! Looks settings up — environment, then file, then default — and keeps account of where each came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// Where a setting's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An environment variable.
    Environment,
    /// The file given with `--config`.
    File,
    /// Nobody said otherwise.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// One effective setting, fit to be printed.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// The value, as one would write it; `[redacted]` for a secret that is set.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    /// A fault that is not about a single value's form.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a setting's value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Everywhere,
    /// Not in a fault: a secret may have been written where only its place belongs.
    OnceValid,
    Nowhere,
}

/// What stands in for a secret's value wherever it would be shown.
const REDACTED: &str = "[redacted]";

/// Reads settings one by one; faults are collected, so that all of them can be told at once.
#[derive(Debug)]
pub struct Reader {
    environment: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    known: BTreeSet<&'static str>,
    settings: Vec<Setting>,
    faults: Vec<Fault>,
}

impl Reader {
    /// A reader over an environment and the text of a TOML file (flat: `container_ttl = 600`).
    pub fn new(environment: BTreeMap<String, String>, toml: Option<&str>) -> Self {
        let mut reader = Self {
            environment,
            file: BTreeMap::new(),
            known: BTreeSet::new(),
            settings: Vec::new(),
            faults: Vec::new(),
        };
        match toml.map(str::parse::<toml::Table>) {
            None => {}
            Some(Err(error)) => reader.faults.push(Fault(format!("configuration file: {}", error.message()))),
            Some(Ok(table)) => table.into_iter().for_each(|(key, value)| reader.file_entry(&key, value)),
        }
        reader
    }

    fn file_entry(&mut self, key: &str, value: toml::Value) {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            _ => return self.fault(format!("configuration file: {key}: a text, number or list of texts is accepted")),
        };
        self.file.insert(key.to_ascii_uppercase(), text);
    }

    /// Records something wrong that no single [`Reader::get`] could see.
    pub fn fault(&mut self, message: impl Into<String>) {
        self.faults.push(Fault::new(message));
    }

    /// The value of `name` through `parse`; an empty text counts as unset. `accepted` completes "… is accepted".
    /// After a fault it is the default's value, which only serves to find further faults.
    pub fn get<T>(
        &mut self,
        name: &'static str,
        default: &str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.read(name, default, Shown::Everywhere, |text| parse(text).ok_or_else(|| format!("accepted: {accepted}")))
    }

    /// As [`Reader::get`], for a parser that explains itself.
    pub fn parse<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.read(name, default, Shown::Everywhere, |text| parse(text).map_err(|error| error.to_string()))
    }

    /// As [`Reader::parse`], for a value that tells where secrets are: a faulty one may hold the secret itself, and is not shown.
    pub fn reference<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.read(name, default, Shown::OnceValid, |text| parse(text).map_err(|error| error.to_string()))
    }

    /// As [`Reader::parse`], for a value that is never shown, also not in a fault.
    pub fn secret<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.read(name, "", Shown::Nowhere, parse)
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        default: &str,
        shown: Shown,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.known.insert(name);
        let set = |values: &BTreeMap<String, String>| values.get(name).filter(|text| !text.is_empty()).cloned();
        let (text, source) = match (set(&self.environment), set(&self.file)) {
            (Some(text), _) => (text, Source::Environment),
            (None, Some(text)) => (text, Source::File),
            (None, None) => (default.to_owned(), Source::Default),
        };
        let printed = if shown == Shown::Nowhere && !text.is_empty() { REDACTED.to_owned() } else { text.clone() };
        let value = parse(&text).or_else(|why| {
            let told = if shown == Shown::Everywhere { format!("={text:?}") } else { String::new() };
            self.faults.push(Fault(format!("{name}{told}: {why}")));
            parse(default)
        });
        self.settings.push(Setting { name, value: printed, source });
        match value {
            Ok(value) => value,
            Err(why) => unreachable!("the default of {name} is valid, but: {why}"),
        }
    }

    /// All settings read, or all faults found.
    pub fn finish(mut self) -> Result<Vec<Setting>, Vec<Fault>> {
        for key in self.file.keys().filter(|key| !self.known.contains(key.as_str())) {
            self.faults.push(Fault(format!("configuration file: {}: no such setting", key.to_ascii_lowercase())));
        }
        if self.faults.is_empty() { Ok(self.settings) } else { Err(self.faults) }
    }
}
