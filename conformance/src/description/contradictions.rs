//! What is well-formed in a target file and cannot be meant.

use super::read::{Said, closest};
use super::routes;
use super::settings::NAMES;

/// The routes of each optional part begin with this, or contain it.
const PARTS: [(&str, &str); 3] = [("admin", "/api/admin"), ("resume", "/stream"), ("files", "/files")];

/// Adds every contradiction to the faults.
pub(super) fn find(said: &mut Said) {
    launching(said);
    naming(said);
    containers(said);
    asking(said);
    lasting(said);
}

fn launching(said: &mut Said) {
    let acts =
        ["serve", "restart", "config", "config_json", "doctor", "settings_file"].map(|key| format!("launch.{key}"));
    if said.text("launch.program").is_none() {
        for key in &acts {
            if let Some(line) = said.line(key) {
                said.fault(line, format!("{key} has no program to pass it to: add program to [launch]"));
            }
        }
    } else if said.words("launch.serve").is_none_or(|words| words.is_empty()) {
        let line = said.line("launch.serve").or_else(|| said.line("launch.program")).unwrap_or(1);
        said.fault(line, "launch.program cannot be started without arguments: add serve = [\"…\"] to [launch]");
    }
    for key in &acts {
        let (line, words) = (said.line(key).unwrap_or(1), said.words(key).unwrap_or_default());
        for word in words {
            let (known, replaced): (&[&str], _) = if key == "launch.settings_file" {
                (&["file", "here"], "{file} and {here}")
            } else {
                (&["addr_file", "address", "here"], "{addr_file}, {address} and {here}")
            };
            for name in unknown_braces(&word, known) {
                said.fault(line, format!("{key} contains {{{name}}}: {replaced} are replaced, nothing else"));
            }
        }
    }
    if let Some(line) = said.line("launch.settings_file")
        && !said.words("launch.settings_file").unwrap_or_default().iter().any(|word| word.contains("{file}"))
    {
        said.fault(line, "launch.settings_file does not name the file: put {file} where its path stands");
    }
    let serve = said.words("launch.serve").unwrap_or_default();
    let restart = said.words("launch.restart").unwrap_or(serve.clone());
    let has = |words: &[String]| words.iter().any(|word| word.contains("{addr_file}"));
    if has(&serve) != has(&restart) {
        let line = said.line("launch.restart").unwrap_or(1);
        said.fault(line, "launch.restart and launch.serve must both contain {addr_file}, or neither: the suite learns the address one way");
    }
    if has(&serve) && serve.iter().any(|word| word.contains("{address}")) {
        let line = said.line("launch.serve").unwrap_or(1);
        said.fault(line, "launch.serve contains {addr_file} and {address}: either the server chooses its address or the suite; remove one");
    }
}

/// The names in braces that are not known.
fn unknown_braces(word: &str, known: &[&str]) -> Vec<String> {
    let names = word.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned());
    names.filter(|name| !known.contains(&name.as_str())).collect()
}

fn naming(said: &mut Said) {
    for table in ["settings", "settings_file"] {
        let named = said.map(table);
        for (at, (name, line, theirs)) in named.iter().enumerate() {
            if !NAMES.contains(&name.as_str()) {
                let cure = closest(name, NAMES.iter().copied()).map_or_else(
                    || "remove it; docs/contract/settings.md lists the names".to_owned(),
                    |near| format!("write {near}, or remove it"),
                );
                said.fault(*line, format!("{name} in [{table}] is no setting of the contract: {cure}"));
            }
            if let Some((other, ..)) = named[..at].iter().find(|(_, _, same)| same == theirs && !theirs.is_empty()) {
                said.fault(
                    *line,
                    format!("{name} and {other} in [{table}] are both {theirs}: give each a name of its own"),
                );
            }
        }
    }
    let settings = said.map("settings");
    for (name, line, _) in said.map("environment") {
        let named = settings.iter().find(|(_, _, theirs)| *theirs == name).map(|(ours, ..)| ours.clone());
        let own = NAMES.contains(&name.as_str()) && !settings.iter().any(|(ours, ..)| *ours == name);
        if let Some(setting) = named.or_else(|| own.then(|| name.clone())) {
            said.fault(
                line,
                format!(
                    "{name} in [environment] is the setting {setting}, which the suite sets itself: remove it here"
                ),
            );
        }
    }
}

