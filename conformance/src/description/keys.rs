//! Every key of a target file, declared once: the parser, the published schema and its descriptions come from this table.

use serde_json::{Map, Value, json};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text that is not empty.
    Text,
    /// A text that may be empty.
    Free,
    /// A list of texts.
    Words,
    /// A number of seconds, more than 0 and at most 3600.
    Seconds,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list of some of these texts.
    Choices(&'static [&'static str]),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The table it stands in, for example `http`; empty for the file's top.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means.
    pub about: &'static str,
}

const fn key(section: &'static str, name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { section, name, kind, about }
}

/// Signals by which a server can be told something.
pub const SIGNALS: &[&str] = &["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"];
/// Encodings of the request that begins a run.
pub const ENCODINGS: &[&str] = &["json", "form"];
/// Who listens on a workspace's `agent.sock`.
pub const LISTENERS: &[&str] = &["server", "agent"];
/// Forms of a log.
pub const LOGS: &[&str] = &["json", "text"];
/// Parts that a target may leave out.
pub const PARTS: &[&str] = &["admin", "resume", "files"];

use Kind::{Choice, Choices, Free, Seconds, Text, Words};

/// All keys with a name of their own.
pub const KEYS: &[Key] = &[
    key("", "name", Text, "What the target is called in messages."),
    key(
        "launch",
        "program",
        Text,
        "The server's program: a path, relative to this file, or a name. A name is looked for beside the suite, then on the search path.",
    ),
    key(
        "launch",
        "serve",
        Words,
        "Arguments that start the server. {addr_file} is the file it writes its address to (an argument with it is left out where nobody \
         reads the address), {here} the folder of this file. Without {addr_file} the suite chooses the address (BIND_ADDR), or {address}.",
    ),
    key("launch", "restart", Words, "Arguments that start it again with the same state; by default those of serve."),
    key("launch", "config", Words, "Arguments that print every setting for people."),
    key("launch", "config_json", Words, "Arguments that print every setting as JSON."),
    key("launch", "doctor", Words, "Arguments that look for what would prevent a start."),
    key(
        "launch",
        "settings_file",
        Words,
        "Arguments besides those of serve that name a file of settings in TOML; {file} is its path. What its keys are called is in [settings_file].",
    ),
    key("launch", "stop_signal", Choice(SIGNALS), "The signal that stops the server."),
    key(
        "launch",
        "reload_signal",
        Choice(SIGNALS),
        "The signal after which it opens its files and reads its settings again.",
    ),
    key(
        "launch",
        "database_file",
        Text,
        "The name of the database in its state directory, where no other database is configured.",
    ),
    key("images", "server", Text, "The server's image, for scenarios that start it in a container."),
    key("images", "server_health", Words, "The command in the server's image that asks for its health."),
    key("images", "workspace", Text, "The image of its workspaces."),
    key("containers", "name", Text, "The name of a workspace's container; {workspace} is the workspace's id."),
    key("containers", "deployment_label", Text, "The label with the deployment's id."),
    key("containers", "workspace_label", Text, "The label with the workspace's id."),
    key("containers", "created_label", Text, "The label with the time at which the workspace was created."),
    key("containers", "sockets", Text, "The directory of the sockets in a workspace."),
    key("containers", "bridge", Text, "The proxy's address in a workspace, host and port."),
    key("containers", "listener", Choice(LISTENERS), "Who listens on agent.sock."),
    key("http", "key_header", Text, "The header with the API key."),
    key("http", "key_scheme", Free, "What stands before the key in that header, for example \"Bearer \"."),
    key("http", "prefix", Free, "What stands before every path."),
    key(
        "http",
        "runs",
        Choice(ENCODINGS),
        "How the request that begins a run is encoded: as JSON, or as a form with that JSON in one field.",
    ),
    key("http", "form_field", Text, "The name of that field."),
    key("http", "files_field", Text, "The name of the fields with files, in the form of a run with files."),
    key("http", "metadata_field", Text, "The name of the field with the files' paths, in that form."),
    key("timeouts", "connect", Seconds, "How long a connection may take."),
    key("timeouts", "request", Seconds, "How long an answer may take."),
    key("timeouts", "silence", Seconds, "How long an event stream may be silent."),
    key("timeouts", "health_interval", Seconds, "How old the result that /health answers with may be."),
    key("timeouts", "start", Seconds, "How long the server may take until it listens."),
    key("timeouts", "ready", Seconds, "How long it may take until it is ready."),
    key("timeouts", "stop", Seconds, "How long it may take to stop."),
    key("log", "format", Choice(LOGS), "The form of its log; LOG_FORMAT is set to it."),
    key("log", "level_field", Text, "The field with a line's level, in a log of JSON."),
    key("log", "errors", Words, "The levels at which something has failed; others are not errors."),
    key("optional", "without", Choices(PARTS), "Optional parts of the contract that the target does not have."),
];

/// Tables whose keys are names of something else, and whose values are texts.
pub const MAPS: &[(&str, &str)] = &[
    ("settings", "The suite's name of a setting → the target's; an empty text: the target has no such setting."),
    (
        "settings_file",
        "The suite's name of a setting → its key in a file of settings; by default the target's name of it in lower case.",
    ),
    ("environment", "Variables that the server needs besides its settings."),
    (
        "http.routes",
        "A route of the contract, with names in braces → the target's, with the same names; the rest of a path is kept.",
    ),
];

/// The names of all tables, besides the file's top.
pub(super) fn sections() -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS.iter().map(|key| key.section).chain(MAPS.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The JSON Schema of target files, as it is published in `docs/contract/schema/`.
#[must_use]
pub fn schema() -> Value {
    let mut properties = section_of("");
    for name in sections().into_iter().filter(|name| !name.is_empty() && !name.contains('.')) {
        let is_map = MAPS.iter().find(|(map, _)| *map == name);
        let mut table = match is_map {
            Some((_, about)) => texts(about),
            None => json!({"type": "object", "additionalProperties": false, "properties": section_of(name)}),
        };
        for (map, about) in
            MAPS.iter().filter_map(|(map, about)| Some((map.strip_prefix(name)?.strip_prefix('.')?, about)))
        {
            table["properties"][map] = texts(about);
        }
        properties.insert(name.to_owned(), table);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A target of the conformance suite (TOML)",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn texts(about: &str) -> Value {
    json!({"type": "object", "description": about, "additionalProperties": {"type": "string"}})
}

fn section_of(name: &str) -> Map<String, Value> {
    let of = |key: &Key| {
        let mut schema = match key.kind {
            Text => json!({"type": "string", "minLength": 1}),
            Free => json!({"type": "string"}),
            Words => json!({"type": "array", "items": {"type": "string"}}),
            Seconds => json!({"type": "number", "exclusiveMinimum": 0, "maximum": 3600}),
            Choice(words) => json!({"enum": words}),
            Choices(words) => json!({"type": "array", "items": {"enum": words}}),
        };
        schema["description"] = json!(key.about);
        (key.name.to_owned(), schema)
    };
    KEYS.iter().filter(|key| key.section == name).map(of).collect()
}
