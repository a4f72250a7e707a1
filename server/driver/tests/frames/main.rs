//! What the supported CLIs print has a meaning: every recorded line, of the pinned version and of the oldest.
//!
//! `make frames` records; `situations` says what.

#[allow(dead_code, reason = "the recorder needs the turns, too")]
mod situations;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nagaya_driver::{Event, Kind};
use serde_json::Value;

/// Types of frames that have no meaning here, by version. None.
const UNKNOWN: [(&str, &str); 0] = [];

/// Situations that were added since a version was recorded: `make frames` records them of all versions.
const NOT_RECORDED: [(&str, &str); 0] = [];

/// The situations that are recorded of a version.
fn recorded(version: &str) -> Vec<situations::Situation> {
    let all = situations::all().into_iter();
    all.filter(|situation| !NOT_RECORDED.contains(&(version, situation.name))).collect()
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frames")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let recorded = entries.filter(|path| path.is_dir() || path.extension().is_some_and(|kind| kind == "jsonl"));
    recorded.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect()
}

fn versions() -> BTreeSet<String> {
    names(&recordings()).into_iter().filter(|name| name.starts_with(|first: char| first.is_ascii_digit())).collect()
}

/// A recorded line: who said it, and what.
fn lines(version: &str, situation: &str) -> Vec<(String, Value)> {
    let path = recordings().join(version).join(format!("{situation}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |line| {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { panic!("{}: {line}", path.display()) };
        fields.into_iter().next().expect("who said it")
    };
    text.lines().map(line).collect()
}

/// The events of a recording, one line each, as the server reads them: a dialogue for each turn.
fn events(version: &str, situation: &situations::Situation) -> Vec<String> {
    let driver = Kind::ClaudeCode.driver();
    let mut told = Vec::new();
    let mut turn: Option<Box<dyn nagaya_driver::Dialogue>> = None;
    for (who, said) in lines(version, situation.name) {
        let line = said.as_str().map_or_else(|| said.to_string(), ToOwned::to_owned);
        if who == "server" && said["type"] == "user" {
            let id = said["uuid"].as_str().expect("the turn's id");
            told.push(format!("--- turn {id}"));
            let after_others = turn.is_some().then_some(id);
            turn = Some(driver.dialogue(&situation.options, after_others));
        }
        if who != "cli" {
            continue;
        }
        let Some(turn) = turn.as_mut() else { panic!("{version} {}: the server speaks first", situation.name) };
        for event in turn.read(&line).unwrap_or_else(|why| panic!("{version} {}: {why}: {line}", situation.name)) {
            if let Event::Unknown { kind } = &event {
                assert!(UNKNOWN.contains(&(version, kind)), "{version} {}: {kind}: {line}", situation.name);
            }
            told.push(match event {
                // What is in them is the CLI's own affair.
                Event::Transcript { file, lines } => format!("Transcript {file}: {} lines", lines.lines().count()),
                Event::System { session_id, model, tools, commands, version } => format!(
                    "System {session_id} {model} {version:?}: {} tools, {} commands",
                    tools.len(),
                    commands.len()
                ),
                event => format!("{event:?}"),
            });
        }
    }
    told
}

#[test]
fn every_recorded_line_has_its_meaning() {
    for version in versions() {
        for situation in recorded(&version) {
            let told = events(&version, &situation).join("\n");
            insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots" }, {
                insta::assert_snapshot!(format!("{version}-{}", situation.name), told);
            });
        }
    }
}

/// Kinds of frames, also of those that mean nothing here: a new one is seen when the frames are recorded again.
#[test]
fn every_kind_of_frame_is_known() {
    for version in versions() {
        let lines = recorded(&version).into_iter().flat_map(|situation| lines(&version, situation.name));
        let kinds: BTreeSet<String> = lines
            .filter(|(who, _)| who == "cli")
            .map(|(_, said)| {
                let parts = [&said["type"], &said["subtype"], &said["request"]["subtype"], &said["event"]["type"]];
                parts.iter().filter_map(|part| part.as_str()).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let kinds = Vec::from_iter(kinds).join("\n");
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots" }, {
            insta::assert_snapshot!(format!("{version}-kinds"), kinds);
        });
    }
}

#[test]
fn both_ends_of_the_supported_range_are_recorded_as_the_image_has_them() {
    let driver = Kind::ClaudeCode.driver();
    let (oldest, newest) = driver.versions().expect("a range");
    assert_eq!(versions(), BTreeSet::from([oldest.to_owned(), newest.to_owned()]));
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workspace-base");
    for (file, version) in [("requirements.txt", newest), ("requirements-oldest.txt", oldest)] {
        let text = fs::read_to_string(base.join(file)).expect("the image's requirements");
        assert!(text.contains(&format!("({version})")), "{file} is of another version than {version}");
    }
    for version in versions() {
        let all: BTreeSet<String> = recorded(&version).iter().map(|each| format!("{}.jsonl", each.name)).collect();
        assert_eq!(names(&recordings().join(&version)), all, "{version}");
    }
}

/// A recording of a CLI that was started otherwise would prove nothing.
#[test]
fn the_recorded_clis_were_started_as_the_driver_starts_them() {
    for version in versions() {
        for situation in recorded(&version) {
            let options = nagaya_driver::Options { model: "claude-test".into(), ..situation.options };
            let (who, said) = lines(&version, situation.name).remove(0);
            let driver = Kind::ClaudeCode.driver();
            let started = serde_json::to_value(driver.start(&driver.fixed(&options)).arguments).expect("JSON");
            assert_eq!((who.as_str(), said), ("start", started), "{version} {}: record it again", situation.name);
        }
    }
}