fn containers(said: &mut Said) {
    if let (Some(name), Some(line)) = (said.text("containers.name"), said.line("containers.name"))
        && !name.contains("{workspace}")
    {
        said.fault(
            line,
            format!("containers.name is {name:?}, the same for all workspaces: put {{workspace}} where the id stands"),
        );
    }
    let labels = ["deployment_label", "workspace_label", "created_label"].map(|key| format!("containers.{key}"));
    for (at, key) in labels.iter().enumerate() {
        let same = labels[..at].iter().find(|other| said.text(key).is_some() && said.text(other) == said.text(key));
        if let (Some(other), Some(line)) = (same, said.line(key)) {
            said.fault(line, format!("{key} and {other} are one label: give each its own"));
        }
    }
    if let (Some(path), Some(line)) = (said.text("containers.sockets"), said.line("containers.sockets"))
        && (!path.starts_with('/') || path.contains(' ') || path.ends_with('/'))
    {
        said.fault(
            line,
            format!("containers.sockets is {path:?}: give an absolute path without spaces or a slash at its end"),
        );
    }
    if let (Some(bridge), Some(line)) = (said.text("containers.bridge"), said.line("containers.bridge"))
        && bridge.parse::<std::net::SocketAddr>().is_err()
    {
        said.fault(
            line,
            format!("containers.bridge is {bridge:?}: give an address and a port, for example 127.0.0.1:8080"),
        );
    }
}

fn asking(said: &mut Said) {
    if let Some(line) = said.line("http.form_field")
        && said.text("http.runs").as_deref() != Some("form")
    {
        said.fault(
            line,
            "http.form_field is for forms, and requests are JSON: add runs = \"form\" to [http], or remove it",
        );
    }
    if let (Some(prefix), Some(line)) = (said.text("http.prefix"), said.line("http.prefix"))
        && !prefix.is_empty()
        && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#', '{', ' ']))
    {
        said.fault(line, format!("http.prefix is {prefix:?}: begin with a slash, end without one, and use no query"));
    }
    if let (Some(header), Some(line)) = (said.text("http.key_header"), said.line("http.key_header"))
        && http::HeaderName::from_bytes(header.as_bytes()).is_err()
    {
        said.fault(line, format!("http.key_header is {header:?}: not the name of a header (RFC 9110, 5.1)"));
    }
    let (pairs, without) = (said.map("http.routes"), said.words("optional.without").unwrap_or_default());
    for (at, (ours, line, theirs)) in pairs.iter().enumerate() {
        let well = |route: &str| {
            route.starts_with('/') && !route.contains(['?', '#', ' ']) && (route == "/" || !route.ends_with('/'))
        };
        if !well(ours) || !well(theirs) {
            said.fault(
                *line,
                format!(
                    "{ours} = {theirs:?} in [http.routes]: begin both with a slash, end without one, and use no query"
                ),
            );
        } else if routes::names(ours) != routes::names(theirs) {
            said.fault(*line, format!("{ours} = {theirs:?} in [http.routes]: both must have the same names in braces"));
        }
        if let Some((other, ..)) = pairs[..at].iter().find(|(_, _, same)| same == theirs) {
            said.fault(
                *line,
                format!("{ours} and {other} in [http.routes] are both {theirs}: an answer could be from either"),
            );
        }
        for (part, mark) in PARTS {
            if without.iter().any(|word| word == part) && ours.contains(mark) {
                said.fault(
                    *line,
                    format!(
                        "{ours} in [http.routes] belongs to {part}, which optional.without says is missing: remove one"
                    ),
                );
            }
        }
    }
}

fn lasting(said: &mut Said) {
    for (short, long) in [("connect", "request"), ("start", "ready")] {
        let (short, long) = (format!("timeouts.{short}"), format!("timeouts.{long}"));
        if let (Some(less), Some(more)) = (said.seconds(&short), said.seconds(&long))
            && less > more
        {
            let line = said.line(&long).unwrap_or(1);
            said.fault(
                line,
                format!("{long} is {more} s, which is less than {short}, a part of it, with {less} s: raise it"),
            );
        }
    }
    if let Some(line) = said.line("log.level_field")
        && said.text("log.format").as_deref() == Some("text")
    {
        said.fault(line, "log.level_field is for a log of JSON, and log.format is \"text\": remove one of them");
    }
}
